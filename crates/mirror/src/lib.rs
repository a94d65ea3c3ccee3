//! Floor 2, cached reads: answers from the store, or fills it.
//!
//! Every function takes a [`Permit`], so nothing is looked up before it is allowed. Blobs and manifests
//! by digest are immutable; tags are pointers with a life.

mod beside;
mod blob;
mod bucket;
mod caller;
mod catalogue;
mod conversion;
mod download;
mod error;
mod fill;
mod following;
mod freshness;
mod lesson;
mod lists;
mod manifest;
mod missing;
mod mount;
mod public;
mod purge;
mod reader;
mod source;
mod synthesis;
mod tag;
mod through;
mod v1;
mod v1_kept;
mod v1_layer;
mod v1_source;
mod warm;
mod writes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use moka::policy::EvictionPolicy;

pub use blob::{BlobAnswer, BlobHead};
pub use catalogue::{Budget, Listed, picked};
pub use error::{Asked, MirrorError};
pub use lesson::{Lesson, Written, lesson};
pub use lists::PageAnswer;
pub use manifest::ManifestAnswer;
pub use purge::{Purge, Target, Verified};
pub use reader::{ReadError, Reader};
pub use store::SynthesisedImage;
pub use synthesis::{MadeUp, SynthesisFailure, SynthesisLayer};
pub use v1::{Claim, V1Pass, V1Settings, v1_list};
pub use v1_kept::V1Answer;
pub use warm::{Image, WarmError, WarmProgress};
pub use writes::{Body, BodyEnd, Feed, Pass, Passed, PassedError, Writing, is_whole_json};

use access::Permit;
use caller::{Callers, Who};
use fill::Fills;
use manifest::ManifestKey;
use missing::Missing;
use oci::digest::Digest;
use oci::name::{Registry, Repository};
use public::PublicKey;
use runtime::flight::Flights;
use runtime::generation::Generations;
use source::{BlobSource, FillKey, FillSource};
use store::Store;
use tag::{Resolved, TagKey};
use upstream::{self, SetUpError, Upstream};

/// What is kept in memory of small bodies, in KiB.
const HOT_KIB: u64 = 16 << 10;
/// The largest body that is kept in memory, in bytes.
const HOT_BODY: u64 = 64 << 10;

/// One registry as the mirror sees it.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    pub registry: Registry,
    /// `None` where v2 clients get only what the v1 side has.
    pub upstream: Option<upstream::Settings>,
    /// How long a tag is trusted.
    pub tag_ttl: Duration,
    /// How long a 404 is remembered.
    pub missing_ttl: Duration,
    /// How long a link is trusted before it is checked again behind the answer.
    pub link_ttl: Duration,
    /// How old a tag may be when the upstream cannot be asked; `None`: however old.
    pub max_stale: Option<Duration>,
    /// How long a known tag waits for its upstream before it is answered stale.
    pub patience: Duration,
    /// Whether our account may read more there than everybody may, and only what everybody may read is
    /// served.
    pub only_public: bool,
    /// Whether it decides for each caller: it is asked with what they show, never with our account.
    pub callers: bool,
    /// Whether images that only the v1 API has are served as well.
    pub bridge: bool,
    pub heads: Heads,
}

/// What a HEAD of content that is here is answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// By what is here.
    Cached,
    /// By the upstream, each time: a pusher skips the upload of what a HEAD finds, and the upstream may have lost it.
    Revalidated,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub origins: Vec<OriginSettings>,
    pub v1: Vec<V1Settings>,
    /// How many fills run at once; one registry has at most half of them.
    pub fills: usize,
}

/// A registry with its client.
#[derive(Debug)]
struct Origin {
    registry: Registry,
    upstream: Upstream,
    tag_ttl: Duration,
    missing_ttl: Duration,
    link_ttl: Duration,
    max_stale: Option<Duration>,
    patience: Duration,
    only_public: bool,
    callers: bool,
    bridge: bool,
    heads: Heads,
    /// Whose view of it this is, where it decides for each caller.
    who: Option<Who>,
    /// When something was last written through us, in seconds since 1970: what another node learned before
    /// may no longer be so.
    written_at: AtomicU64,
}

/// The cached read side of all registries. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Mirror {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    origins: HashMap<Registry, Arc<Origin>>,
    v1: HashMap<Registry, Arc<v1::V1Origin>>,
    fills: Fills,
    hot: moka::sync::Cache<Digest, Bytes>,
    missing: Missing,
    pages: lists::Pages,
    /// Of the lists of each repository.
    lists: Generations<(Registry, Repository)>,
    listing: Flights<(lists::PageKey, u64), Result<Arc<lists::Kept>, MirrorError>>,
    resolving: Flights<(TagKey, u64), Result<Resolved, MirrorError>>,
    callers: Callers,
    searched: catalogue::Searched,
    conversions: conversion::Conversions,
    searching: Flights<Registry, Result<Arc<[Repository]>, MirrorError>>,
    fetching: Flights<(ManifestKey, Option<Who>, u64), Result<manifest::Fetched, MirrorError>>,
    claiming: Flights<(blob::ClaimKey, Option<Who>, u64), blob::Claimed>,
    proving: Flights<PublicKey, Result<(), MirrorError>>,
    asking: v1_kept::Asking,
    preparing: synthesis::Preparing,
}

