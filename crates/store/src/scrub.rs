//! The scrub: everything on disk is hashed again within `scrub_every`, evenly spread, and whatever is wrong
//! goes into quarantine, so that the next pull fetches it anew. What cannot be read is wrong as well.
//!
//! A pass goes through the folders of blobs in order, and notes on disk where it is: a restart goes on there. A
//! disk that takes no note costs a restart its place, nothing else. [`Store::verify`] does the same at once and as fast as it can.

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

/// How much is read at once, in bytes.
const CHUNK: usize = 1 << 20;
/// The longest sleep: dropping the store waits as long.
const MAX_SLEEP: Duration = Duration::from_millis(500);

/// How far a verification is, and in the end what it came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs looked at, of so many.
    pub blobs: u64,
    pub of_blobs: u64,
    /// Bytes hashed, of so many.
    pub bytes: u64,
    pub of_bytes: u64,
    /// What was wrong and is in quarantine now.
    pub damaged: Vec<Digest>,
}

/// How far the scrub is, as it stands in the store's folder.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pass {
    /// When it began, in seconds since 1970.
    began: u64,
    /// The folder that was done last, below `blobs`.
    done: Option<String>,
}

/// What hashing a file came to.
enum CheckOutcome {
    Intact,
    Damaged,
    /// It went, or something else is in its place.
    Gone,
    Stopped,
}

impl Store {
    /// Hashes everything on disk. `progress` hears of every blob and of every 64 MiB, and may stop it. Blocks
    /// for as long as that takes; what is pulled meanwhile is not disturbed.
    pub fn verify(&self, mut progress: impl FnMut(&Verified) -> ControlFlow<()>) -> Verified {
        /// How often a large blob is spoken of, in bytes.
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

    /// Does one folder of the pass, evenly over its share of `every`, and notes it. `stop` is asked often.
    pub(super) fn scrub_some(&self, pass: &mut Pass, every: Duration, stop: &dyn Fn() -> bool) {
        let all = shards(&self.root);
        let next = all.iter().find(|(_, shard)| {
            let done = pass.done.as_ref();
            done.is_none_or(|done| shard_name(&self.root, shard) > *done)
        });
        let now = unix(SystemTime::now());
        let Some((algorithm, shard)) = next else {
            // Done: the next pass begins when its time has come.
            let ends = pass.began.saturating_add(every.as_secs());
            if now >= ends || pass.began > now {
                if pass.began == now {
                    // It took no time: nothing is there.
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
        // A tenth is left for what a machine that sleeps misses.
        let time = every.mul_f64(0.9) / u32::try_from(all.len()).unwrap_or(u32::MAX);
        if !self.scrub_shard(*algorithm, shard, time, stop) {
            return;
        }
        pass.done = Some(shard_name(&self.root, shard));
        self.write_pass(pass);
    }

    /// Whether it was not stopped.
    fn scrub_shard(
        &self,
        algorithm: Algorithm,
        shard: &Path,
        time: Duration,
        stop: &dyn Fn() -> bool,
    ) -> bool {
        let began = Instant::now();
        let blobs: Vec<_> = blobs_in(algorithm, shard).collect();
        // A file costs something by itself.
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

    /// Hashes one blob; one that is wrong goes into quarantine.
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
        // Meanwhile it may have been fetched anew.
        let same = std::fs::metadata(&path).is_ok_and(|now| (now.dev(), now.ino()) == inode);
        if !same {
            return CheckOutcome::Gone;
        }
        telemetry::metrics::wrong_bytes(telemetry::metrics::CorruptSource::Disk);
        self.blobs.quarantine(digest);
        CheckOutcome::Damaged
    }

    /// The pass that was noted last.
    pub(super) fn read_pass(&self) -> Pass {
        let bytes = std::fs::read(self.root.join("scrub")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    fn write_pass(&self, pass: &Pass) {
        if let Ok(json) = serde_json::to_vec(pass) {
            let written = write_atomic(&self.root.join(PARTIALS), &self.root.join("scrub"), &json);
            if let Err(error) = written {
                warn_degraded("how far the scrub is cannot be noted", &error);
            }
        }
    }
}

/// Whether a file has a digest; `None` if it goes meanwhile. It is open for one piece at a time: `read` hears how
/// many bytes were read, may stop it, and may take days, and nothing that was removed may take room as long.
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
        // What is hashed is not what is used.
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

/// A folder of blobs as a pass remembers it; they compare in their order.
fn shard_name(root: &Path, shard: &Path) -> String {
    let below: PathBuf = root.join("blobs");
    let name = shard.strip_prefix(below).unwrap_or(shard);
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
#[path = "scrub_tests.rs"]
mod tests;
