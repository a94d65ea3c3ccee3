//! The queue of one endpoint: events that wait for it, in order, a file each, so that a restart keeps them.
//!
//! A power cut may lose the events of the last seconds. An event that the disk does not take waits in memory.

use std::collections::VecDeque;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use telemetry::metrics::Webhook;

/// How many events wait for an endpoint at most.
pub const CAPACITY: usize = 10_000;
/// The name of a file that is being written.
const UNFINISHED: &str = "unfinished";
const EXTENSION: &str = "json";

/// The events that wait for one endpoint.
#[derive(Debug)]
pub struct Queue {
    folder: PathBuf,
    state: Mutex<State>,
    news: Notify,
    pub counted: Webhook,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    next: u64,
}

/// An event that waits.
#[derive(Clone, Debug)]
struct Waiting {
    number: u64,
    /// Where the disk did not take it.
    in_memory: Option<Vec<u8>>,
}

/// Whether an event was queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    Waiting,
    /// The queue is full.
    Dropped,
}

impl Queue {
    /// Opens the queue in a folder, which is created (mode 0700).
    ///
    /// # Errors
    /// The disk's.
    pub fn open(folder: &Path, counted: Webhook) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            numbers.extend(number_of(&entry?.path()));
        }
        numbers.sort_unstable();
        let next = numbers.last().map_or(0, |last| last + 1);
        counted.queued(numbers.len());
        let waiting = |number| Waiting {
            number,
            in_memory: None,
        };
        Ok(Self {
            folder: folder.to_owned(),
            state: Mutex::new(State {
                waiting: numbers.into_iter().map(waiting).collect(),
                next,
            }),
            news: Notify::new(),
            counted,
        })
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.state().waiting.len()
    }

    /// Appends an event, unless the queue is full. Blocks on the disk; one thread calls it.
    pub fn push(&self, event: &[u8]) -> Queued {
        let number = {
            let state = self.state();
            if state.waiting.len() >= CAPACITY {
                return Queued::Dropped;
            }
            state.next
        };
        let in_memory = self.write(number, event).err().map(|error| {
            tracing::debug!(%error, "cannot write an event for a webhook; it waits in memory");
            event.to_vec()
        });
        let mut state = self.state();
        state.next = number + 1;
        state.waiting.push_back(Waiting { number, in_memory });
        self.counted.queued(1);
        drop(state);
        self.news.notify_one();
        Queued::Waiting
    }

    /// The number and the bytes of the first event; waits until there is one. The bytes are `None` where their file is
    /// missing, and an error where it cannot be read.
    pub async fn first(&self) -> (u64, io::Result<Option<Vec<u8>>>) {
        let first = loop {
            if let Some(first) = self.state().waiting.front().cloned() {
                break first;
            }
            self.news.notified().await;
        };
        let bytes = match first.in_memory {
            Some(bytes) => Ok(Some(bytes)),
            None => match tokio::fs::read(self.path(first.number)).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            },
        };
        (first.number, bytes)
    }

    /// Removes the first event, which has this number.
    pub async fn remove(&self, number: u64) {
        // First the file: a restart must not send the event again.
        let removed = tokio::fs::remove_file(self.path(number)).await;
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "cannot delete a delivered event; it is sent again after a restart");
        }
        self.state().waiting.pop_front();
        self.counted.removed();
    }

    fn write(&self, number: u64, event: &[u8]) -> io::Result<()> {
        let unfinished = self.folder.join(UNFINISHED);
        std::fs::write(&unfinished, event)?;
        std::fs::rename(unfinished, self.path(number))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:020}.{EXTENSION}"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.counted.closed(self.len());
    }
}

/// The number of an event's file; `None` for other files.
fn number_of(path: &Path) -> Option<u64> {
    let is_event = path.extension().is_some_and(|is| is == EXTENSION);
    let stem = path.file_stem().filter(|_| is_event)?.to_str()?;
    stem.parse().ok().filter(|_| stem.len() == 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(folder: &Path) -> Queue {
        Queue::open(folder, Webhook::of("hook.lan")).expect("a queue")
    }

    async fn first(queue: &Queue) -> (u64, String) {
        let (number, bytes) = queue.first().await;
        let bytes = bytes.expect("readable").expect("an event");
        (number, String::from_utf8(bytes).expect("text"))
    }

    #[tokio::test]
    async fn events_wait_in_order_across_restarts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("queue");
        let queue = open(&path);
        for event in ["a", "b", "c"] {
            assert_eq!(queue.push(event.as_bytes()), Queued::Waiting);
        }
        assert_eq!(first(&queue).await, (0, "a".to_owned()));
        assert_eq!(first(&queue).await, (0, "a".to_owned()));
        queue.remove(0).await;
        assert_eq!(first(&queue).await, (1, "b".to_owned()));
        std::fs::write(path.join(UNFINISHED), "half").expect("writable");
        std::fs::write(path.join("7.json"), "foreign").expect("writable");
        let queue = open(&path);
        assert_eq!(queue.len(), 2);
        queue.push(b"d");
        for (number, event) in [(1, "b"), (2, "c"), (3, "d")] {
            assert_eq!(first(&queue).await, (number, event.to_owned()));
            queue.remove(number).await;
        }
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn events_that_the_disk_does_not_take_wait_in_memory() {
        let folder = tempfile::tempdir().expect("a folder");
        let queue = open(&folder.path().join("queue"));
        queue.push(b"a");
        std::fs::remove_dir_all(folder.path().join("queue")).expect("removed");
        queue.push(b"b");
        let (number, missing) = queue.first().await;
        assert_eq!(missing.expect("known"), None);
        queue.remove(number).await;
        assert_eq!(first(&queue).await, (1, "b".to_owned()));
    }

    #[test]
    fn full_queue_drops_the_newest() {
        let folder = tempfile::tempdir().expect("a folder");
        let queue = open(folder.path());
        for number in 0..CAPACITY as u64 {
            let waiting = Waiting {
                number,
                in_memory: Some(Vec::new()),
            };
            queue.state().waiting.push_back(waiting);
        }
        assert_eq!(queue.push(b"new"), Queued::Dropped);
        assert_eq!(queue.len(), CAPACITY);
    }
}
