//! Which images of the v1 API belong to which repository: image requests name no repository, so that this
//! is all there is to tell whose they are.
//!
//! One record for each repository, `v1/<registry>/<repository>/_images`, since an image list may name
//! thousands of ids at once.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::files::Files;
use super::records::{Records, component};
use crate::spec::name::{Registry, Repository};
use crate::spec::v1::ImageId;

/// How many repositories are kept in memory.
const RECENT: u64 = 1024;
/// The most ids of one repository; beyond, what was learned before is forgotten.
const MOST: usize = 200_000;

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
            records: Records::new(files, RECENT),
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
        let known = self.records.open(path(registry, repository)).await?;
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
        let path = path(registry, repository);
        let _one_at_a_time = self.adding.lock().await;
        let known = self.records.open(path.clone()).await?;
        let known = known.as_deref();
        let is_new = |id: &&ImageId| known.is_none_or(|known| !known.contains(id.as_str()));
        let new: BTreeSet<String> = ids
            .iter()
            .filter(is_new)
            .map(ToString::to_string)
            .take(MOST)
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let all = match known {
            Some(known) if known.len() + new.len() <= MOST => known.union(&new).cloned().collect(),
            _ => new,
        };
        let _: Arc<_> = self.records.keep(path, all).await;
        Ok(())
    }

    /// Forgets what is in memory of a record.
    pub(super) fn forget(&self, path: &str) {
        self.records.forget(path);
    }

    /// The repository is gone, and its claims with it.
    pub async fn unlink_all(&self, registry: &Registry, repository: &Repository) {
        let _one_at_a_time = self.adding.lock().await;
        self.records.remove(path(registry, repository)).await;
    }
}

/// Repository components never begin with `_`.
fn path(registry: &Registry, repository: &Repository) -> String {
    format!("{}/{repository}/_images", component(registry.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(
            folder
                .path()
                .join("v1/hosted%3A5000/team/app/_images")
                .is_file()
        );

        let images = images_in(folder.path());
        images.unlink_all(&registry, &app).await;
        assert!(
            !images
                .is_linked(&registry, &app, &ids[0])
                .await
                .expect("readable")
        );
    }
}