impl Mirror {
    /// `fills_on` is the runtime that fills run on, so that their disk writes do not stall serving.
    ///
    /// # Errors
    /// When a client cannot be set up.
    pub fn new(
        settings: Settings,
        store: Arc<Store>,
        fills_on: tokio::runtime::Handle,
    ) -> Result<Self, SetUpError> {
        let mut origins = HashMap::new();
        for origin in settings.origins {
            let settings = origin;
            let upstream = match settings.upstream {
                Some(upstream) => Upstream::new(upstream)?,
                None => Upstream::absent(settings.registry.as_str())?,
            };
            let origin = Origin {
                registry: settings.registry,
                upstream,
                tag_ttl: settings.tag_ttl,
                missing_ttl: settings.missing_ttl,
                link_ttl: settings.link_ttl,
                max_stale: settings.max_stale,
                patience: settings.patience,
                only_public: settings.only_public,
                callers: settings.callers,
                bridge: settings.bridge,
                heads: settings.heads,
                who: None,
                written_at: AtomicU64::new(0),
            };
            origins.insert(origin.registry.clone(), Arc::new(origin));
        }
        let hot = moka::sync::Cache::builder()
            .max_capacity(HOT_KIB)
            .weigher(|_, bytes: &Bytes| u32::try_from(bytes.len() / 1024 + 1).unwrap_or(u32::MAX))
            .eviction_policy(EvictionPolicy::lru())
            .build();
        let mirror = Shared {
            fills: Fills::new(settings.fills, store.clone(), fills_on),
            store,
            origins,
            v1: v1::V1Origin::all(settings.v1)?,
            hot,
            missing: Missing::new(),
            callers: Callers::new(),
            searched: catalogue::searched(),
            conversions: conversion::Conversions::new(),
            searching: Flights::default(),
            pages: lists::pages(),
            lists: Generations::default(),
            listing: Flights::default(),
            resolving: Flights::default(),
            fetching: Flights::default(),
            claiming: Flights::default(),
            proving: Flights::default(),
            asking: Flights::default(),
            preparing: synthesis::Preparing::default(),
        };
        let mirror = Self {
            shared: Arc::new(mirror),
        };
        mirror.resume_partials();
        Ok(mirror)
    }

    /// Goes on with what an earlier process had begun, from those of its sources that are still configured.
    /// Where it came by a caller's login, which is kept nowhere, it waits for one who is let in.
    fn resume_partials(&self) {
        for (digest, note) in self.shared.store.blobs.partials() {
            let sources = note.sources.iter().filter_map(|(registry, repository)| {
                let origin = self.shared.origins.get(&Registry::new(registry));
                let origin = origin.filter(|origin| !origin.callers)?;
                Some(FillSource::Blob(BlobSource {
                    origin: origin.clone(),
                    repository: repository.parse().ok()?,
                }))
            });
            for source in sources {
                let key = FillKey::Digest(digest);
                self.shared.fills.join(key, source, true);
            }
        }
    }

    /// Where a registry is asked, for the log.
    pub fn upstream_of(&self, registry: &Registry) -> &str {
        self.shared
            .origins
            .get(registry)
            .filter(|origin| !origin.upstream.is_absent())
            .map_or("-", |origin| origin.upstream.origin())
    }

    /// The origin of a permit's registry.
    fn origin(&self, permit: &Permit) -> Result<Arc<Origin>, MirrorError> {
        self.origin_for(permit.registry(), permit.presented())
    }
}

impl Shared {
    /// A body of at most `most` bytes: from memory, or from the disk into memory. `None` when it is not here, or
    /// longer, of which nothing is read.
    async fn small(&self, digest: &Digest, most: u64) -> Result<Option<Bytes>, MirrorError> {
        if let Some(bytes) = self.hot.get(digest) {
            self.store.blobs.touch(digest);
            return Ok(Some(bytes));
        }
        let (blobs, digest) = (self.store.blobs.clone(), *digest);
        let read = tokio::task::spawn_blocking(move || {
            let bytes = blobs.load(&digest, most)?;
            Ok(bytes.map(Bytes::from))
        });
        let bytes = read
            .await
            .map_err(std::io::Error::other)
            .and_then(|bytes| bytes);
        let bytes = bytes.map_err(|error| MirrorError::Disk(Arc::new(error)))?;
        if let Some(bytes) = &bytes
            && bytes.len() as u64 <= HOT_BODY
        {
            self.hot.insert(digest, bytes.clone());
        }
        Ok(bytes)
    }
}
