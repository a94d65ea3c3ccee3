//! What holds after every act, by the files on disk.

use testkit::disk::{files, measured};

use super::acts::{CONTENTS, content, digest};
use super::{World, blob_path};

impl World {
    /// What must hold at any time.
    pub(super) fn inspect(&mut self) {
        let root = self.root.path();
        let on_disk = measured(root);
        assert!(
            on_disk <= self.max_size,
            "{on_disk} bytes of {}",
            self.max_size
        );
        let mut blobs = 0;
        for key in 0..CONTENTS {
            let Ok(bytes) = std::fs::read(blob_path(root, &digest(key))) else {
                // It went: it is no longer wrong.
                self.corrupted.remove(&key);
                continue;
            };
            blobs += 1;
            assert!(self.committed.contains(&key), "{key} was never committed");
            let right = bytes == content(key);
            assert_eq!(right, !self.corrupted.contains(&key), "{key}");
        }
        assert_eq!(files(&root.join("blobs")).len(), blobs, "nothing else");
        // No orphan: a partial is being filled, or it waits with its note.
        if !self.was_broken {
            for file in files(&root.join("partials")) {
                let name = file.file_name().expect("a name").to_string_lossy();
                let bytes = name.strip_suffix(".json").unwrap_or(&name);
                let filled = |key: &u8| bytes.ends_with(&digest(*key).hex());
                let waits = self.store().blobs.partials();
                let waits = waits
                    .iter()
                    .any(|(digest, _)| bytes.ends_with(&digest.hex()));
                assert!(waits || self.staged.keys().any(filled), "an orphan: {name}");
            }
        }
        let said = self.store().space.used();
        assert!(said <= self.max_size, "{said}");
        // Given up while its folder was away, a partial stays on disk until the next start.
        assert!(
            self.was_broken || said + 2 * 4096 >= on_disk,
            "{said} {on_disk}"
        );
    }
}
