//! The migration of a registry: every image of its v1 side is pushed to its v2 side, as the bridge shows it.
//!
//! A conversion is the same on every machine, so that a tag whose digest the v2 side has already is done. Blobs that are
//! there are not sent again; what another repository has is mounted. An image of the v2 side that no conversion made is
//! never replaced.

mod image;
mod push;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::Registries;
use crate::v1_to_v2::V1Repository;
use mirror::{MirrorError, RequestBudget};
use oci::digest::Digest;
use oci::name::{Registry, Repository, RepositoryName, Tag};
use oci::v1::{ImageId, plain};
use upstream::{Upstream, UpstreamError};

/// How many digests are remembered with a repository of the v2 side that has them.
const MAX_MOUNTABLE: u64 = 200_000;

/// What to migrate of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All repositories that the v1 side's search finds.
    All,
    /// Some, each with all of its tags or one.
    Only(Vec<(Repository, Option<Tag>)>),
}

/// An image that is migrated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigratedImage {
    /// Where it is, on both sides.
    pub repository: Repository,
    /// Its tag.
    pub tag: Tag,
}

/// The outcome of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MigrationOutcome {
    /// Its manifest was pushed.
    Pushed(Digest),
    /// The v2 side had it.
    Present(Digest),
    /// The v2 side has another image of this name, which no conversion made.
    Kept(Digest),
    /// Why it cannot be migrated.
    Failed(String),
}

/// What a migration did so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MigrationReport {
    /// The tags of all repositories.
    pub images: u64,
    /// The outcomes of each kind.
    pub pushed: u64,
    /// See [`MigrationOutcome::Present`].
    pub present: u64,
    /// See [`MigrationOutcome::Kept`].
    pub kept: u64,
    /// See [`MigrationOutcome::Failed`]; also repositories whose tags cannot be listed.
    pub failed: u64,
    /// Blobs that were sent.
    pub blobs_sent: u64,
    /// Their bytes.
    pub bytes_sent: u64,
    /// Blobs that were mounted from another repository.
    pub blobs_mounted: u64,
    /// Blobs that the v2 side had.
    pub blobs_present: u64,
}

impl MigrationReport {
    /// The images that are done.
    pub const fn done(&self) -> u64 {
        self.pushed + self.present + self.kept + self.failed
    }

    fn count(&mut self, outcome: &MigrationOutcome) {
        *match outcome {
            MigrationOutcome::Pushed(_) => &mut self.pushed,
            MigrationOutcome::Present(_) => &mut self.present,
            MigrationOutcome::Kept(_) => &mut self.kept,
            MigrationOutcome::Failed(_) => &mut self.failed,
        } += 1;
    }
}

/// What a migration tells while it runs.
#[derive(Clone, Copy, Debug)]
pub enum MigrationLine<'a> {
    /// An image is begun, or some of its bytes were sent.
    Progress(&'a MigrationReport),
    /// An image is done; its name is `repository:tag`, or that of a repository without readable tags.
    Done(&'a str, &'a MigrationOutcome),
}

/// Why a migration cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The registry has no v1 side whose images are served to v2 clients.
    #[error("registry {0} has no v1 side that is bridged; it needs v1, v2 and bridge: true")]
    NotBridged(Registry),
    /// The v1 side has no search.
    #[error("the v1 side has no search, so that its repositories are unknown; name them")]
    NoNames,
    /// The v1 side cannot be asked for its repositories.
    #[error("the v1 side cannot be asked for its repositories")]
    Names(#[source] MirrorError),
    /// The v2 side cannot be reached.
    #[error("the v2 side cannot be used")]
    Unreachable(#[source] UpstreamError),
}

/// A migration that is running.
struct Migration<'a> {
    registries: &'a Arc<Registries>,
    registry: &'a Registry,
    v2: &'a Upstream,
    /// A repository of the v2 side that has a digest.
    known: moka::sync::Cache<Digest, Repository>,
    report: MigrationReport,
    tell: &'a mut dyn FnMut(MigrationLine<'_>),
}

