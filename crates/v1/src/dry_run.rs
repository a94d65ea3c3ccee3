//! Dry runs of pulls by v1 clients, and of what v2 clients are served from the v1 side: as those of the mirror, nothing is
//! asked, stored or noted as a use.

use std::io;
use std::time::{Instant, SystemTime};

use super::layer::endpoint as layer_endpoint;
use super::origin::V1Origin;
use super::records::{BodyPointer, BodyRecords, ConvertedKind, ConvertedRecords};
use super::v1_to_v2::V1Repository;
use super::v2_to_v1::first_page;
use super::{Registries, V1};
use access::Permit;
use mirror::{
    DryRun, Freshness, GateOutcome, MirrorError, PlannedRequest, ReadMethod, RequestReason,
    ResourceKind, Stale, StaleReason, TagFreshness, fresh_for, stale_age,
};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::manifest::{AcceptClass, is_index};
use oci::name::{RepositoryName, Tag};
use oci::v1::{Endpoint, ImageId, Part, Resource, id_of_tag, ids_in_list};
use oci::v2_to_v1::{ClientPlatform, ImageManifest, choose, top_id};
use store::{Store, warn_degraded};
use upstream::UpstreamError;

/// Where a v1 client's image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1Source {
    /// The registry's v1 API, each time.
    PassThrough,
    /// The registry's v1 API, through the cache.
    Cached,
    /// The registry's v2 API: the image is converted.
    Bridge,
}

/// What a v1 client's pull would do.
#[derive(Clone, Debug)]
pub struct PlannedV1Pull {
    /// Where the image comes from.
    pub source: V1Source,
    /// How the cache would handle the first request, for the list of images.
    pub cache: CacheStatus,
    /// Why that list is served without the registry's word, if it is.
    pub stale: Option<StaleReason>,
    /// Whether the cached list of tags is trusted; of a bridged image, that of the v2 tag.
    pub tags: TagFreshness,
    /// The image that the tag names, as far as it is known.
    pub image: Option<ImageId>,
    /// That image and its ancestors, as far as they are known; of an image of the v1 API.
    pub images: Vec<PlannedImage>,
    /// The manifest of a bridged image, if it is known.
    pub manifest: Option<Digest>,
    /// What the gate of the registry does with it; `None`: it has none.
    pub gate: Option<GateOutcome>,
    /// Whether requests are left out that depend on what only the registry can name.
    pub is_incomplete: bool,
}

/// An image of the v1 API.
#[derive(Clone, Debug)]
pub struct PlannedImage {
    /// Its id.
    pub id: ImageId,
    /// Whether its JSON is stored.
    pub has_json: bool,
    /// Its layer.
    pub layer: PlannedLayer,
}

/// A layer of the v1 API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedLayer {
    /// Known once it was fetched.
    pub digest: Option<Digest>,
    /// In bytes, if known.
    pub size: Option<u64>,
    /// Whether its bytes are stored.
    pub is_stored: bool,
}

/// A dry run against the v1 side of a registry.
struct V1Run<'a> {
    store: &'a Store,
    origin: &'a V1Origin,
    now: SystemTime,
    instant: Instant,
    requests: Vec<PlannedRequest>,
}

/// A cached body, and how far it is trusted.
struct KnownBody {
    bytes: Option<Vec<u8>>,
    freshness: TagFreshness,
}

impl V1 {
    /// A v1 client's pull at `now`; `run` reads v2 images. The requests are added to those of the run.
    ///
    /// # Errors
    /// The error that its first request would get.
    pub fn dry_run(
        &self,
        run: Result<&mut DryRun, MirrorError>,
        permit: &Permit,
        (tag, platform): (&Tag, &ClientPlatform),
        now: SystemTime,
    ) -> (Result<PlannedV1Pull, MirrorError>, Vec<PlannedRequest>) {
        let registry = permit.registry();
        let origin = self.registries.origins.get(registry);
        let mut requests = Vec::new();
        if let Some(origin) = origin {
            let mut v1_run = V1Run {
                store: self.store(),
                origin,
                now,
                instant: Instant::now(),
                requests: Vec::new(),
            };
            let is_bridged = self.bridges_v2(registry)
                && run
                    .as_ref()
                    .is_ok_and(|run| v1_run.has_only_v2(run, permit.name(), tag));
            let planned = v1_run.native(permit.name(), tag, is_bridged);
            requests = v1_run.requests;
            if !is_bridged || planned.is_err() {
                return (planned, requests);
            }
        } else if !self.bridges_v2(registry) {
            let kind = ResourceKind::Repository;
            let unknown = MirrorError::Unknown {
                kind,
                remembered: false,
            };
            return (Err(unknown), requests);
        }
        let planned = run.and_then(|run| {
            let planned = bridged(run, tag, platform);
            requests.extend(run.requests().iter().cloned());
            planned
        });
        (planned, requests)
    }
}

