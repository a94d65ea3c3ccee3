//! Threads that serve connections. Each runs a scheduler of its own, and a connection stays on one of them: a request
//! that needs no disk is read, answered and written without waking another thread.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// A set of threads. Cloning is cheap; the threads end when the last clone is dropped, and cut off what still runs.
#[derive(Clone, Debug)]
pub struct Workers {
    workers: Arc<[Worker]>,
    _running: watch::Sender<()>,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
}

/// A connection's part in the load of its thread.
#[derive(Debug)]
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    /// Starts `threads` threads, at least one.
    ///
    /// # Errors
    /// When the system has no thread or no descriptor left.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (running, ended) = watch::channel(());
        let workers = (0..threads.max(1)).map(|_| Worker::start(ended.clone()));
        Ok(Self {
            workers: workers.collect::<io::Result<_>>()?,
            _running: running,
        })
    }

    /// Runs what `connection` makes on the thread with the fewest connections. It is called there, so that the sockets
    /// that it opens are polled by that thread.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(
        &self,
        connection: impl FnOnce() -> F + Send + 'static,
    ) {
        let load = |worker: &&Worker| worker.connections.load(Ordering::Relaxed);
        let Some(worker) = self.workers.iter().min_by_key(load) else {
            return;
        };
        worker.connections.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(worker.connections.clone());
        worker.handle.spawn(async move {
            let _counted = counted;
            connection().await;
        });
    }
}

impl Worker {
    fn start(mut ended: watch::Receiver<()>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .thread_name("serve-disk")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let thread = std::thread::Builder::new().name("serve".into());
        thread.spawn(move || {
            // Nothing is ever sent: it ends with its last sender.
            runtime.block_on(async { while ended.changed().await.is_ok() {} });
            runtime.shutdown_background();
        })?;
        Ok(Self {
            handle,
            connections: Arc::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::mpsc;
    use std::thread::ThreadId;

    #[test]
    fn connections_are_spread_over_the_threads_and_stay_there() {
        let workers = Workers::start(3).expect("threads");
        let (tell, threads) = mpsc::sync_channel::<(ThreadId, ThreadId)>(6);
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        for _ in 0..6 {
            let (tell, gate) = (tell.clone(), gate.clone());
            workers.spawn(move || {
                let first = std::thread::current().id();
                async move {
                    let _ = gate.acquire().await;
                    let _ = tell.send((first, std::thread::current().id()));
                }
            });
        }
        gate.add_permits(6);
        let mut per_thread = HashMap::new();
        for (first, last) in threads.iter().take(6) {
            assert_eq!(first, last);
            *per_thread.entry(first).or_insert(0) += 1;
        }
        assert_eq!(per_thread.into_values().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[test]
    fn an_ended_connection_leaves_its_place() {
        let workers = Workers::start(2).expect("threads");
        let (tell, ended) = mpsc::sync_channel(1);
        for _ in 0..100 {
            let tell = tell.clone();
            workers.spawn(move || async move {
                let _ = tell.send(());
            });
            ended.recv().expect("it ran");
        }
        drop(tell);
        let load = || -> usize {
            let connections = |worker: &Worker| worker.connections.load(Ordering::Relaxed);
            workers.workers.iter().map(connections).sum()
        };
        while load() > 0 {
            std::thread::yield_now();
        }
    }
}
