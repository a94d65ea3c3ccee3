//! What is still to be taken back from the bucket, on disk: a gateway that is killed does it after its next start,
//! and believes none of it before.
//!
//! One line for each fact: `+<key>` is to be taken back, `-<key>` was, `=<time>` says that what was confirmed up to
//! then is not believed. The first line names the bucket. A line that a crash cut off says nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::durable::write_atomic;
use crate::layout::PARTIALS;

/// How many keys are remembered; few in tests, since each is synced to the disk.
pub(super) const CAPACITY: usize = if cfg!(test) { 50 } else { 10_000 };
/// The longest file that is read, in bytes: twice as many lines as keys, each as long as a key may be.
const MAX_LENGTH: u64 = 2 * CAPACITY as u64 * 1100;

/// The withdrawals.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Withdrawals {
    /// Keys that are to be taken back.
    pub pending: BTreeSet<String>,
    /// What was confirmed up to then is not believed, in seconds since 1970.
    pub distrusted_until: u64,
}

/// The file with them.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// Where it is before it has its name.
    staging: PathBuf,
    /// Names the bucket.
    bucket_id: String,
    file: File,
    /// Lines that it has.
    lines: usize,
}

impl Journal {
    /// Opens or makes the journal in `root`, and reads what it says of this bucket. Blocks.
    ///
    /// # Errors
    /// What the disk says.
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

    /// Notes that a key is to be taken back; it is on disk then.
    ///
    /// # Errors
    /// What the disk says.
    pub fn withdraw(&mut self, key: &str) -> io::Result<()> {
        self.line(&format!("+{key}\n"))?;
        self.file.sync_data()
    }

    /// Notes that nothing confirmed up to a time is believed; it is on disk then.
    ///
    /// # Errors
    /// What the disk says.
    pub fn distrust(&mut self, until: u64) -> io::Result<()> {
        self.line(&format!("={until}\n"))?;
        self.file.sync_data()
    }

    /// Notes that a key was taken back. That this may be lost costs taking it back once more.
    ///
    /// # Errors
    /// What the disk says.
    pub fn complete(&mut self, key: &str) -> io::Result<()> {
        self.line(&format!("-{key}\n"))
    }

    /// Writes it anew without what is settled, where that is most of it.
    ///
    /// # Errors
    /// What the disk says.
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

/// Writes a journal of these withdrawals, open at its end.
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

/// What a journal says of a bucket: nothing, if it is another's.
fn read(text: &str, bucket_id: &str) -> Withdrawals {
    let mut withdrawals = Withdrawals::default();
    // What is behind the last line break was cut off.
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
    fn a_journal_says_what_is_left() {
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
    fn what_is_owed_outlives_the_process_and_what_is_paid_takes_no_room() {
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
