//! Floor 2, cached reads: answers from the store, or fills it.
//!
//! Every function takes a [`Permit`], so nothing is looked up before it is allowed. Blobs and manifests
//! by digest are immutable; tags are pointers with a life.

mod attempts;
mod blob;
mod bucket;
mod caller;
mod catalogue;
mod cold_blob;
mod contents;
mod download;
mod error;
mod fallback;
mod fill;
mod fill_reader;
mod freshness;
mod lists;
mod manifest;
mod merged_lists;
mod mount;
mod negative_cache;
mod pass_through;
mod public;
mod purge;
mod reader;
mod sent_ahead;
mod source;
mod tag;
mod warm;
mod write_outcome;
mod writes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use blob::{BlobAnswer, BlobHead};
pub use catalogue::{NamePage, RequestBudget, filter_map_yielding};
pub use contents::{Contents, StoredBlob};
pub use error::{BUSY_RETRY, MirrorError, ResourceKind};
pub use fallback::{Fallback, FallbackBlob, Preparation};
pub use fill::FillError;
pub use freshness::{
    CheckedAnswer, Freshness, KnownAnswer, Stale, StaleReason, WaitLimits, fresh_for, revalidate,
    stale_age, unix_seconds,
};
pub use lists::PageAnswer;
pub use manifest::{ManifestAnswer, UNCACHED_DEADLINE};
pub use purge::{Purge, Target, Verified};
pub use reader::{ReadError, Reader};
pub use source::{DigestCheck, FillKey, ForeignSource};
pub use warm::{ImageReference, WarmError, WarmProgress};
pub use write_outcome::{WriteOutcome, WriteRequest, write_outcome};
pub use writes::{
    Body, BodyEnd, Feed, PassThroughRequest, Passed, PassedError, PendingWrite, is_whole_json,
};

use access::Permit;
use caller::{AdmittedCallers, CallerKey};
use manifest::ManifestKey;
use negative_cache::NegativeCache;
use oci::name::{Registry, Repository};
use public::PublicKey;
use runtime::generation::Generations;
use runtime::single_flight::SingleFlight;
use source::{BlobSource, FillSource};
use store::Store;
use tag::{ResolvedTag, TagKey};
use upstream::{self, SetUpError, Upstream, UpstreamError};

/// One registry as the mirror sees it.
#[derive(Clone, Debug)]
pub struct OriginSettings {
    pub registry: Registry,
    /// `None` where clients get only what the fallback has.
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
    pub stale_after: Duration,
    pub visibility: Visibility,
    pub heads: HeadPolicy,
}

/// Which content of a registry is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// All that the gateway's account may read.
    Account,
    /// What an anonymous client may read there, though the gateway's account may read more.
    PublicOnly,
    /// What the caller may read: the registry is asked with the caller's login, never with the gateway's.
    Caller,
}

/// What a HEAD of content that is here is answered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadPolicy {
    /// By what is here.
    Cached,
    /// By the upstream, each time: a pusher skips the upload of what a HEAD finds, and the upstream may have lost it.
    Revalidated,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub origins: Vec<OriginSettings>,
}

/// A registry with its client.
#[derive(Debug)]
struct Origin {
    registry: Registry,
    upstream: Option<Upstream>,
    tag_ttl: Duration,
    missing_ttl: Duration,
    link_ttl: Duration,
    max_stale: Option<Duration>,
    stale_after: Duration,
    visibility: Visibility,
    heads: HeadPolicy,
    /// Whose view of it this is, where it decides for each caller.
    caller_key: Option<CallerKey>,
    /// When something was last written through us, in seconds since 1970: what another node learned before
    /// may no longer be so.
    written_at: AtomicU64,
}

impl Origin {
    /// The v2 side. What a registry without one is asked for, it does not have.
    fn v2(&self) -> Result<&Upstream, UpstreamError> {
        self.upstream.as_ref().ok_or(UpstreamError::NotFound)
    }

    fn is_per_caller(&self) -> bool {
        self.visibility == Visibility::Caller
    }

    /// How long it is waited for.
    fn wait(&self) -> WaitLimits {
        WaitLimits {
            with_known: self.stale_after,
            without_known: UNCACHED_DEADLINE,
        }
    }
}

