//! Dry runs of reads: what they would be answered and what they would ask upstream, decided by the functions that decide
//! it for clients. Nothing is asked, stored, counted or noted as a use.
//!
//! A dry run assumes that the upstream confirms what is known, and has what is not. It blocks on the disk.

mod content;
mod gate;
mod pull;
mod tag;
mod tag_move;

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::error::ResourceKind;
use super::freshness::{Stale, is_fresh, stale_age};
use super::gate::{Content, check_names};
use super::origin::{ContentScope, OriginView};
use super::public::PUBLIC_TTL;
use super::{Mirror, MirrorError, MirrorState};
use access::Permit;
use http::Method;
use oci::cache_status::CacheStatus;
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::{Reference, RepositoryName};
use oci::v2::{Query, Resource};
use store::{BlobKey, Inspected, ManifestKey, PublicKey, TypedKey, warn_degraded};
use upstream::{ManifestHead, Preview, Read};

pub use gate::GateOutcome;
pub use pull::PlannedPull;
pub use tag::{KnownTag, TagFreshness};

/// The reads of one caller in one repository, made one after the other.
#[derive(Debug)]
pub struct DryRun {
    state: Arc<MirrorState>,
    origin: OriginView,
    permit: Permit,
    now: SystemTime,
    instant: Instant,
    /// What the registry said when it was asked, for the reference that it was asked about.
    said: Option<RegistryAnswer>,
    requests: Vec<PlannedRequest>,
    /// The manifests that earlier reads of this run would have linked.
    linked: HashSet<Digest>,
    /// Those, and the blobs, that they would have fetched.
    fetched: HashSet<Digest>,
    /// What the manifests name that the gate would have served.
    named: HashSet<Content>,
    /// The manifests whose signature it has looked for, and whether a stored one verifies.
    signed: HashMap<Digest, bool>,
    /// Whether earlier reads of this run would have been admitted to the repository.
    is_admitted: bool,
}

/// A request that a read would send upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRequest {
    /// HEAD or GET.
    pub method: Method,
    /// Where to: redirects lead on from there. A digest that is not known yet is `sha256:…`.
    pub url: String,
    /// Whether the registry counts it against its limit of pulls.
    pub is_counted: bool,
    /// What it is for.
    pub reason: RequestReason,
    /// The length of the body that it fetches, in bytes; `None` if unknown.
    pub bytes: Option<u64>,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestReason {
    /// No pointer of the tag is stored.
    TagUnknown,
    /// The tag was confirmed so long ago.
    TagStale(Duration),
    /// Registries make such a manifest by its tag alone.
    ByTagAlone,
    /// What the tag points at is not known. It is not fetched if it is stored.
    TargetUnknown,
    /// Its bytes are not stored.
    NotStored,
    /// Some of its bytes are stored.
    Resumed,
    /// Its bytes are stored, and the repository is not known to have it.
    NotLinked,
    /// The repository was confirmed to have it so long ago; it is asked behind the answer.
    LinkStale(Duration),
    /// The gate reads it only if it is short.
    LengthUnknown,
    /// Whether the repository is public is not known.
    PublicCheck,
    /// The registry decides for each caller.
    CallerCheck,
    /// No list of the repository is cached.
    ListUnknown,
    /// The v1 side is asked for what the v2 side does not have.
    Fallback,
    /// Nothing of the registry is cached.
    PassThrough,
}

/// What the registry said to the one HEAD of an operator.
#[derive(Clone, Debug)]
pub struct RegistryAnswer {
    /// What it was asked for.
    pub reference: Reference,
    /// For which clients.
    pub class: AcceptClass,
    /// The head of the manifest, or the refusal or failure.
    pub head: Result<ManifestHead, MirrorError>,
}

/// A manifest, as a read would be answered.
#[derive(Clone, Debug)]
pub struct DryManifest {
    /// `None`: only the registry knows where the tag points.
    pub digest: Option<Digest>,
    /// As the registry sent it; `None` if it is not known.
    pub media_type: Option<String>,
    /// Its bytes, if they are stored.
    pub bytes: Option<Vec<u8>>,
    /// How the cache would handle the request.
    pub cache: CacheStatus,
    /// Present if the upstream cannot confirm the answer now.
    pub stale: Option<Stale>,
    /// What the gate of the registry does; `None`: it has none.
    pub gate: Option<GateOutcome>,
}

