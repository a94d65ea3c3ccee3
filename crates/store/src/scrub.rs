//! The scrub: hashes every blob again within `scrub_every`, evenly spread, and quarantines damaged ones, so that
//! the next pull fetches them again. An unreadable blob counts as damaged.
//!
//! A pass visits the folders of blobs in order and records its position on disk, where a restart resumes. If the
//! position cannot be written, a restart begins the pass again. [`Store::verify`] does the same at full speed.

#![allow(
    clippy::disallowed_methods,
    reason = "sleeps on a thread of the store, which holds no event loop"
)]

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use super::degraded::warn_degraded;
use super::durable::write_atomic;
use super::layout::{PARTIALS, blob_path};
use super::scan::{blob_digest, read_dir, shards};
use super::space::unix;
use super::{OpenFile, Store};
use oci::digest::{Algorithm, Digest, Hasher};

/// The size of one read, in bytes.
const CHUNK: usize = 1 << 20;
/// The longest sleep: dropping the store waits as long.
const MAX_SLEEP: Duration = Duration::from_millis(500);

/// The progress of a verification, and its result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Checked blobs, and all blobs.
    pub blobs: u64,
    /// All blobs to check.
    pub of_blobs: u64,
    /// Hashed bytes, and all bytes.
    pub bytes: u64,
    /// The bytes of all of them.
    pub of_bytes: u64,
    /// The damaged blobs, which are in quarantine now.
    pub damaged: Vec<Digest>,
}

/// The position of the scrub, as stored on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pass {
    /// When the pass began, in seconds since 1970.
    began: u64,
    /// The last finished folder, below `blobs`.
    done: Option<String>,
}

/// The outcome of checking a blob.
enum CheckOutcome {
    Intact,
    Damaged,
    /// The file was removed or replaced.
    Gone,
    Stopped,
}

impl Store {
    /// Hashes every blob. `progress` is called after every blob and every 64 MiB, and may stop it. Blocks until it
    /// is done; pulls go on meanwhile.
    pub fn verify(&self, mut progress: impl FnMut(&Verified) -> ControlFlow<()>) -> Verified {
        /// How often progress within a blob is reported, in bytes.
        const STEP: u64 = 64 << 20;

        let shards = shards(&self.root);
        let mut verified = Verified::default();
        for (algorithm, shard) in &shards {
            for (_, size) in blobs_in(*algorithm, shard) {
                verified.of_blobs += 1;
                verified.of_bytes += size;
            }
        }
        for (algorithm, shard) in &shards {
            for (digest, _) in blobs_in(*algorithm, shard) {
                let mut unreported = 0;
                let outcome = self.check(&digest, |read| {
                    verified.bytes += read;
                    unreported += read;
                    if unreported < STEP {
                        return ControlFlow::Continue(());
                    }
                    unreported = 0;
                    progress(&verified)
                });
                match outcome {
                    CheckOutcome::Intact | CheckOutcome::Gone => {}
                    CheckOutcome::Damaged => verified.damaged.push(digest),
                    CheckOutcome::Stopped => return verified,
                }
                verified.blobs += 1;
                if progress(&verified).is_break() {
                    return verified;
                }
            }
        }
        verified
    }

    /// Scrubs one folder of the pass, evenly over its share of `every`, and records it. Polls `stop` often.
    pub(super) fn scrub_some(&self, pass: &mut Pass, every: Duration, stop: &dyn Fn() -> bool) {
        let all = shards(&self.root);
        let next = all.iter().find(|(_, shard)| {
            let done = pass.done.as_ref();
            done.is_none_or(|done| shard_name(&self.root, shard) > *done)
        });
        let now = unix(SystemTime::now());
        let Some((algorithm, shard)) = next else {
            // The pass is complete: wait for the next one.
            let ends = pass.began.saturating_add(every.as_secs());
            if now >= ends || pass.began > now {
                if pass.began == now {
                    // The store is empty.
                    std::thread::sleep(MAX_SLEEP);
                }
                *pass = Pass {
                    began: now,
                    done: None,
                };
                self.write_pass(pass);
            } else {
                std::thread::sleep(MAX_SLEEP.min(Duration::from_secs(ends - now)));
            }
            return;
        };
        if pass.done.is_none() {
            pass.began = now;
        }
        // A tenth is left for time that the machine is suspended.
        let time = every.mul_f64(0.9) / u32::try_from(all.len()).unwrap_or(u32::MAX);
        if !self.scrub_shard(*algorithm, shard, time, stop) {
            return;
        }
        pass.done = Some(shard_name(&self.root, shard));
        self.write_pass(pass);
    }