impl Registries {
    /// Migrates images of a registry to `v2`, its v2 side.
    ///
    /// # Errors
    /// [`MigrationError`] if it cannot begin. What fails for one image is told, and the others are migrated.
    pub async fn migrate(
        self: &Arc<Self>,
        registry: &Registry,
        v2: &Upstream,
        selection: &Selection,
        tell: &mut dyn FnMut(MigrationLine<'_>),
    ) -> Result<MigrationReport, MigrationError> {
        let is_bridged = self
            .origins
            .get(registry)
            .is_some_and(|origin| origin.bridge);
        if !is_bridged {
            return Err(MigrationError::NotBridged(registry.clone()));
        }
        v2.ping().await.map_err(MigrationError::Unreachable)?;
        let mut migration = Migration {
            registries: self,
            registry,
            v2,
            known: moka::sync::Cache::new(MAX_MOUNTABLE),
            report: MigrationReport::default(),
            tell,
        };
        let repositories = migration.repositories(selection).await?;
        let mut images = BTreeMap::new();
        for (repository, only) in repositories {
            migration.list(&repository, only, &mut images).await;
        }
        migration.report.images += images.len() as u64;
        for ((repository, tag), top) in images {
            migration.one(&MigratedImage { repository, tag }, top).await;
        }
        Ok(migration.report)
    }
}

/// The images to migrate, in the order of their names, each with its id or why it has none.
type Images = BTreeMap<(Repository, Tag), Result<ImageId, String>>;

impl Migration<'_> {
    /// The selected repositories, each with the selected tags; `None` for all.
    async fn repositories(
        &self,
        selection: &Selection,
    ) -> Result<BTreeMap<Repository, Option<BTreeSet<Tag>>>, MigrationError> {
        let mut found: BTreeMap<Repository, Option<BTreeSet<Tag>>> = BTreeMap::new();
        match selection {
            Selection::All => {
                let mut budget = RequestBudget(1);
                let names = self
                    .registries
                    .names_of_v1(self.registry, &mut budget)
                    .await;
                let names = names.map_err(MigrationError::Names)?;
                let names = names.ok_or(MigrationError::NoNames)?;
                found.extend(names.iter().map(|name| (name.clone(), None)));
            }
            Selection::Only(only) => {
                for (repository, tag) in only {
                    let Ok(repository) = plain(repository.as_str()).parse() else {
                        continue;
                    };
                    let tags = found
                        .entry(repository)
                        .or_insert_with(|| Some(BTreeSet::new()));
                    match (tag, tags) {
                        (Some(tag), Some(tags)) => {
                            tags.insert(tag.clone());
                        }
                        // All of them, whatever else is named.
                        (None, tags) => *tags = None,
                        (Some(_), None) => {}
                    }
                }
            }
        }
        Ok(found)
    }

    fn source(&self, repository: &Repository) -> Option<V1Repository> {
        let name = RepositoryName::new(self.registry, repository);
        self.registries.v1_repository_of(&name)
    }

    /// Adds the images of a repository.
    async fn list(
        &mut self,
        repository: &Repository,
        only: Option<BTreeSet<Tag>>,
        images: &mut Images,
    ) {
        let listed = match self.source(repository) {
            Some(source) => source.tags(self.registries).await,
            None => Ok(None),
        };
        let tags = match listed {
            Ok(Some(tags)) => tags,
            Ok(None) => {
                let why = "the v1 side does not have it".to_owned();
                return self.finish(repository.as_str(), &MigrationOutcome::Failed(why));
            }
            Err(error) => {
                let why = format!("its tags cannot be read: {}", telemetry::chain(&error));
                return self.finish(repository.as_str(), &MigrationOutcome::Failed(why));
            }
        };
        let wanted: Vec<Tag> = if let Some(only) = only {
            only.into_iter().collect()
        } else {
            let mut all = Vec::new();
            for tag in tags.keys() {
                if let Ok(tag) = tag.parse() {
                    all.push(tag);
                    continue;
                }
                let why = "its tag is none of the v2 API".to_owned();
                self.finish(
                    &format!("{repository}:{tag}"),
                    &MigrationOutcome::Failed(why),
                );
            }
            all
        };
        for tag in wanted {
            let top = match tags.get(tag.as_str()) {
                None => Err("the v1 side has no such tag".to_owned()),
                Some(id) => id
                    .as_str()
                    .and_then(|id| id.parse().ok())
                    .ok_or_else(|| "its tag names no image".to_owned()),
            };
            images.insert((repository.clone(), tag), top);
        }
    }

    /// Migrates one image.
    async fn one(&mut self, image: &MigratedImage, top: Result<ImageId, String>) {
        (self.tell)(MigrationLine::Progress(&self.report));
        let outcome = match top {
            Ok(top) => self.image(image, &top).await,
            Err(why) => Err(why),
        };
        let outcome = outcome.unwrap_or_else(MigrationOutcome::Failed);
        let name = format!("{}:{}", image.repository, image.tag);
        self.finish(&name, &outcome);
    }

    fn finish(&mut self, name: &str, outcome: &MigrationOutcome) {
        self.report.count(outcome);
        (self.tell)(MigrationLine::Done(name, outcome));
        (self.tell)(MigrationLine::Progress(&self.report));
    }
}