impl Mirror {
    /// A dry run at `now` for the holder of a permit; `said` is what the registry was just asked.
    ///
    /// # Errors
    /// [`MirrorError::NotServed`] for a registry without a v2 side.
    pub fn dry_run(
        &self,
        permit: &Permit,
        said: Option<RegistryAnswer>,
        now: SystemTime,
    ) -> Result<DryRun, MirrorError> {
        Ok(DryRun {
            state: self.state.clone(),
            origin: self.origin(permit)?,
            permit: permit.clone(),
            now,
            instant: Instant::now(),
            said,
            requests: Vec::new(),
            linked: HashSet::new(),
            fetched: HashSet::new(),
            named: HashSet::new(),
            signed: HashMap::new(),
            is_admitted: false,
        })
    }

    /// Asks the registry for the head of a manifest, once, and stores nothing of it.
    ///
    /// # Errors
    /// [`MirrorError::NotServed`] for a registry without a v2 side. Its refusal is in the answer.
    pub async fn ask_registry(
        &self,
        permit: &Permit,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<RegistryAnswer, MirrorError> {
        let (origin, class) = (self.origin(permit)?, class.request_class());
        let head = async {
            let upstream = origin.upstream()?;
            let repository = permit.repository();
            upstream.manifest_head(repository, reference, class).await
        };
        let head = head
            .await
            .map_err(|error| MirrorError::from_upstream(Arc::new(error), ResourceKind::Manifest));
        Ok(RegistryAnswer {
            reference: reference.clone(),
            class,
            head,
        })
    }
}

impl DryRun {
    /// The requests that the reads so far would have sent, in order.
    pub fn requests(&self) -> &[PlannedRequest] {
        &self.requests
    }

    /// Adds requests that another part of the gateway would send for these reads.
    pub fn add_requests(&mut self, requests: impl IntoIterator<Item = PlannedRequest>) {
        self.requests.extend(requests);
    }

    /// Takes note of a GET of a manifest that is passed on, as nothing of the registry is cached.
    ///
    /// # Errors
    /// Why it would not be sent.
    pub fn pass_through(
        &mut self,
        reference: &Reference,
        class: AcceptClass,
    ) -> Result<(), MirrorError> {
        let read = Read::Manifest(reference, class);
        self.send(read, RequestReason::PassThrough, None)
    }

    /// The first page of the repository's tags, with this query.
    ///
    /// # Errors
    /// The error of such a read.
    pub fn tags(&mut self, query: &Query) -> Result<(), MirrorError> {
        self.admit(&Resource::Tags)?;
        let known = if self.origin.caller_key().is_none() {
            let key = (self.name().clone(), Resource::Tags, query.clone());
            self.state.page_age(&key)?
        } else {
            None
        };
        if known.is_some_and(|age| age < MirrorState::page_ttl(&self.origin)) {
            return Ok(());
        }
        let sent = self.send(Read::Tags(query), RequestReason::ListUnknown, None);
        match sent {
            Err(error) if known.is_some() && error.stale_reason().is_some() => Ok(()),
            sent => sent,
        }
    }

    fn name(&self) -> &RepositoryName {
        self.permit.name()
    }

    /// What the registry said of a reference when an operator asked it.
    fn said_of(
        &self,
        reference: &Reference,
        class: AcceptClass,
    ) -> Option<Result<ManifestHead, MirrorError>> {
        let said = self.said.as_ref();
        let said = said.filter(|said| said.reference == *reference && said.class == class);
        said.map(|said| said.head.clone())
    }

    /// A record, without noting a use. An unreadable disk counts as a miss, as it does for clients.
    fn inspect<K: TypedKey>(&self, key: &K) -> Option<Inspected<K::Value>>
    where
        K::Value: Clone,
    {
        let found = self.state.store.inspect(key);
        found.unwrap_or_else(|error: io::Error| {
            warn_degraded("a record cannot be read", &error);
            None
        })
    }