    /// Scrubs one folder; false when stopped.
    fn scrub_shard(
        &self,
        algorithm: Algorithm,
        shard: &Path,
        time: Duration,
        stop: &dyn Fn() -> bool,
    ) -> bool {
        let began = Instant::now();
        let blobs: Vec<_> = blobs_in(algorithm, shard).collect();
        // Opening a file costs about as much as reading a block.
        let cost = |size: u64| size + 4096;
        let total: u64 = blobs.iter().map(|(_, size)| cost(*size)).sum();
        let mut done = 0;
        #[expect(clippy::cast_precision_loss, reason = "a share of a time")]
        let due = |done: u64| time.mul_f64(done.min(total) as f64 / total.max(1) as f64);
        for (digest, size) in &blobs {
            let before = done;
            let outcome = self.check(digest, |read| {
                done += read;
                let due = due(done);
                loop {
                    if stop() {
                        return ControlFlow::Break(());
                    }
                    let early = due.saturating_sub(began.elapsed());
                    if early.is_zero() {
                        return ControlFlow::Continue(());
                    }
                    std::thread::sleep(early.min(MAX_SLEEP));
                }
            });
            if matches!(outcome, CheckOutcome::Stopped) {
                return false;
            }
            done = before + cost(*size);
        }
        true
    }

    /// Hashes one blob, and quarantines it if it is damaged.
    fn check(&self, digest: &Digest, read: impl FnMut(u64) -> ControlFlow<()>) -> CheckOutcome {
        let path = blob_path(&self.root, digest);
        let Ok(meta) = std::fs::metadata(&path) else {
            return CheckOutcome::Gone;
        };
        let inode = (meta.dev(), meta.ino());
        let open = || {
            let file = OpenFile::blob(File::open(&path)?, self.space.hold(digest));
            let meta = file.metadata()?;
            Ok(((meta.dev(), meta.ino()) == inode).then_some(file))
        };
        let right = match hash(open, digest, read) {
            Ok(ControlFlow::Continue(Some(right))) => right,
            Ok(ControlFlow::Continue(None)) => return CheckOutcome::Gone,
            Ok(ControlFlow::Break(())) => return CheckOutcome::Stopped,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return CheckOutcome::Gone,
            Err(error) => {
                warn_degraded("a blob cannot be read", &error);
                false
            }
        };
        if right {
            self.space.index(|index| index.set_verified(digest));
            return CheckOutcome::Intact;
        }
        // It may have been fetched again meanwhile.
        let same = std::fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == inode);
        if !same {
            return CheckOutcome::Gone;
        }
        telemetry::metrics::wrong_bytes(telemetry::metrics::CorruptSource::Disk);
        self.blobs.quarantine(digest);
        CheckOutcome::Damaged
    }

    /// Reads the stored pass; a new one if there is none.
    pub(super) fn read_pass(&self) -> Pass {
        let bytes = std::fs::read(self.root.join("scrub")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn write_pass(&self, pass: &Pass) {
        if let Ok(json) = serde_json::to_vec(pass) {
            let written = write_atomic(&self.root.join(PARTIALS), &self.root.join("scrub"), &json);
            if let Err(error) = written {
                warn_degraded("the position of the scrub cannot be written", &error);
            }
        }
    }
}

/// Whether a file has a digest; `None` if it is removed meanwhile. The file is open for one chunk at a time: `read` is
/// called with the bytes read, may stop the hashing, and may sleep for days, during which no removed file may take space.
fn hash(
    open: impl Fn() -> io::Result<Option<OpenFile>>,
    digest: &Digest,
    mut read: impl FnMut(u64) -> ControlFlow<()>,
) -> io::Result<ControlFlow<(), Option<bool>>> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let Some(file) = open()? else {
            return Ok(ControlFlow::Continue(None));
        };
        // Hashing is not a use: keep the page cache for clients.
        let _ = fadvise(&*file, 0, None, Advice::NoReuse);
        let length = file.read_at(&mut buffer, offset)?;
        drop(file);
        if length == 0 {
            return Ok(ControlFlow::Continue(Some(hasher.finish() == *digest)));
        }
        hasher.update(&buffer[..length]);
        offset += length as u64;
        if read(length as u64).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
}

/// The blobs in a folder, with their sizes in bytes.
fn blobs_in(algorithm: Algorithm, shard: &Path) -> impl Iterator<Item = (Digest, u64)> {
    read_dir(shard).filter_map(move |entry| {
        let digest = blob_digest(algorithm, &entry)?;
        Some((digest, entry.metadata().ok()?.len()))
    })
}

/// The name of a folder of blobs in a pass; names sort in the order of the pass.
fn shard_name(root: &Path, shard: &Path) -> String {
    let below: PathBuf = root.join("blobs");
    let name = shard.strip_prefix(below).unwrap_or(shard);
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
