//! Which images of the v1 API belong to which repository: image requests name no repository, so that this
//! is all there is to tell whose they are.
//!
//! A repository has sixteen records at most, `v1/<registry>/<repository>/_images-<digit>`, by the first digit
//! of the ids: an image list may name thousands at once, which are sixteen writes, while a push links one at a
//! time, which writes a sixteenth of what is known. Such a record may take more than a block.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::files::Files;
use super::record::{Outcome, Reach, Record};
use super::records::{Records, component};
use oci::name::{Registry, Repository};
use oci::v1::ImageId;

/// How many ids are kept in memory, of all repositories.
const RECENT: u64 = 500_000;
/// The most ids in one record; beyond, what was learned before is forgotten.
const MOST: usize = 16_384;
/// The longest record in bytes: of each id its digits, two quotes and a comma.
const LONGEST: u64 = MOST as u64 * 67 + 2;

impl Record for BTreeSet<String> {}

/// The images of all repositories.
#[derive(Debug)]
pub struct Images {
    records: Records<BTreeSet<String>>,
    /// Held while a record is added to.
    adding: Mutex<()>,
}

impl Images {
    pub(super) fn new(files: &Arc<Files>) -> Self {
        Self {
            records: Records::long(files, LONGEST, RECENT, |ids| {
                u32::try_from(ids.len() + 1).unwrap_or(u32::MAX)
            }),
            adding: Mutex::default(),
        }
    }

    /// Whether an image is known to be the repository's.
    ///
    /// # Errors
    /// When the disk cannot say; that is not the same as no.
    pub async fn is_linked(
        &self,
        registry: &Registry,
        repository: &Repository,
        id: &ImageId,
    ) -> io::Result<bool> {
        let path = path(registry, repository, &id.as_str()[..1]);
        let known = self.records.open(path).await?;
        Ok(known.is_some_and(|known| known.contains(id.as_str())))
    }

    /// Images of a repository, from now on.
    ///
    /// # Errors
    /// When the disk cannot say what is known already, which must not be forgotten.
    pub async fn link(
        &self,
        registry: &Registry,
        repository: &Repository,
        ids: &[ImageId],
    ) -> io::Result<()> {
        let mut by_digit: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for id in ids {
            let digit = by_digit.entry(&id.as_str()[..1]).or_default();
            if digit.len() < MOST {
                digit.insert(id.as_str());
            }
        }
        let _one_at_a_time = self.adding.lock().await;
        for (digit, new) in by_digit {
            let path = path(registry, repository, digit);
            // What was known may be removed meanwhile: it is not to come back.
            while !self.add(path.clone(), new.clone()).await? {}
        }
        Ok(())
    }

    /// Adds ids to a record; false where that was changed meanwhile.
    async fn add(&self, path: String, mut new: BTreeSet<&str>) -> io::Result<bool> {
        let question = self.records.ask(path.clone());
        let known = self.records.open(path).await?;
        new.retain(|id| known.as_ref().is_none_or(|known| !known.contains(*id)));
        if new.is_empty() {
            return Ok(true);
        }
        let old = known.filter(|known| known.len() + new.len() <= MOST);
        let old = old.map_or_else(BTreeSet::new, |old| (*old).clone());
        let all = new.into_iter().map(str::to_owned).chain(old).collect();
        let kept = self.records.keep(&question, all, Reach::Here).await;
        Ok(matches!(kept, Outcome::Current(_)))
    }

    /// Whether a record of this name may take more than a block.
    pub(super) fn may_be_long(name: &str) -> bool {
        name.starts_with(FILE)
    }

    /// Forgets what is in memory of a record.
    pub(super) fn forget(&self, path: &str) {
        self.records.forget(path);
    }

    /// The repository is gone, and its claims with it.
    pub async fn unlink_all(&self, registry: &Registry, repository: &Repository) {
        let _one_at_a_time = self.adding.lock().await;
        for digit in DIGITS {
            let path = path(registry, repository, digit);
            self.records.remove(path).await;
        }
    }
}

/// What the names of these records begin with. Repository components never begin with `_`.
const FILE: &str = "_images-";
const DIGITS: [&str; 16] = [
    "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f",
];