    /// Plans a request, if it would be sent.
    fn send(
        &mut self,
        read: Read<'_>,
        reason: RequestReason,
        bytes: Option<u64>,
    ) -> Result<(), MirrorError> {
        let kind = match read {
            Read::BlobHead(_) | Read::Blob(_) | Read::Anonymous(Resource::Blob(_)) => {
                ResourceKind::Blob
            }
            Read::Tags(_) => ResourceKind::Repository,
            Read::ManifestHead(..) | Read::Manifest(..) | Read::Anonymous(_) => {
                ResourceKind::Manifest
            }
        };
        let refused = |error| MirrorError::from_upstream(Arc::new(error), kind);
        let upstream = self.origin.upstream().map_err(refused)?;
        let repository = self.permit.repository();
        let preview = upstream.preview(repository, read, self.instant);
        let request = PlannedRequest::of(preview, reason, bytes).map_err(refused)?;
        self.requests.push(request);
        Ok(())
    }

    /// Admits a read to a registry that is not the same for all callers, as [`Mirror::admit`] does.
    fn admit(&mut self, resource: &Resource) -> Result<(), MirrorError> {
        check_names(&self.origin, &self.permit, resource)?;
        if self.origin.content_scope() == ContentScope::PublicOnly && !self.is_admitted {
            self.admit_public(resource)?;
        }
        if self.origin.caller_key().is_some() {
            self.admit_caller(resource)?;
        }
        Ok(())
    }

    fn admit_public(&mut self, resource: &Resource) -> Result<(), MirrorError> {
        let known = self.inspect(&PublicKey::new(self.name()));
        let checked_at = known.map(|known| known.value.checked_at);
        let is_public = checked_at.is_some_and(|at| is_fresh(at, PUBLIC_TTL, self.now));
        if !is_public {
            let max_stale = self.origin.max_stale();
            let usable = checked_at.and_then(|at| stale_age(at, max_stale, self.now));
            let read = Read::Anonymous(resource);
            match self.send(read, RequestReason::PublicCheck, None) {
                Err(error) if usable.is_none() || error.stale_reason().is_none() => {
                    return Err(error);
                }
                _ => {}
            }
        }
        self.is_admitted = true;
        Ok(())
    }

    fn admit_caller(&mut self, resource: &Resource) -> Result<(), MirrorError> {
        let is_linked = match resource {
            Resource::Blob(digest) => {
                let key = BlobKey::new(self.name(), digest);
                self.inspect(&key).is_some()
            }
            Resource::Manifest(Reference::Digest(digest)) => {
                let key = ManifestKey::new(self.name(), digest);
                self.linked.contains(digest) || self.inspect(&key).is_some()
            }
            // Tags and lists are asked for anyway.
            _ => return Ok(()),
        };
        let key = self.origin.caller_key();
        let admitted = key.is_some_and(|key| self.state.callers.admits(key, self.name()));
        if is_linked && (admitted || self.is_admitted) {
            return Ok(());
        }
        let reason = RequestReason::CallerCheck;
        match resource {
            Resource::Blob(digest) => self.send(Read::BlobHead(digest), reason, None)?,
            Resource::Manifest(reference) => {
                let read = Read::ManifestHead(reference, AcceptClass::Full);
                self.send(read, reason, None)?;
                if let Reference::Digest(digest) = reference {
                    self.linked.insert(*digest);
                }
            }
            _ => {}
        }
        self.is_admitted = true;
        Ok(())
    }
}

impl RequestReason {
    /// Whether the request is sent in any case, as far as is known.
    pub const fn is_certain(self) -> bool {
        !matches!(self, Self::TargetUnknown)
    }
}

impl PlannedRequest {
    /// A request, if it would be sent.
    ///
    /// # Errors
    /// Why it would be held back.
    pub fn of(
        preview: Preview,
        reason: RequestReason,
        bytes: Option<u64>,
    ) -> Result<Self, upstream::UpstreamError> {
        let Preview {
            method,
            url,
            is_counted,
            held_back,
        } = preview;
        match held_back {
            Some(error) => Err(error),
            None => Ok(Self {
                method,
                url,
                is_counted,
                reason,
                bytes,
            }),
        }
    }
}
