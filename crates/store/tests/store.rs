//! The store against a reference model: random operations, faults and restarts (unit tests are in
//! `src/store`).
//!
//! The model knows which contents were committed; evictions are up to the store. After every act the disk is measured by its files, not by its own accounting.

#![expect(
    clippy::too_many_lines,
    reason = "a test is a script or a table, which reads best in one piece"
)]

#[path = "store/acts.rs"]
mod acts;
#[path = "store/invariants.rs"]
mod invariants;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use oci::digest::Digest;
use oci::name::{Registry, RepositoryName};
use proptest::prelude::*;
use roadstead_store::{
    Blob, CommitError, Extension, ExtensionKind, MinFree, PartialNote, Record, Settings,
    StagedBlob, Store,
};
use serde::{Deserialize, Serialize};

use acts::{Act, CONTENTS, act, content, digest};
use testkit::disk::files;

/// Records of many blocks.
static LISTS: ExtensionKind = ExtensionKind {
    max_bytes: 2 << 20,
    ..ExtensionKind::new("lists", "_list-")
};
static EXTENSION: Extension = Extension {
    kinds: &[&LISTS],
    also_purged: |_, _| Vec::new(),
};

#[derive(PartialEq, Serialize, Deserialize)]
struct Names(Vec<String>);

impl Record for Names {}

/// What the store may take in bytes: about half of all contents.
const MAX_SIZE: u64 = 4 << 20;

fn blob_path(root: &Path, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    let algorithm = digest.algorithm().as_str();
    root.join("blobs").join(algorithm).join(&hex[..2]).join(hex)
}