fn path(registry: &Registry, repository: &Repository, digit: &str) -> String {
    let registry = component(registry.as_str());
    format!("{registry}/{repository}/{FILE}{digit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::{Algorithm, Digest};

    fn images_in(root: &std::path::Path) -> Images {
        use super::super::{Settings, Space};

        let space = Arc::new(Space::new(&Settings::at(root)));
        space.settle();
        Images::new(&Arc::new(Files::below(root, "v1", space, 3600)))
    }

    #[tokio::test]
    async fn links_are_added_and_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = Registry::new("hosted:5000");
        let [app, other]: [Repository; 2] =
            ["team/app", "team"].map(|name| name.parse().expect("a name"));
        let ids: Vec<ImageId> = ["0", "1", "2"]
            .map(|digit| digit.repeat(64).parse().expect("an id"))
            .into();
        let images = images_in(folder.path());
        images
            .link(&registry, &app, &ids[..1])
            .await
            .expect("writable");
        images
            .link(&registry, &app, &ids[1..2])
            .await
            .expect("writable");
        for images in [images, images_in(folder.path())] {
            for (id, linked) in ids.iter().zip([true, true, false]) {
                let known = images
                    .is_linked(&registry, &app, id)
                    .await
                    .expect("readable");
                assert_eq!(known, linked, "{id}");
                assert!(
                    !images
                        .is_linked(&registry, &other, id)
                        .await
                        .expect("readable")
                );
            }
        }
        for digit in ["0", "1"] {
            let record = format!("v1/hosted%3A5000/team/app/_images-{digit}");
            assert!(folder.path().join(record).is_file());
        }

        let images = images_in(folder.path());
        assert_eq!(DIGITS.concat(), "0123456789abcdef");
        images.unlink_all(&registry, &app).await;
        assert!(
            !images
                .is_linked(&registry, &app, &ids[0])
                .await
                .expect("readable")
        );
    }

    /// A record of all would have been longer than a block, and than most what one may be.
    #[tokio::test]
    async fn thousands_of_links_outlive_the_process() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = Registry::new("hosted");
        let app: Repository = "team/app".parse().expect("a name");
        let id = |n: u64| {
            let digest = Digest::of(Algorithm::Sha256, &n.to_be_bytes());
            digest.hex().parse::<ImageId>().expect("an id")
        };
        let listed: Vec<ImageId> = (0..5000).map(id).collect();
        let images = images_in(folder.path());
        for ids in [&listed[..1], &listed[1..2], &listed[..], &listed[..]] {
            let linked = images.link(&registry, &app, ids).await;
            linked.expect("writable");
        }
        for images in [images, images_in(folder.path())] {
            for (n, linked) in [(0, true), (1, true), (4999, true), (5000, false)] {
                let known = images.is_linked(&registry, &app, &id(n)).await;
                assert_eq!(known.expect("readable"), linked, "{n}");
            }
            let mut known = 0;
            for id in &listed {
                let linked = images.is_linked(&registry, &app, id).await;
                known += usize::from(linked.expect("readable"));
            }
            assert_eq!(known, listed.len());
        }
    }

    #[tokio::test]
    async fn of_too_many_links_the_new_ones_stay() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let registry = Registry::new("hosted");
        let app: Repository = "team/app".parse().expect("a name");
        let id = |n: usize| format!("{n:064x}").parse::<ImageId>().expect("an id");
        let all: Vec<ImageId> = (0..=MOST).map(id).collect();
        let images = images_in(folder.path());
        for ids in [&all[..MOST], &all[MOST..]] {
            let linked = images.link(&registry, &app, ids).await;
            linked.expect("writable");
            let record = folder.path().join("v1/hosted/team/app/_images-0");
            let length = std::fs::metadata(record).expect("a record").len();
            let most = ids.len() as u64 * 67 + 2;
            assert!(length <= most && most - length < 2, "{length} of {most}");
            assert!(most <= LONGEST);
        }
        for (n, linked) in [(0, false), (MOST, true)] {
            let known = images_in(folder.path());
            let known = known.is_linked(&registry, &app, &all[n]).await;
            assert_eq!(known.expect("readable"), linked, "{n}");
        }
    }
}
