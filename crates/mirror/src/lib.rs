//! Cached reads: answers from the store, or fills it from the upstream.
//!
//! Every function takes a [`Permit`](access::Permit), so nothing is looked up before it is allowed. Blobs and manifests
//! by digest are immutable; tags are pointers with a TTL. A *link* records that a repository has a blob or manifest; a
//! *claim* asks the upstream whether it does. What the gate of a registry has cleared is read, and nothing else.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod ahead;
mod attempts;
mod blob;
mod blob_answer;
mod blob_claim;
mod bucket;
mod caller;
mod catalogue;
mod cold_blob;
mod connection_limits;
mod connections;
mod contents;
mod deferred_moves;
mod download;
mod dry_run;
mod early_sync;
mod error;
mod fallback;
mod fill;
mod fill_reader;
mod fill_status;
mod freshness;
mod gate;
mod handover;
mod lists;
mod manifest;
mod manifest_claim;
mod merged_lists;
mod mount;
mod negative_cache;
mod origin;
mod pass_through;
mod peer;
mod peer_answer;
mod peer_ticket;
mod progress;
mod public;
mod publish;
mod purge;
mod reader;
mod reconfigure;
mod registry_status;
mod segments;
mod sent_ahead;
mod small_bodies;
mod source;
mod tag;
mod tag_move;
mod tag_resolve;
mod transfer;
mod waiting;
mod warm;
mod write_outcome;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use blob::BlobHead;
pub use blob_answer::BlobAnswer;
pub use catalogue::{NamePage, RequestBudget, filter_map_yielding};
pub use contents::{Contents, StoredBlob};
pub use dry_run::{
    DryManifest, DryRun, GateOutcome, KnownTag, PlannedPull, PlannedRequest, RegistryAnswer,
    RequestReason, TagFreshness,
};
pub use error::{BUSY_RETRY, MirrorError, ResourceKind};
pub use fallback::{Fallback, FallbackBlob, Preparation};
pub use fill_status::{FillPhase, FillStatus};
pub use freshness::{
    CheckedAnswer, Freshness, KnownAnswer, Stale, StaleReason, WaitLimits, fresh_for, revalidate,
    stale_age, unix_seconds,
};
pub use gate::GATE_RECORDS;
pub use handover::{FillNews, Successor, SuccessorQuery};
pub use lists::PageAnswer;
pub use manifest::{ManifestAnswer, ReadMethod, UNCACHED_DEADLINE};
pub use origin::{ContentScope, HeadPolicy, OriginSettings};
pub use peer::{PeerSettings, Peers};
pub use peer_answer::PeerQuery;
pub use peer_ticket::PeerKey;
pub use progress::FillError;
pub use purge::PurgeMode;
pub use reader::{CachedPart, ReadError, Reader};
pub use source::{DigestCheck, FillKey, ForeignSource};
pub use waiting::{Requester, WaitingClient};
pub use warm::{ImageReference, WarmError, WarmProgress};
pub use write_outcome::{WriteOutcome, WriteRequest, write_outcome};
pub use writes::{PassThroughRequest, PendingWrite};

use caller::{AdmittedCallers, CallerKey};
use deferred_moves::DeferredMoves;
use fill::SourceClaim;
use manifest_claim::ManifestRequestKey;
use negative_cache::NegativeCache;
use oci::name::{Registry, Repository, RepositoryName};
use origin::{OriginState, OriginView};
use public::PublicKey;
use runtime::generation::Generations;
use runtime::single_flight::SingleFlight;
use source::{BlobSource, FillSource};
use store::{BlobKey, Store};
use tag::ResolvedTag;
use upstream::SetUpError;

/// The settings of the cached read side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One for each registry, with distinct names.
    pub origins: Vec<OriginSettings>,
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
    origins: BTreeMap<Registry, Arc<OriginState>>,
    fallback: Option<Arc<dyn Fallback>>,
    missing: NegativeCache,
    gate: gate::GateState,
    pages: lists::Pages,
    /// The generations of each repository's lists.
    list_generations: Generations<RepositoryName>,
    page_requests: SingleFlight<(lists::PageKey, u64), Result<Arc<lists::CachedPage>, MirrorError>>,
    tag_requests: SingleFlight<tag_resolve::TagRequestKey, Result<ResolvedTag, MirrorError>>,
    deferred_moves: DeferredMoves,
    callers: AdmittedCallers,
    names: catalogue::NameCache,
    name_requests: SingleFlight<Registry, Result<Arc<[Repository]>, MirrorError>>,
    manifest_requests:
        SingleFlight<ManifestRequestKey, Result<manifest::FetchedManifest, MirrorError>>,
    blob_requests: SingleFlight<(BlobKey, Option<CallerKey>, u64), blob_claim::Claimed>,
    public_checks: SingleFlight<PublicKey, Result<(), MirrorError>>,
}

impl Mirror {
    /// `fallback` is asked for content that upstreams do not have.
    ///
    /// # Errors
    /// If an upstream's client cannot be set up.
    pub fn new(
        settings: Settings,
        contents: Contents,
        fallback: Option<Arc<dyn Fallback>>,
    ) -> Result<Self, SetUpError> {
        let mut origins = BTreeMap::new();
        for settings in settings.origins {
            let origin = OriginState::new(settings, None)?;
            origins.insert(origin.registry().clone(), Arc::new(origin));
        }
        let mirror = MirrorState {
            store: contents.store.clone(),
            contents,
            origins,
            fallback,
            missing: NegativeCache::new(),
            gate: gate::GateState::new(),
            callers: AdmittedCallers::new(),
            names: catalogue::name_cache(),
            name_requests: SingleFlight::default(),
            pages: lists::pages(),
            list_generations: Generations::default(),
            page_requests: SingleFlight::default(),
            tag_requests: SingleFlight::default(),
            deferred_moves: DeferredMoves::new(),
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

    /// Resumes the partials of an earlier process, from those of their sources that are still configured.
    /// A partial that a caller's login fetched waits for a request: logins are not stored.
    fn resume_partials(&self) {
        for (digest, note) in self.state.store.blobs.partials() {
            let sources = note.sources.iter().filter_map(|(registry, repository)| {
                let repository = repository.parse().ok()?;
                self.source_of_account(&Registry::new(registry), &repository)
            });
            for source in sources {
                let key = FillKey::Digest(digest);
                self.state
                    .contents
                    .fills
                    .join(key, source, SourceClaim::Proven);
            }
        }
    }

    /// A repository as a source, unless its registry is asked with the logins of clients.
    fn source_of_account(
        &self,
        registry: &Registry,
        repository: &Repository,
    ) -> Option<FillSource> {
        let origin = self.state.origins.get(registry);
        let origin = origin.filter(|origin| !origin.is_per_caller())?;
        Some(FillSource::Blob(BlobSource {
            origin: OriginView::of_account(origin.clone()),
            name: RepositoryName::new(origin.registry(), repository),
        }))
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<Store> {
        &self.state.store
    }

    /// Scheme and authority of a registry's upstream, for the log.
    pub fn upstream_of(&self, registry: &Registry) -> &str {
        self.state
            .origins
            .get(registry)
            .and_then(|origin| origin.upstream_name())
            .unwrap_or("-")
    }
}