/// A v1 client's pull of a converted image.
fn bridged(
    run: &mut DryRun,
    tag: &Tag,
    platform: &ClientPlatform,
) -> Result<PlannedV1Pull, MirrorError> {
    let tags = run.known_tag(tag, AcceptClass::Full).freshness;
    run.tags(&first_page())?;
    let head = run.manifest_by_tag(tag, AcceptClass::Full, ReadMethod::Head)?;
    let mut pull = PlannedV1Pull {
        source: V1Source::Bridge,
        // The list of images is generated.
        cache: CacheStatus::own("v1"),
        stale: None,
        tags,
        image: head.digest.map(|digest| top_id(&digest, platform)),
        images: Vec::new(),
        manifest: head.digest,
        gate: head.gate,
        is_incomplete: true,
    };
    let mut next = head.digest;
    while let Some(digest) = next.take() {
        let manifest = run.manifest(&digest)?;
        let Some(bytes) = manifest.bytes else {
            return Ok(pull);
        };
        if manifest.media_type.as_deref().is_some_and(is_index) {
            let children = choose(&bytes, platform).unwrap_or_default();
            next = children.first().map(|child| child.digest);
            continue;
        }
        let Ok(image) = ImageManifest::parse(&bytes) else {
            return Ok(pull);
        };
        run.blob(&image.config, None)?;
        for layer in &image.layers {
            run.blob(&layer.digest, Some(layer.size))?;
        }
        pull.is_incomplete = false;
    }
    Ok(pull)
}

impl V1Run<'_> {
    /// A pull from the registry's v1 API; of an image that only its v2 API has, the lists alone are asked for.
    fn native(
        &mut self,
        name: &RepositoryName,
        tag: &Tag,
        is_bridged: bool,
    ) -> Result<PlannedV1Pull, MirrorError> {
        let is_cached = self.origin.mirrored;
        let mut pull = PlannedV1Pull {
            source: if is_cached {
                V1Source::Cached
            } else {
                V1Source::PassThrough
            },
            cache: CacheStatus::forward(Forward::Bypass),
            stale: None,
            tags: TagFreshness::Absent,
            image: None,
            images: Vec::new(),
            manifest: None,
            gate: None,
            is_incomplete: true,
        };
        let named = |resource| Endpoint::Named {
            repository: name.repository.clone(),
            resource,
        };
        let (lists, tags) = (named(Resource::Images), named(Resource::Tags));
        if !is_cached || is_bridged {
            for endpoint in [lists, tags] {
                self.send(&endpoint, RequestReason::PassThrough, None)?;
            }
            return Ok(pull);
        }
        let (_, first) = self.list(&lists)?;
        pull.cache = first.cache_status(false);
        pull.stale = first.stale().map(|stale| stale.reason);
        let (known, _) = self.list(&tags)?;
        pull.tags = known.freshness;
        let bytes = known.bytes.unwrap_or_default();
        pull.image = id_of_tag(&bytes, tag.as_str());
        let Some(top) = pull.image.clone() else {
            return Ok(pull);
        };
        let ancestry = self.part(&top, Part::Ancestry)?;
        let ids = ancestry
            .map(|bytes| ids_in_list(&bytes))
            .unwrap_or_default();
        pull.is_incomplete = ids.is_empty();
        for id in ids {
            let has_json = self.part(&id, Part::Json)?.is_some();
            let layer = self.layer(&id)?;
            pull.images.push(PlannedImage {
                id,
                has_json,
                layer,
            });
        }
        Ok(pull)
    }

    /// Whether the cache knows a tag from the v2 side alone.
    fn has_only_v2(&self, run: &DryRun, name: &RepositoryName, tag: &Tag) -> bool {
        let endpoint = Endpoint::Named {
            repository: name.repository.clone(),
            resource: Resource::Images,
        };
        let is_v2 = run.known_tag(tag, AcceptClass::Full).pointer.is_some();
        is_v2 && self.pointer(&endpoint).is_none()
    }

    /// A list, as `V1::v1_named` reads it.
    fn list(&mut self, endpoint: &Endpoint) -> Result<(KnownBody, Freshness), MirrorError> {
        let pointer = self.pointer(endpoint);
        let bytes = pointer.as_ref().and_then(|known| self.body(known));
        let origin = self.origin;
        let checked_at = pointer.as_ref().map(|known| known.checked_at);
        let left = checked_at.and_then(|at| fresh_for(at, origin.tag_ttl, self.now));
        if let (Some(left), Some(_)) = (left, &bytes) {
            let fresh = Freshness::Fresh { left };
            let freshness = TagFreshness::Fresh(left);
            return Ok((KnownBody { bytes, freshness }, fresh));
        }
        let age = checked_at.and_then(|at| stale_age(at, origin.max_stale, self.now));
        let freshness = match (checked_at, age) {
            (None, _) => TagFreshness::Absent,
            (Some(_), Some(age)) => TagFreshness::Stale(age),
            (Some(_), None) => TagFreshness::Expired,
        };
        let reason = match freshness {
            TagFreshness::Stale(age) => RequestReason::TagStale(age),
            _ => RequestReason::ListUnknown,
        };
        let served = match (self.send(endpoint, reason, None), age, &bytes) {
            (Ok(()), _, _) if checked_at.is_some() => Freshness::Revalidated,
            (Ok(()), _, _) => Freshness::Fetched,
            (Err(error), Some(age), Some(_)) => match error.stale_reason() {
                Some(reason) => Freshness::Stale(Stale { age, reason }),
                None => return Err(error),
            },
            (Err(error), _, _) => return Err(error),
        };
        Ok((KnownBody { bytes, freshness }, served))
    }

    /// A part of an image, which is fetched once; its bytes, if they are stored.
    fn part(&mut self, id: &ImageId, part: Part) -> Result<Option<Vec<u8>>, MirrorError> {
        let endpoint = Endpoint::Image {
            id: id.clone(),
            part,
        };
        let bytes = self.pointer(&endpoint).and_then(|known| self.body(&known));
        if bytes.is_none() {
            self.send(&endpoint, RequestReason::NotStored, None)?;
        }
        Ok(bytes)
    }

    fn layer(&mut self, id: &ImageId) -> Result<PlannedLayer, MirrorError> {
        let endpoint = layer_endpoint(id);
        let known = self.pointer(&endpoint);
        let json = self.pointer(&Endpoint::Image {
            id: id.clone(),
            part: Part::Json,
        });
        let stored = |known: &BodyPointer| {
            let size = Some(known.size);
            let found = self.store.blobs.inspect(&known.digest, size);
            found.ok().flatten().is_some()
        };
        let layer = PlannedLayer {
            digest: known.as_ref().map(|known| known.digest),
            size: known
                .as_ref()
                .map(|known| known.size)
                .or_else(|| json?.layer_size),
            is_stored: known.as_ref().is_some_and(stored),
        };
        if !layer.is_stored {
            self.send(&endpoint, RequestReason::NotStored, layer.size)?;
        }
        Ok(layer)
    }

    /// Plans a GET, if it would be sent.
    fn send(
        &mut self,
        endpoint: &Endpoint,
        reason: RequestReason,
        bytes: Option<u64>,
    ) -> Result<(), MirrorError> {
        let request = plan(self.origin, endpoint, self.instant, reason, bytes)?;
        self.requests.push(request);
        Ok(())
    }

    fn pointer(&self, endpoint: &Endpoint) -> Option<BodyPointer> {
        let found = BodyRecords::inspect(self.store, &self.origin.registry, endpoint);
        found.unwrap_or_else(|error: io::Error| {
            warn_degraded("a pointer of the v1 API cannot be read", &error);
            None
        })
    }

    fn body(&self, known: &BodyPointer) -> Option<Vec<u8>> {
        self.store.inspect_manifest(&known.digest)
    }
}

