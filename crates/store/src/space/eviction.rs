//! Eviction: frees space for fills, and headroom for the next ones.

#![allow(
    clippy::disallowed_methods,
    reason = "eviction runs on blocking threads, which hold no event loop"
)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::entry::BlobKind;
use super::{Full, Ledger, RESERVE_TIMEOUT, Space, unix};
use crate::degraded::warn_degraded;
use crate::layout::blob_path;
use oci::digest::Digest;
use telemetry::alerts::{self, AlertKind};

/// How many blobs are evicted at once.
const SLICE: usize = 64;
/// How often to check whether the file system reports freed blocks, and the wait before each check.
const MAX_CHECKS: u32 = 5;
const CHECK_DELAY: Duration = Duration::from_millis(20);

/// The outcome of trimming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trimmed {
    Enough,
    /// There may be more to do.
    More,
    /// The disk refuses to delete, or does not report its free space.
    Refused,
}

/// A file that is to be evicted.
#[derive(Debug)]
enum Victim {
    Blob(Digest, u64),
    Quarantined(PathBuf, u64),
}

impl Victim {
    fn bytes(&self) -> u64 {
        match self {
            Self::Blob(_, bytes) | Self::Quarantined(_, bytes) => *bytes,
        }
    }
}

impl Ledger {
    /// Takes the first victims out of the ledger, up to `bytes` or a slice.
    fn take_victims(&mut self, bytes: u64) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut sum = 0;
        while sum < bytes && victims.len() < SLICE {
            let victim = match self.quarantined.pop() {
                Some((path, bytes)) => Victim::Quarantined(path, bytes),
                None => match self.index.pop_oldest() {
                    Some((digest, bytes)) => Victim::Blob(digest, bytes),
                    None => break,
                },
            };
            sum += victim.bytes();
            victims.push(victim);
        }
        self.removing += sum;
        victims
    }
}

impl Space {
    /// Reserves `more` bytes, evicting only where that helps: no blob is evicted for a disk that others filled, or
    /// that does not report its free space.
    pub(super) fn take(&self, more: u64) -> Result<(), Full> {
        if !self.wait_for_scan() {
            return Err(Full { bytes: more });
        }
        let taken = self.take_evicting(more);
        if taken.is_err() {
            alerts::raise(
                AlertKind::DiskFull,
                "",
                "the store is full and nothing can be evicted: content is served but not cached",
            );
        }
        taken
    }

    fn take_evicting(&self, more: u64) -> Result<(), Full> {
        let full = Full { bytes: more };
        let began = Instant::now();
        let mut checks = 0;
        loop {
            let written = self.ledger().written;
            // Do not query the disk under the lock that every hit takes.
            let limits = self.limits();
            let disk = limits.free_space(&self.root).ok_or(full)?;
            let mut ledger = self.ledger();
            let too_much = (ledger.used().saturating_add(more)).saturating_sub(limits.max_size);
            // The disk may report bytes written since then, or not.
            let since = ledger.written - written;
            let wanted = ledger.unwritten.saturating_add(since);
            let missing = disk.missing(wanted.saturating_add(more));
            let short = too_much.max(missing);
            if short == 0 {
                ledger.reserved += more;
                ledger.unwritten += more;
                let tight = ledger.used() > limits.max_size - limits.headroom() / 2;
                drop(ledger);
                if tight {
                    self.wake();
                }
                return Ok(());
            }
            if short > ledger.evictable() || began.elapsed() > RESERVE_TIMEOUT {
                return Err(full);
            }
            let victims = ledger.take_victims(short);
            drop(ledger);
            if victims.is_empty() {
                return Err(full);
            }
            let bytes: u64 = victims.iter().map(Victim::bytes).sum();
            self.remove(victims).map_err(|()| full)?;
            // Some file systems free blocks later: do not evict everything meanwhile.
            let freed = limits
                .free_space(&self.root)
                .ok_or(full)?
                .free
                .saturating_sub(disk.free);
            if too_much == 0 && freed < bytes / 2 {
                checks += 1;
                if checks > MAX_CHECKS {
                    return Err(full);
                }
                std::thread::sleep(CHECK_DELAY);
            }
        }
    }

    /// Evicts a slice of what exceeds the limits and the headroom. Blocks on the disk; for the background.
    pub(crate) fn trim(&self) -> Trimmed {
        let limits = self.limits();
        let Some(disk) = limits.free_space(&self.root) else {
            return Trimmed::Refused;
        };
        let mut ledger = self.ledger();
        let used = ledger.used();
        let too_much = if used > limits.max_size - limits.headroom() / 2 {
            used - (limits.max_size - limits.headroom())
        } else {
            0
        };
        let missing = disk.missing(ledger.unwritten);
        let missing = if missing > ledger.evictable() {
            0
        } else {
            missing
        };
        let short = too_much.max(missing);
        if !ledger.scanned || short == 0 {
            return Trimmed::Enough;
        }
        let victims = ledger.take_victims(short);
        drop(ledger);
        if victims.is_empty() {
            return Trimmed::Enough;
        }
        match self.remove(victims) {
            Err(()) => Trimmed::Refused,
            // The next check sees blocks that the file system frees later.
            Ok(()) if too_much > 0 => Trimmed::More,
            Ok(()) => Trimmed::Enough,
        }
    }

    /// Whether the store exceeds `max_size`.
    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.limits().max_size
    }

    /// Removes the files of blobs that were taken out of the index.
    pub(crate) fn remove_blobs(&self, blobs: Vec<(Digest, u64)>) -> Result<(), ()> {
        self.ledger().removing += blobs.iter().map(|(_, bytes)| bytes).sum::<u64>();
        let victims = blobs.into_iter();
        self.remove(
            victims
                .map(|(digest, bytes)| Victim::Blob(digest, bytes))
                .collect(),
        )
    }

    /// Removes the files of victims. Those that the disk refuses to delete are indexed again.
    fn remove(&self, victims: Vec<Victim>) -> Result<(), ()> {
        let mut outcome = Ok(());
        for victim in victims {
            let path = match &victim {
                Victim::Blob(digest, _) => blob_path(&self.root, digest),
                Victim::Quarantined(path, _) => path.clone(),
            };
            let removed = std::fs::remove_file(&path);
            let mut ledger = self.ledger();
            ledger.removing -= victim.bytes();
            drop(ledger);
            match removed {
                Ok(()) => {
                    if let Victim::Blob(digest, _) = &victim
                        && self.index(|index| index.contains(digest))
                    {
                        // The blob was opened just before: its readers can read on, but it is gone.
                        self.reindex(digest);
                    }
                    telemetry::metrics::evicted(victim.bytes());
                    tracing::debug!(?victim, "evicted");
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    warn_degraded("a blob cannot be evicted", &error);
                    outcome = Err(());
                    match victim {
                        Victim::Quarantined(path, bytes) => {
                            self.ledger().quarantined.push((path, bytes));
                        }
                        Victim::Blob(digest, _) => {
                            if let Ok(meta) = std::fs::metadata(&path) {
                                let used = meta.modified().map_or(0, unix);
                                let kind = BlobKind::Layer;
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