/// The cached read side of all registries. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Mirror {
    state: Arc<MirrorState>,
}

#[derive(Debug)]
struct MirrorState {
    contents: Contents,
    store: Arc<Store>,
    origins: HashMap<Registry, Arc<Origin>>,
    fallback: Option<Arc<dyn Fallback>>,
    missing: NegativeCache,
    pages: lists::Pages,
    /// Of the lists of each repository.
    list_generations: Generations<(Registry, Repository)>,
    page_requests: SingleFlight<(lists::PageKey, u64), Result<Arc<lists::CachedPage>, MirrorError>>,
    tag_requests: SingleFlight<(TagKey, u64), Result<ResolvedTag, MirrorError>>,
    callers: AdmittedCallers,
    names: catalogue::NameCache,
    name_requests: SingleFlight<Registry, Result<Arc<[Repository]>, MirrorError>>,
    manifest_requests: SingleFlight<
        (ManifestKey, Option<CallerKey>, u64),
        Result<manifest::FetchedManifest, MirrorError>,
    >,
    blob_requests: SingleFlight<(blob::ClaimKey, Option<CallerKey>, u64), blob::Claimed>,
    public_checks: SingleFlight<PublicKey, Result<(), MirrorError>>,
}

impl Mirror {
    /// `fallback` is what registries have beside their v2 sides.
    ///
    /// # Errors
    /// When a client cannot be set up.
    pub fn new(
        settings: Settings,
        contents: Contents,
        fallback: Option<Arc<dyn Fallback>>,
    ) -> Result<Self, SetUpError> {
        let mut origins = HashMap::new();
        for origin in settings.origins {
            let settings = origin;
            let upstream = settings.upstream.map(Upstream::new).transpose()?;
            let origin = Origin {
                registry: settings.registry,
                upstream,
                tag_ttl: settings.tag_ttl,
                missing_ttl: settings.missing_ttl,
                link_ttl: settings.link_ttl,
                max_stale: settings.max_stale,
                stale_after: settings.stale_after,
                visibility: settings.visibility,
                heads: settings.heads,
                caller_key: None,
                written_at: AtomicU64::new(0),
            };
            origins.insert(origin.registry.clone(), Arc::new(origin));
        }
        let mirror = MirrorState {
            store: contents.store.clone(),
            contents,
            origins,
            fallback,
            missing: NegativeCache::new(),
            callers: AdmittedCallers::new(),
            names: catalogue::name_cache(),
            name_requests: SingleFlight::default(),
            pages: lists::pages(),
            list_generations: Generations::default(),
            page_requests: SingleFlight::default(),
            tag_requests: SingleFlight::default(),
            manifest_requests: SingleFlight::default(),
            blob_requests: SingleFlight::default(),
            public_checks: SingleFlight::default(),
        };
        let mirror = Self {
            state: Arc::new(mirror),
        };
        mirror.resume_partials();
        Ok(mirror)
    }

    /// Goes on with what an earlier process had begun, from those of its sources that are still configured.
    /// Where it came by a caller's login, which is kept nowhere, it waits for one who is let in.
    fn resume_partials(&self) {
        for (digest, note) in self.state.store.blobs.partials() {
            let sources = note.sources.iter().filter_map(|(registry, repository)| {
                let origin = self.state.origins.get(&Registry::new(registry));
                let origin = origin.filter(|origin| !origin.is_per_caller())?;
                Some(FillSource::Blob(BlobSource {
                    origin: origin.clone(),
                    repository: repository.parse().ok()?,
                }))
            });
            for source in sources {
                let key = FillKey::Digest(digest);
                self.state.contents.fills.join(key, source, true);
            }
        }
    }

    /// Where a registry is asked, for the log.
    pub fn upstream_of(&self, registry: &Registry) -> &str {
        self.state
            .origins
            .get(registry)
            .and_then(|origin| origin.upstream.as_ref())
            .map_or("-", Upstream::origin)
    }

    /// The origin of a permit's registry.
    fn origin(&self, permit: &Permit) -> Result<Arc<Origin>, MirrorError> {
        self.origin_for(permit.registry(), permit.forwarded())
    }
}
