//! The repositories of the folder: their tags, their list of images, and which images belong to them.

use std::collections::BTreeMap;

use super::image::{optional, part};
use super::{MAX_FILE, V1Import, folders, is_tag};
use crate::body_fetch::is_expected;
use crate::records::ImageRecords;
use ::import::{Fault, Journal};
use oci::name::{Repository, RepositoryName, Tag};
use oci::storage::{self, MAX_LINK};
use oci::v1::{Endpoint, ImageId, Part, Resource, ids_in_list};
use runtime::folder::{EntryKind, Folder};

/// What the names of files begin with that hold the image of a tag.
pub(super) const TAG: &str = "tag_";
/// The image list of a repository, as its index answers it.
const IMAGES: &str = "_index_images";
/// The most tags of a repository: more are no list that a gateway reads.
const MAX_TAGS: usize = 40_000;

impl V1Import<'_> {
    pub(super) async fn repositories(&self, repositories: &Folder, journal: &mut Journal<'_>) {
        for (namespace, names) in folders(repositories) {
            for (name, folder) in folders(&names) {
                let place = format!("repositories/{namespace}/{name}");
                let Some(repository) = storage::v1_repository(&namespace, &name) else {
                    journal.fault(&place, &Fault::skipped("it is no name of a repository"));
                    continue;
                };
                let outcome = self.repository(&repository, &folder, &place, journal).await;
                journal.note(&place, outcome);
                journal.report.repositories += 1;
            }
        }
    }

    async fn repository(
        &self,
        repository: &Repository,
        folder: &Folder,
        place: &str,
        journal: &mut Journal<'_>,
    ) -> Result<(), Fault> {
        let name = RepositoryName::new(self.registry(), repository);
        let mut tags = BTreeMap::new();
        let entries = folder.entries();
        for entry in entries.map_err(|error| Fault::unreadable(&error))? {
            if !is_tag(&entry) {
                continue;
            }
            let entry = entry.map_err(|error| Fault::unreadable(&error))?;
            let file = entry.name.to_string_lossy();
            let outcome = match entry.kind {
                EntryKind::File => self.tag(&name, folder, &file, &mut tags, journal).await,
                _ => Err(Fault::skipped("it is no file")),
            };
            journal.note(&format!("{place}/{file}"), outcome);
            journal.step();
        }
        if tags.is_empty() {
            return Ok(());
        }
        self.lists(repository, folder, &tags).await
    }

    /// Imports a tag, links its images to the repository, and converts them for v2 clients.
    async fn tag(
        &self,
        name: &RepositoryName,
        folder: &Folder,
        file: &str,
        tags: &mut BTreeMap<String, String>,
        journal: &mut Journal<'_>,
    ) -> Result<(), Fault> {
        let Some(text) = optional(folder, file, MAX_LINK)? else {
            return Ok(());
        };
        let tag: Result<Tag, _> = file.strip_prefix(TAG).unwrap_or_default().parse();
        let tag = tag.map_err(Fault::skipped)?;
        let Some(top) = storage::v1_tag(&text) else {
            return Err(Fault::damaged("it names no image"));
        };
        if tags.len() >= MAX_TAGS {
            let why = format!("the repository has more than {MAX_TAGS} tags");
            return Err(Fault::skipped(why));
        }
        let endpoint = named(&name.repository, Resource::Tag(tag.clone()));
        let body = format!("\"{top}\"");
        let is_new = self.body(&endpoint, body.as_bytes(), None, None).await?;
        tags.insert(tag.as_str().to_owned(), top.to_string());
        let chain = self.chain(&top)?;
        let images = ImageRecords::of(&self.registries.store);
        images.link(name, &chain).await.map_err(Fault::not_stored)?;
        let is_converted = self.convert(name, &tag, &top, &chain).await?;
        if is_new || is_converted {
            journal.report.imported.tags += 1;
        } else {
            journal.report.present.tags += 1;
        }
        Ok(())
    }

    /// An image and its ancestors, the root last.
    fn chain(&self, top: &ImageId) -> Result<Vec<ImageId>, Fault> {
        let path = format!("images/{top}/ancestry");
        let ancestry = optional(self.folder, &path, MAX_FILE)?;
        let ancestry = ancestry
            .ok_or_else(|| Fault::damaged(format!("its image {top} is not in the folder")))?;
        if !is_expected(&part(top, Part::Ancestry), &ancestry) {
            let why = format!("the ancestry of its image {top} cannot be read");
            return Err(Fault::damaged(why));
        }
        Ok(ids_in_list(&ancestry))
    }

    /// The lists of tags and of images, as the registry answers them.
    async fn lists(
        &self,
        repository: &Repository,
        folder: &Folder,
        tags: &BTreeMap<String, String>,
    ) -> Result<(), Fault> {
        let list = serde_json::to_vec(tags).map_err(Fault::not_stored)?;
        let endpoint = named(repository, Resource::Tags);
        self.body(&endpoint, &list, None, None).await?;
        let endpoint = named(repository, Resource::Images);
        let stored = optional(folder, IMAGES, MAX_FILE)?;
        // Clients read the tags, and take an empty list.
        let images = stored.filter(|images| is_expected(&endpoint, images));
        let images = images.unwrap_or_else(|| b"[]".to_vec());
        self.body(&endpoint, &images, None, None).await?;
        Ok(())
    }
}

fn named(repository: &Repository, resource: Resource) -> Endpoint {
    let repository = repository.clone();
    Endpoint::Named {
        repository,
        resource,
    }
}
