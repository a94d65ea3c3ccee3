//! Eviction: frees space for fills, and keeps some ready for the next ones.

#![allow(
    clippy::disallowed_methods,
    reason = "eviction runs on blocking threads, which hold no event loop"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::entry::Kind;
use super::{Account, Full, Space, WAIT, unix};
use crate::degraded::warn_degraded;
use crate::layout::blob_path;
use oci::digest::Digest;

/// How many blobs are evicted at once.
const SLICE: usize = 64;
/// How often a file system that freed blocks may fail to report it, and the wait before each look.
const LOOKS: u32 = 5;
const LOOK_AFTER: Duration = Duration::from_millis(20);

/// The outcome of trimming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trimmed {
    Enough,
    /// There may be more to do.
    More,
    /// The disk refuses to delete, or cannot say how full it is.
    Refused,
}

/// A file that is to be evicted.
#[derive(Debug)]
enum Victim {
    Blob(Digest, u64),
    Aside(PathBuf, u64),
}

impl Victim {
    fn bytes(&self) -> u64 {
        match self {
            Self::Blob(_, bytes) | Self::Aside(_, bytes) => *bytes,
        }
    }
}

impl Account {
    /// Gives up what may go first, until that are `bytes` or a slice of it.
    fn give_up(&mut self, bytes: u64) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut sum = 0;
        while sum < bytes && victims.len() < SLICE {
            let victim = match self.aside.pop() {
                Some((path, bytes)) => Victim::Aside(path, bytes),
                None => match self.index.pop_oldest() {
                    Some((digest, bytes)) => Victim::Blob(digest, bytes),
                    None => break,
                },
            };
            sum += victim.bytes();
            victims.push(victim);
        }
        self.leaving += sum;
        victims
    }
}

impl Space {
    /// Takes `more` bytes, evicting only where that can help: a disk that others
    /// filled, or that cannot say how full it is, costs no blob.
    pub(super) fn take(&self, more: u64) -> Result<(), Full> {
        let full = Full { bytes: more };
        if !self.soon_settled() {
            return Err(full);
        }
        let began = Instant::now();
        let mut looks = 0;
        loop {
            let written = self.account().written;
            // No look at the disk under the lock that every hit takes.
            let disk = Disk::of(&self.root, self.min_free).ok_or(full)?;
            let mut account = self.account();
            let too_much = (account.used().saturating_add(more)).saturating_sub(self.max_size);
            // What was written since that look may be in it or not.
            let since = account.written - written;
            let wanted = account.unwritten.saturating_add(since);
            let missing = disk.missing(wanted.saturating_add(more));
            let short = too_much.max(missing);
            if short == 0 {
                account.reserved += more;
                account.unwritten += more;
                let tight = account.used() > self.max_size - self.ready() / 2;
                drop(account);
                if tight {
                    self.wake();
                }
                return Ok(());
            }
            if short > account.evictable() || began.elapsed() > WAIT {
                return Err(full);
            }
            let victims = account.give_up(short);
            drop(account);
            if victims.is_empty() {
                return Err(full);
            }
            let bytes: u64 = victims.iter().map(Victim::bytes).sum();
            self.remove(victims).map_err(|()| full)?;
            // Some file systems free their blocks later: what they owe must not cost everything.
            let freed = Disk::of(&self.root, self.min_free)
                .ok_or(full)?
                .free
                .saturating_sub(disk.free);
            if too_much == 0 && freed < bytes / 2 {
                looks += 1;
                if looks > LOOKS {
                    return Err(full);
                }
                std::thread::sleep(LOOK_AFTER);
            }
        }
    }

    /// Evicts a slice of what is too much, and of what makes room for the next fills. Blocks on the disk; for the
    /// background.
    pub(crate) fn trim(&self) -> Trimmed {
        let Some(disk) = Disk::of(&self.root, self.min_free) else {
            return Trimmed::Refused;
        };
        let mut account = self.account();
        let used = account.used();
        let too_much = if used > self.max_size - self.ready() / 2 {
            used - (self.max_size - self.ready())
        } else {
            0
        };
        let missing = disk.missing(account.unwritten);
        let missing = if missing > account.evictable() {
            0
        } else {
            missing
        };
        let short = too_much.max(missing);
        if !account.settled || short == 0 {
            return Trimmed::Enough;
        }
        let victims = account.give_up(short);
        drop(account);
        if victims.is_empty() {
            return Trimmed::Enough;
        }
        match self.remove(victims) {
            Err(()) => Trimmed::Refused,
            // What a file system frees later is seen at the next look.
            Ok(()) if too_much > 0 => Trimmed::More,
            Ok(()) => Trimmed::Enough,
        }
    }

    /// Whether there is more than there may be.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.max_size
    }

    /// Removes blobs that the index gave up.
    pub(crate) fn remove_blobs(&self, blobs: Vec<(Digest, u64)>) -> Result<(), ()> {
        self.account().leaving += blobs.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let victims = blobs.into_iter();
        self.remove(
            victims
                .map(|(digest, bytes)| Victim::Blob(digest, bytes))
                .collect(),
        )
    }

    /// Removes what was given up. What the disk does not let go stays.
    fn remove(&self, victims: Vec<Victim>) -> Result<(), ()> {
        let mut outcome = Ok(());
        for victim in victims {
            let path = match &victim {
                Victim::Blob(digest, _) => blob_path(&self.root, digest),
                Victim::Aside(path, _) => path.clone(),
            };
            let removed = std::fs::remove_file(&path);
            let mut account = self.account();
            account.leaving -= victim.bytes();
            drop(account);
            match removed {
                Ok(()) => {
                    if let Victim::Blob(digest, _) = &victim
                        && self.index(|index| index.knows(digest))
                    {
                        // It was opened just before: its readers read on, but it is not found any more.
                        self.lost(digest);
                    }
                    telemetry::metrics::evicted(victim.bytes());
                    tracing::debug!(?victim, "evicted");
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn_degraded("a blob cannot be evicted", &error);
                    outcome = Err(());
                    match victim {
                        Victim::Aside(path, bytes) => self.account().aside.push((path, bytes)),
                        Victim::Blob(digest, _) => {
                            if let Ok(meta) = std::fs::metadata(&path) {
                                let used = meta.modified().map_or(0, unix);
                                let kind = Kind::Layer;
                                self.index(|index| {
                                    index.insert_oldest(digest, meta.len(), used, kind);
                                });
                            }
                        }
                    }
                }
            }
        }
        outcome
    }
}
