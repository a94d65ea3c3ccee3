//! Which v1 images belong to which repository. Image requests name no repository, so nothing else can tell.
//!
//! A repository has at most sixteen records, `v1/<registry>/<repository>/_images-<digit>`, by the first digit
//! of the ids: an image list may name thousands at once, which takes sixteen writes, while a push links one at
//! a time, which rewrites a sixteenth of the ids. Such a record may exceed a block.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde::{Deserialize, Serialize};

use oci::name::RepositoryName;
use oci::v1::ImageId;
use store::{ExtensionKeyOf, ExtensionKind, Record, RecordStore, Store};

/// The most ids in one record; beyond that, earlier ids are dropped.
const MAX_IDS: usize = 16_384;
/// The longest record in bytes: the digits of each id, two quotes and a comma.
const MAX_RECORD: u64 = MAX_IDS as u64 * 67 + 2;

pub(super) static IMAGE_LISTS: ExtensionKind = ExtensionKind {
    max_bytes: MAX_RECORD,
    ..ExtensionKind::new("v1", "_images-")
};

/// The ids of images with the same first digit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ImageIds(pub BTreeSet<String>);

impl Record for ImageIds {}

/// The image ids of all repositories.
#[derive(Debug)]
pub struct ImageRecords {
    records: RecordStore,
}

impl ImageRecords {
    pub fn of(store: &Store) -> Self {
        Self {
            records: store.records.clone(),
        }
    }

    /// Whether an image is linked to a repository.
    ///
    /// # Errors
    /// [`io::Error`] if the disk cannot be read, which is not the same as no.
    pub async fn is_linked(&self, name: &RepositoryName, id: &ImageId) -> io::Result<bool> {
        let key = key(name, &id.as_str()[..1]);
        let known = self.records.open(&key).await?;
        Ok(known.is_some_and(|known| known.0.contains(id.as_str())))
    }

    /// Links images to a repository.
    ///
    /// # Errors
    /// [`io::Error`] if the disk cannot be read: the ids that it holds must not be lost.
    pub async fn link(&self, name: &RepositoryName, ids: &[ImageId]) -> io::Result<()> {
        let mut by_digit: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for id in ids {
            let digit = by_digit.entry(&id.as_str()[..1]).or_default();
            if digit.len() < MAX_IDS {
                digit.insert(id.to_string());
            }
        }
        for (digit, new) in by_digit {
            let key = key(name, digit);
            let add = move |known: Option<&ImageIds>| with(known, new);
            self.records.update(&key, add).await?;
        }
        Ok(())
    }

    /// Unlinks all images of a deleted repository.
    pub async fn unlink_all(&self, name: &RepositoryName) {
        for digit in DIGITS {
            self.records.remove(&key(name, digit)).await;
        }
    }
}

/// The known ids with the new ones added; `None` if there are no new ones.
fn with(known: Option<&ImageIds>, mut new: BTreeSet<String>) -> Option<ImageIds> {
    new.retain(|id| known.is_none_or(|known| !known.0.contains(id)));
    if new.is_empty() {
        return None;
    }
    if let Some(known) = known.filter(|known| known.0.len() + new.len() <= MAX_IDS) {
        new.extend(known.0.iter().cloned());
    }
    Some(ImageIds(new))
}

const DIGITS: [&str; 16] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f",
];

fn key(name: &RepositoryName, digit: &str) -> ExtensionKeyOf<ImageIds> {
    IMAGE_LISTS.key(name, digit).of()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::{Algorithm, Digest};
    use oci::name::Registry;

    fn name(registry: &Registry, repository: &str) -> RepositoryName {
        RepositoryName::new(registry, &repository.parse().expect("a name"))
    }

    fn images_in(root: &std::path::Path) -> ImageRecords {
        ImageRecords::of(&crate::records::tests::store_in(root))
    }

    #[tokio::test]
    async fn links_are_added_and_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = Registry::new("hosted:5000");
        let [app, other] = ["team/app", "team"].map(|repository| name(&registry, repository));
        let ids: Vec<ImageId> = ["0", "1", "2"]
            .map(|digit| digit.repeat(64).parse().expect("an id"))
            .into();
        let images = images_in(folder.path());
        images.link(&app, &ids[..1]).await.expect("writable");
        images.link(&app, &ids[1..2]).await.expect("writable");
        for images in [images, images_in(folder.path())] {
            for (id, linked) in ids.iter().zip([true, true, false]) {
                let known = images.is_linked(&app, id).await.expect("readable");
                assert_eq!(known, linked, "{id}");
                assert!(!images.is_linked(&other, id).await.expect("readable"));
            }
        }
        for digit in ["0", "1"] {
            let record = format!("v1/hosted%3A5000/team/app/_images-{digit}");
            assert!(folder.path().join(record).is_file());
        }

        let images = images_in(folder.path());
        assert_eq!(DIGITS.concat(), "0123456789abcdef");
        images.unlink_all(&app).await;
        assert!(!images.is_linked(&app, &ids[0]).await.expect("readable"));
    }

    /// One record of all ids would exceed a block, and the longest record.
    #[tokio::test]
    async fn thousands_of_links_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let app = name(&Registry::new("hosted"), "team/app");
        let id = |n: u64| {
            let digest = Digest::of(Algorithm::Sha256, &n.to_be_bytes());
            digest.hex().parse::<ImageId>().expect("an id")
        };
        let listed: Vec<ImageId> = (0..5000).map(id).collect();
        let images = images_in(folder.path());
        for ids in [&listed[..1], &listed[1..2], &listed[..], &listed[..]] {
            let linked = images.link(&app, ids).await;
            linked.expect("writable");
        }
        for images in [images, images_in(folder.path())] {
            for (n, linked) in [(0, true), (1, true), (4999, true), (5000, false)] {
                let known = images.is_linked(&app, &id(n)).await;
                assert_eq!(known.expect("readable"), linked, "{n}");
            }
            let mut known = 0;
            for id in &listed {
                let linked = images.is_linked(&app, id).await;
                known += usize::from(linked.expect("readable"));
            }
            assert_eq!(known, listed.len());
        }
    }

    #[tokio::test]
    async fn too_many_links_drop_the_earlier_ones() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let app = name(&Registry::new("hosted"), "team/app");
        let id = |n: usize| format!("{n:064x}").parse::<ImageId>().expect("an id");
        let all: Vec<ImageId> = (0..=MAX_IDS).map(id).collect();
        let images = images_in(folder.path());
        for ids in [&all[..MAX_IDS], &all[MAX_IDS..]] {
            let linked = images.link(&app, ids).await;
            linked.expect("writable");
            let record = folder.path().join("v1/hosted/team/app/_images-0");
            let length = std::fs::metadata(record).expect("a record").len();
            let most = ids.len() as u64 * 67 + 2;
            assert!(length <= most && most - length < 2, "{length} of {most}");
            assert!(most <= MAX_RECORD);
        }
        for (n, linked) in [(0, false), (MAX_IDS, true)] {
            let known = images_in(folder.path());
            let known = known.is_linked(&app, &all[n]).await;
            assert_eq!(known.expect("readable"), linked, "{n}");
        }
    }
}