/// A GET at a registry, or at its index if that serves the resource.
fn plan(
    origin: &V1Origin,
    endpoint: &Endpoint,
    now: Instant,
    reason: RequestReason,
    bytes: Option<u64>,
) -> Result<PlannedRequest, MirrorError> {
    let (server, kind) = match endpoint {
        Endpoint::Named { resource, .. } if resource.is_served_by_index() => {
            (origin.index_server(), ResourceKind::Repository)
        }
        Endpoint::Named { .. } => (&origin.upstream, ResourceKind::Repository),
        Endpoint::Image { .. } => (&origin.upstream, ResourceKind::Image),
    };
    let preview = server.preview(&endpoint.path(), now);
    let planned = PlannedRequest::of(preview, reason, bytes);
    let refused = |error: UpstreamError| MirrorError::from_upstream(error.into(), kind);
    planned.map_err(refused)
}

impl V1Repository {
    /// The request that resolves a tag.
    pub(super) fn plan_tag(&self, tag: &Tag) -> Result<PlannedRequest, MirrorError> {
        let endpoint = Endpoint::Named {
            repository: self.name.repository.clone(),
            resource: Resource::Tag(tag.clone()),
        };
        let reason = RequestReason::Fallback;
        plan(&self.origin, &endpoint, Instant::now(), reason, None)
    }
}

impl Registries {
    /// What supplies content of a converted image that is not stored: manifests and configurations are rebuilt from
    /// records, layers from the original. `None` for other content.
    pub(super) fn plan_content_of_v1(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<Result<Vec<PlannedRequest>, MirrorError>> {
        let source = self.v1_repository_of(name)?;
        let registry = &name.registry;
        let found = ConvertedRecords::inspect_origin(&self.store, registry, digest);
        let origin = found.ok().flatten()?;
        let id = origin.images().next()?;
        if origin.kind != ConvertedKind::Layer {
            return Some(Ok(Vec::new()));
        }
        let endpoint = layer_endpoint(&id);
        let known = BodyRecords::inspect(&self.store, registry, &endpoint);
        let known = known.ok().flatten();
        let is_stored = known.as_ref().is_some_and(|known| {
            let found = self.store.blobs.inspect(&known.digest, Some(known.size));
            found.ok().flatten().is_some()
        });
        if is_stored {
            return Some(Ok(Vec::new()));
        }
        let (reason, size) = (RequestReason::Fallback, known.map(|known| known.size));
        let request = plan(&source.origin, &endpoint, Instant::now(), reason, size);
        Some(request.map(|request| vec![request]))
    }
}
