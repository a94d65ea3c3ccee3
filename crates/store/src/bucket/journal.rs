//! The journal of pending withdrawals from the bucket: a killed gateway completes them after its next start, and
//! does not use these objects before.
//!
//! One line each: `+<key>` begins a withdrawal, `-<key>` completes it, `=<time>` distrusts records confirmed up to
//! then. The first line names the bucket. A line truncated by a crash is ignored.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::durable::write_atomic;
use crate::layout::PARTIALS;

/// How many keys are stored; few in tests, since each is synced to the disk.
pub(super) const CAPACITY: usize = if cfg!(test) { 50 } else { 10_000 };
/// The longest file that is read, in bytes: twice as many lines as keys, each as long as a key may be.
const MAX_LENGTH: u64 = 2 * CAPACITY as u64 * 1100;

/// Pending withdrawals.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Withdrawals {
    /// Keys of objects to delete.
    pub pending: BTreeSet<String>,
    /// Records confirmed up to then are not used, in seconds since 1970.
    pub distrusted_until: u64,
}

/// The journal file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Where it is written before it is renamed.
    staging: PathBuf,
    /// Names the bucket.
    bucket_id: String,
    file: File,
    /// The number of its lines.
    lines: usize,
}

impl Journal {
    /// Opens or creates the journal in `root`, and reads the withdrawals from this bucket. Blocks.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(root: &Path, bucket_id: &str) -> io::Result<(Self, Withdrawals)> {
        let (path, staging) = (root.join("outbox"), root.join(PARTIALS));
        let mut text = Vec::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(MAX_LENGTH).read_to_end(&mut text)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let withdrawals = read(&String::from_utf8_lossy(&text), bucket_id);
        let file = rewritten(&path, &staging, bucket_id, &withdrawals)?;
        let journal = Self {
            path,
            staging,
            bucket_id: bucket_id.to_owned(),
            file,
            lines: withdrawals.pending.len(),
        };
        Ok((journal, withdrawals))
    }

    /// Records the withdrawal of a key durably.
    ///
    /// # Errors
    /// The disk's.
    pub fn withdraw(&mut self, key: &str) -> io::Result<()> {
        self.line(&format!("+{key}\n"))?;
        self.file.sync_data()
    }

    /// Records durably that records confirmed up to a time are not used.
    ///
    /// # Errors
    /// The disk's.
    pub fn distrust(&mut self, until: u64) -> io::Result<()> {
        self.line(&format!("={until}\n"))?;
        self.file.sync_data()
    }

    /// Records that a withdrawal is complete. If this is lost, the key is withdrawn once more.
    ///
    /// # Errors
    /// The disk's.
    pub fn complete(&mut self, key: &str) -> io::Result<()> {
        self.line(&format!("-{key}\n"))
    }

    /// Rewrites the journal when most of its withdrawals are complete.
    ///
    /// # Errors
    /// The disk's.
    pub fn compact(&mut self, withdrawals: &Withdrawals) -> io::Result<()> {
        if self.lines > withdrawals.pending.len() + CAPACITY / 2 {
            self.file = rewritten(&self.path, &self.staging, &self.bucket_id, withdrawals)?;
            self.lines = withdrawals.pending.len();
        }
        Ok(())
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.lines += 1;
        self.file.write_all(line.as_bytes())
    }
}

/// Writes a journal of these withdrawals, and opens it for appending.
fn rewritten(
    path: &Path,
    staging: &Path,
    bucket_id: &str,
    withdrawals: &Withdrawals,
) -> io::Result<File> {
    let mut text = format!("{bucket_id}\n={}\n", withdrawals.distrusted_until);
    for key in &withdrawals.pending {
        text.extend(["+", key, "\n"]);
    }
    write_atomic(staging, path, text.as_bytes())?;
    File::options().append(true).open(path)
}

/// Reads the withdrawals of a bucket; none if the journal is another bucket's.
fn read(text: &str, bucket_id: &str) -> Withdrawals {
    let mut withdrawals = Withdrawals::default();
    // The last line is truncated unless it ends with a line break.
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut lines = complete.lines();
    if lines.next() != Some(bucket_id) {
        return withdrawals;
    }
    for line in lines {
        let Some((kind, breaker)) = line.split_at_checked(1) else {
            continue;
        };
        match kind {
            "+" if withdrawals.pending.len() < CAPACITY => {
                withdrawals.pending.insert(breaker.to_owned());
            }
            "-" => {
                withdrawals.pending.remove(breaker);
            }
            "=" => {
                let until = breaker.parse().unwrap_or(0);
                withdrawals.distrusted_until = withdrawals.distrusted_until.max(until);
            }
            _ => {}
        }
    }
    withdrawals
}

#[cfg(test)]
mod tests {
    use super::*;

    fn withdrawals(pending: &[&str], distrusted_until: u64) -> Withdrawals {
        Withdrawals {
            pending: pending.iter().map(|&key| key.to_owned()).collect(),
            distrusted_until,
        }
    }

    #[test]
    fn journal_lists_pending_withdrawals() {
        for (text, expected) in [
            ("", withdrawals(&[], 0)),
            ("s3 a\n", withdrawals(&[], 0)),
            ("s3 b\n+x\n", withdrawals(&[], 0)),
            ("s3 a\n+x\n+y\n-x\n", withdrawals(&["y"], 0)),
            ("s3 a\n+x\n-x\n+x\n", withdrawals(&["x"], 0)),
            ("s3 a\n=7\n+x\n=5\n", withdrawals(&["x"], 7)),
            ("s3 a\n+x\n+a key that was cut o", withdrawals(&["x"], 0)),
            ("s3 a\n+x\n-", withdrawals(&["x"], 0)),
            ("s3 a\n+x\n\n?\n+\u{e9}\n", withdrawals(&["x", "\u{e9}"], 0)),
        ] {
            assert_eq!(read(text, "s3 a"), expected, "{text:?}");
        }
    }

    #[test]
    fn pending_withdrawals_survive_a_restart_and_complete_ones_are_compacted() {
        let root = tempfile::tempdir().expect("a folder");
        let open = || Journal::open(root.path(), "s3 a").expect("writable");
        let (mut journal, mut pending) = open();
        assert_eq!(pending, Withdrawals::default());
        for number in 0..CAPACITY {
            let key = format!("k{number}");
            journal.withdraw(&key).expect("writable");
            pending.pending.insert(key.clone());
            if number > 0 {
                journal.complete(&key).expect("writable");
                pending.pending.remove(&key);
            }
            journal.compact(&pending).expect("writable");
        }
        journal.distrust(9).expect("writable");
        drop(journal);
        assert_eq!(open().1, withdrawals(&["k0"], 9));
        let size = std::fs::metadata(root.path().join("outbox")).expect("a file");
        assert!(size.len() < 100, "{}", size.len());
        let (_, other) = Journal::open(root.path(), "s3 b").expect("writable");
        assert_eq!(other, Withdrawals::default());
    }
}