/// The store and its model.
struct World {
    root: tempfile::TempDir,
    max_size: u64,
    /// `None` only while it is reopened.
    store: Option<Store>,
    staged: BTreeMap<u8, StagedBlob>,
    /// Downloads with a wrong byte.
    corrupt: BTreeSet<u8>,
    reading: Vec<(u8, Blob)>,
    /// Committed contents that may still be present.
    committed: BTreeSet<u8>,
    /// Contents that were corrupted on disk.
    corrupted: BTreeSet<u8>,
    broken: bool,
    /// Since the last start: what could not be removed then goes at the next one.
    was_broken: bool,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            root: tempfile::tempdir().expect("a temporary folder"),
            max_size: MAX_SIZE,
            store: None,
            staged: BTreeMap::new(),
            corrupt: BTreeSet::new(),
            reading: Vec::new(),
            committed: BTreeSet::new(),
            corrupted: BTreeSet::new(),
            broken: false,
            was_broken: false,
        };
        world.open();
        world
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("it is open between acts")
    }

    fn open(&mut self) {
        let settings = Settings {
            max_size: self.max_size,
            min_free: MinFree::Bytes(0),
            unused_ttl: Some(Duration::from_secs(24 * 3600)),
            ..Settings::at(self.root.path())
        };
        let store = Store::open(&settings, &[EXTENSION]).expect("it opens whatever happened");
        store.scan();
        store.trim();
        // Records of which there are too many now.
        store.sweep(SystemTime::now());
        self.store = Some(store);
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Stage(key, sized) => self.stage(key, sized),
            Act::Append(key, part) => self.append(key, part),
            Act::AppendWrong(key) => {
                if let Some(staged) = self.staged.get_mut(&key)
                    && let Ok(written) = usize::try_from(staged.written())
                    && let Some(&right) = content(key).get(written)
                    && staged.append(&[!right]).is_ok()
                {
                    self.corrupt.insert(key);
                }
            }
            Act::Commit(key) => self.commit(key),
            Act::Park(key) => {
                // Wrong bytes are never parked: callers discard them.
                if let Some(staged) = self.staged.remove(&key)
                    && !self.corrupt.remove(&key)
                {
                    staged.park();
                }
            }
            Act::Drop(key) => {
                self.staged.remove(&key);
                self.corrupt.remove(&key);
            }
            Act::Store(key) => {
                if self.store().blobs.put(&digest(key), content(key)).is_ok() {
                    self.committed.insert(key);
                    self.corrupted.remove(&key);
                }
            }
            Act::Open(key) => self.read(key),
            Act::Close => {
                for (key, blob) in self.reading.drain(..) {
                    // Blobs being read are not evicted, and unlinked files stay readable.
                    let size = blob.file.metadata().expect("open").len();
                    assert!(size == blob.size || self.corrupted.contains(&key));
                }
            }
            Act::Restart(mib) => {
                self.max_size = u64::from(mib) << 20;
                self.reading.clear();
                self.staged.clear();
                self.corrupt.clear();
                self.repair();
                self.store = None;
                self.open();
            }
            Act::Crash => self.crash(),
            Act::Corrupt(key, cut) => self.corrupt(key, cut),
            Act::Delete(key) => {
                let _ = std::fs::remove_file(blob_path(self.root.path(), &digest(key)));
                self.committed.remove(&key);
                self.corrupted.remove(&key);
            }
            Act::Litter => {
                // What a crash can leave among the partials.
                let partials = self.root.path().join("partials");
                if !self.broken {
                    std::fs::write(partials.join(".tmp-7"), b"half a rec").expect("writable");
                    let orphan = format!("sha256-{}.json", "0".repeat(64));
                    std::fs::write(partials.join(orphan), b"{}").expect("writable");
                }
                self.crash();
            }
            Act::Link(of, many) => self.link(of, many),
            Act::Break if self.broken => self.repair(),
            Act::Break => {
                let partials = self.root.path().join("partials");
                std::fs::rename(&partials, partials.with_extension("away")).expect("movable");
                std::fs::write(&partials, b"").expect("writable");
                (self.broken, self.was_broken) = (true, true);
            }
            Act::Verify => self.verify(),
            Act::Age => {
                let used = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
                for file in files(&self.root.path().join("blobs")) {
                    let file = std::fs::File::open(file).expect("readable");
                    file.set_modified(used).expect("writable");
                }
            }
            Act::Sweep => {
                self.store().sweep(SystemTime::now());
            }
        }
        self.inspect();
    }

    fn repair(&mut self) {
        if std::mem::take(&mut self.broken) {
            let partials = self.root.path().join("partials");
            std::fs::remove_file(&partials).expect("a file");
            std::fs::rename(partials.with_extension("away"), &partials).expect("movable");
        }
    }

    /// Adds to records of many blocks; write errors are only logged.
    fn link(&mut self, of: u8, many: u16) {
        let repository = format!("team/app{of}").parse().expect("a name");
        let name = RepositoryName::new(&Registry::new("old.example"), &repository);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        for list in 0..16 {
            let names = (0..many).filter(|n| n % 16 == list);
            let names: Vec<_> = names.map(|n| format!("{n:064x}")).collect();
            if names.is_empty() {
                continue;
            }
            let key = LISTS.key(&name, &list.to_string());
            let key = key.of::<Names>();
            let add = move |known: Option<&Names>| {
                let known = known.map_or_else(Vec::new, |known| known.0.clone());
                let all: BTreeSet<_> = known.into_iter().chain(names).collect();
                Some(Names(all.into_iter().collect()))
            };
            let added = self.store().records.update(&key, add);
            runtime.block_on(added).expect("readable");
        }
    }

    fn stage(&mut self, key: u8, sized: bool) {
        if self.staged.contains_key(&key) {
            return;
        }
        let blobs = &self.store().blobs;
        let length = content(key).len() as u64;
        let total = sized.then_some(length);
        let note = PartialNote {
            total,
            sources: vec![("hub.example".into(), "team/app".into())],
            ..PartialNote::default()
        };
        let staged = match blobs.resume(&digest(key)) {
            Ok(Some(staged)) => Some(staged),
            Ok(None) => blobs
                .reserve(total.unwrap_or(0))
                .ok()
                .and_then(|room| blobs.stage(&digest(key), room, note).ok()),
            Err(_) => None,
        };
        if let Some(staged) = staged {
            let written = usize::try_from(staged.written()).expect("small");
            let first = &content(key)[..written];
            assert!(
                staged.has_bytes_at(first, 0).expect("readable"),
                "other bytes"
            );
            self.staged.insert(key, staged);
        }
    }

    fn append(&mut self, key: u8, part: u8) {
        let Some(staged) = self.staged.get_mut(&key) else {
            return;
        };
        let content = content(key);
        let written = usize::try_from(staged.written()).expect("small");
        let rest = &content[written..];
        match staged.append(&rest[..rest.len() * usize::from(part) / 100]) {
            Ok(()) => {}
            Err(CommitError::Full(_) | CommitError::Io(_)) => {
                self.staged.remove(&key);
                self.corrupt.remove(&key);
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn commit(&mut self, key: u8) {
        let Some(staged) = self.staged.remove(&key) else {
            return;
        };
        let whole = staged.written() == content(key).len() as u64;
        let sized = staged.total().is_some();
        let is_corrupt = self.corrupt.remove(&key);
        match staged.commit() {
            Ok(blob) => {
                assert!(whole && !is_corrupt);
                assert_eq!(blob.size, content(key).len() as u64);
                self.committed.insert(key);
                self.corrupted.remove(&key);
            }
            Err(CommitError::Truncated { .. }) => assert!(sized && !whole),
            Err(CommitError::Mismatch(_)) => assert!(is_corrupt || !whole),
            Err(CommitError::Io(_) | CommitError::Full(_)) => assert!(self.broken),
            Err(CommitError::Overlong { .. }) => panic!("append says that"),
        }
    }

    fn read(&mut self, key: u8) {
        let expected = content(key).len() as u64;
        let opened = self.store().blobs.open(&digest(key), Some(expected));
        let Some(blob) = opened.expect("readable") else {
            return;
        };
        assert!(self.committed.contains(&key), "it was never committed");
        assert_eq!(blob.size, expected, "a wrong length is noticed");
        let mut bytes = Vec::new();
        (&**blob.file).read_to_end(&mut bytes).expect("readable");
        if !self.corrupted.contains(&key) {
            assert!(bytes == content(key), "{key}");
        }
        self.reading.push((key, blob));
    }

    fn crash(&mut self) {
        // Forgotten values are not dropped; only the lock is released, as by a killed process.
        for (_, staged) in std::mem::take(&mut self.staged) {
            std::mem::forget(staged);
        }
        let corrupt = std::mem::take(&mut self.corrupt);
        for (_, blob) in self.reading.drain(..) {
            std::mem::forget(blob);
        }
        self.repair();
        // A partial with wrong bytes in it is found out at its commit; here it would be mistaken for a fault
        // of the store.
        for key in corrupt {
            let name = digest(key).to_string().replace(':', "-");
            let partials = self.root.path().join("partials");
            let _ = std::fs::remove_file(partials.join(&name));
        }
        self.store = None;
        self.was_broken = false;
        self.open();
    }

    fn corrupt(&mut self, key: u8, cut: bool) {
        let path = blob_path(self.root.path(), &digest(key));
        let Ok(mut bytes) = std::fs::read(&path) else {
            return;
        };
        if bytes.is_empty() || self.corrupted.contains(&key) {
            return;
        }
        if cut {
            bytes.pop();
        } else {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        std::fs::write(&path, bytes).expect("writable");
        self.corrupted.insert(key);
    }

    fn verify(&mut self) {
        let verified = self.store().verify(|_| std::ops::ControlFlow::Continue(()));
        let damaged: BTreeSet<Digest> = verified.damaged.iter().copied().collect();
        let corrupted: BTreeSet<Digest> = self.corrupted.iter().map(|key| digest(*key)).collect();
        assert!(damaged.is_subset(&corrupted), "what is right stays");
        assert_eq!(verified.blobs, verified.of_blobs);
        for key in std::mem::take(&mut self.corrupted) {
            let path = blob_path(self.root.path(), &digest(key));
            assert!(!path.exists(), "{key} is still wrong");
            self.committed.remove(&key);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_reference_model(acts in proptest::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for act in acts {
            world.act(act);
        }
        // In the end every content can be stored and read again.
        world.act(Act::Restart(16));
        for key in 0..CONTENTS {
            world.act(Act::Verify);
            world.act(Act::Store(key));
            world.act(Act::Open(key));
            prop_assert!(world.reading.pop().is_some(), "{key}");
        }
    }
}
