//! What is kept of the v1 API beside layers: descriptions and ancestries, which are immutable by their image's
//! id and never asked for again, and a repository's lists and tags, which are trusted for a while.
//!
//! All of them are whole small bodies, kept under the sha256 that was computed, with a pointer. The pointer
//! outlives the bytes: what was evicted is fetched again.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::registry::{Claim, MAX_LIST, V1Origin, store_token};
use super::{Registries, V1};
use crate::records::{BodyPointer, BodyRecords};
use access::Permit;
use mirror::{
    Freshness, KnownAnswer, MirrorError, ResourceKind, Stale, UNCACHED_DEADLINE, WaitLimits,
    fresh_for, revalidate, stale_age, unix_seconds,
};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::{Algorithm, Digest};
use oci::name::{Registry, Repository};
use oci::v1::{Endpoint, ImageId, Part, Resource, ids_in_list, ids_of_tags};
use runtime::single_flight::SingleFlight;
use store::{Store, warn_degraded};
use upstream::UpstreamError;

/// A question, and whose token it is asked with.
type FetchKey = (Registry, Endpoint, Option<Repository>);

/// Questions under way.
pub(super) type BodyFetches = SingleFlight<FetchKey, Result<FetchedBody, MirrorError>>;

/// What an upstream answered.
#[derive(Clone, Debug)]
pub(super) struct FetchedBody {
    body: Arc<BodyPointer>,
    bytes: Bytes,
}

/// A whole small body of the v1 API.
#[derive(Clone, Debug)]
pub struct V1Answer {
    pub bytes: Bytes,
    pub cache: CacheStatus,
    /// Where the upstream could not be asked whether it is still right.
    pub stale: Option<Stale>,
    /// Of a description: the length of the layer in bytes.
    pub layer_size: Option<u64>,
    /// Of a description: what its upstream said of the payload's checksum.
    pub checksum: Option<String>,
}

impl V1Answer {
    fn of(fetched: FetchedBody, cache: CacheStatus) -> Self {
        let FetchedBody { body, bytes } = fetched;
        Self {
            bytes,
            cache,
            stale: None,
            layer_size: body.layer_size,
            checksum: body.checksum.clone(),
        }
    }
}

impl V1 {
    /// Whether what a registry of the v1 API holds is kept here.
    pub fn v1_is_mirrored(&self, registry: &Registry) -> bool {
        let origin = self.registries.origins.get(registry);
        origin.is_some_and(|origin| origin.mirrored)
    }

    /// A list or tag of the permit's repository: as it was kept, as long as that is fresh. The images that it
    /// names are the repository's. Of a registry that others push to it is asked for each time.
    ///
    /// # Errors
    /// What the upstream said, where it had to be asked.
    pub async fn v1_named(
        &self,
        permit: &Permit,
        resource: &Resource,
    ) -> Result<V1Answer, MirrorError> {
        let origin = self.origin(permit.registry())?;
        let repository = permit.repository();
        let what = Endpoint::Named {
            repository: repository.clone(),
            resource: resource.clone(),
        };
        let known = self.registries.body_pointer(&origin, &what).await;
        let mut answer = None;
        if let Some(known) = known.as_ref().filter(|_| origin.mirrored)
            && let Some(left) = fresh_for(known.checked_at, origin.tag_ttl, SystemTime::now())
            && let Some(fetched) = self.registries.stored_body(known).await
        {
            let fresh = Freshness::Fresh { left };
            answer = Some(V1Answer::of(fetched, fresh.cache_status(false)));
        }
        let answer = match answer {
            Some(answer) => answer,
            None => self.v1_revalidate(&origin, repository, what, known).await?,
        };
        let ids = match resource {
            Resource::Images => ids_in_list(&answer.bytes),
            Resource::Tags | Resource::Tag(_) => ids_of_tags(&answer.bytes),
            _ => Vec::new(),
        };
        self.v1_link(permit, &ids).await?;
        Ok(answer)
    }

    /// An image's description.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] for images that are not the claim's, and what the upstream said.
    pub async fn v1_image_json(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<V1Answer, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        let mut answer = self
            .registries
            .image_part(&origin, repository, id, Part::Json)
            .await?;
        if answer.layer_size.is_none() {
            // Some registries do not say it.
            let part = Part::Layer;
            let layer = Endpoint::Image {
                id: id.clone(),
                part,
            };
            let layer = self.registries.body_pointer(&origin, &layer).await;
            answer.layer_size = layer.map(|layer| layer.size);
        }
        Ok(answer)
    }

    /// The ids of an image and of those below it, in JSON. They are the claim's, all of them.
    ///
    /// # Errors
    /// As [`V1::v1_image_json`].
    pub async fn v1_ancestry(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<V1Answer, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let repository = self.check_claim(&origin, claim, id).await?;
        let listed_in = repository.clone();
        let answer = self
            .registries
            .image_part(&origin, repository, id, Part::Ancestry)
            .await?;
        let ids = ids_in_list(&answer.bytes);
        match (claim, listed_in) {
            (Claim::Repository(permit), _) => self.v1_link(permit, &ids).await?,
            (Claim::OpenRegistry(_), Some(repository)) => {
                for id in ids {
                    origin.listed_in.insert(id, repository.clone());
                }
            }
            (Claim::OpenRegistry(_), None) => {}
        }
        Ok(answer)
    }

    /// A client says that an image is of this repository. That is no right to it, but tells whose token of our
    /// own to ask with.
    pub fn v1_hint_repository(&self, registry: &Registry, id: &ImageId, repository: &Repository) {
        if let Some(origin) = self.registries.origins.get(registry) {
            let repository = repository.clone();
            origin.hinted_in.insert(id.clone(), repository);
        }
    }

    /// Makes sure that an image is the claim's, and says whose token to ask with. Who got the image list
    /// elsewhere, as Docker with `--registry-mirror` does, is let in by the list that we get.
    pub(super) async fn check_claim(
        &self,
        origin: &Arc<V1Origin>,
        claim: Claim<'_>,
        id: &ImageId,
    ) -> Result<Option<Repository>, MirrorError> {
        let permit = match claim {
            Claim::OpenRegistry(_) => {
                // What an upstream said comes before what a client says.
                let said = || origin.hinted_in.get(id);
                return Ok(origin.listed_in.get(id).or_else(said));
            }
            Claim::Repository(permit) => permit,
        };
        let repository = Some(permit.repository().clone());
        if self.is_linked(permit, id).await? {
            return Ok(repository);
        }
        if origin.mirrored {
            match self.v1_named(permit, &Resource::Images).await {
                Ok(_) if self.is_linked(permit, id).await? => return Ok(repository),
                Ok(_) | Err(MirrorError::Unknown { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(MirrorError::Unknown {
            kind: ResourceKind::Image,
            remembered: false,
        })
    }

    /// Asks for a list anew. Where the upstream cannot answer, or not soon enough, what was `known` is the
    /// answer, with its age; the question goes on behind it.
    async fn v1_revalidate(
        &self,
        origin: &Arc<V1Origin>,
        repository: &Repository,
        what: Endpoint,
        known: Option<Arc<BodyPointer>>,
    ) -> Result<V1Answer, MirrorError> {
        let age =
            |known: &BodyPointer| stale_age(known.checked_at, origin.max_stale, SystemTime::now());
        let usable = match known.as_ref().and_then(|known| Some((known, age(known)?))) {
            Some((known, age)) => {
                let answer = self.registries.stored_body(known).await;
                answer.map(|answer| KnownAnswer { answer, age })
            }
            None => None,
        };
        let question = (origin.registry.clone(), what, Some(repository.clone()));
        let ask = async {
            let (fetched, collapsed) = self.registries.join_fetch(origin, question).await;
            (fetched.unwrap_or(Err(MirrorError::Internal)), collapsed)
        };
        let wait = WaitLimits {
            with_known: origin.stale_after,
            without_known: UNCACHED_DEADLINE,
        };
        let compare = |fetched: &FetchedBody| match known {
            Some(known) if known.digest == fetched.body.digest => Freshness::Revalidated,
            Some(_) => Freshness::Moved,
            None => Freshness::Fetched,
        };
        let checked = revalidate(usable, wait, ask, compare).await?;
        let (cache, stale) = (checked.cache_status(), checked.freshness.stale());
        Ok(V1Answer {
            stale,
            ..V1Answer::of(checked.answer, cache)
        })
    }
}

impl Registries {
    /// A description or ancestry, from here or from its registry.
    pub(super) async fn image_part(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        id: &ImageId,
        part: Part,
    ) -> Result<V1Answer, MirrorError> {
        let what = Endpoint::Image {
            id: id.clone(),
            part,
        };
        if let Some(known) = self.body_pointer(origin, &what).await
            && let Some(fetched) = self.stored_body(&known).await
        {
            return Ok(V1Answer::of(fetched, CacheStatus::HIT));
        }
        self.fetch_body(origin, repository, what).await
    }

    /// Something short, as its registry has it now. It is kept.
    pub(super) async fn fetch_body(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        what: Endpoint,
    ) -> Result<V1Answer, MirrorError> {
        let asked = self.join_fetch(origin, (origin.registry.clone(), what, repository));
        let Ok((fetched, collapsed)) = tokio::time::timeout(UNCACHED_DEADLINE, asked).await else {
            return Err(MirrorError::timed_out());
        };
        let fetched = fetched.unwrap_or(Err(MirrorError::Internal))?;
        let cache = CacheStatus::forward(Forward::UriMiss)
            .stored()
            .collapsed(collapsed);
        Ok(V1Answer::of(fetched, cache))
    }

    /// Asks, unless that is being asked already.
    async fn join_fetch(
        &self,
        origin: &Arc<V1Origin>,
        question: FetchKey,
    ) -> (Option<Result<FetchedBody, MirrorError>>, bool) {
        let start = || fetched(self.store.clone(), origin.clone(), question.clone());
        self.fetches.join(question.clone(), start).await
    }

    /// What is known of something. A disk that cannot say counts as nothing.
    pub(super) async fn body_pointer(
        &self,
        origin: &V1Origin,
        what: &Endpoint,
    ) -> Option<Arc<BodyPointer>> {
        let bodies = BodyRecords::of(&self.store);
        let opened = bodies.open(&origin.registry, what).await;
        opened.unwrap_or_else(|error| {
            warn_degraded("a pointer of the v1 API cannot be read", &error);
            None
        })
    }

    /// The bytes of a pointer, if they are here.
    async fn stored_body(&self, known: &Arc<BodyPointer>) -> Option<FetchedBody> {
        let bytes = match self
            .contents
            .load_small(&known.digest, MAX_LIST as u64)
            .await
        {
            Ok(bytes) => bytes?,
            Err(MirrorError::Disk(error)) => {
                warn_degraded("a body of the v1 API cannot be read", &*error);
                return None;
            }
            Err(_) => return None,
        };
        let body = known.clone();
        Some(FetchedBody { body, bytes })
    }
}

/// Asks the registry, or its index where that keeps it, and keeps the answer.
async fn fetched(
    store: Arc<Store>,
    origin: Arc<V1Origin>,
    question: FetchKey,
) -> Result<FetchedBody, MirrorError> {
    let (registry, what, repository) = question;
    let bodies = BodyRecords::of(&store);
    let asked = bodies.ask(&registry, &what);
    let (headers, bytes) = match ask(&origin, &what, repository.as_ref()).await {
        Ok(answered) => answered,
        Err(error) => {
            if matches!(error, UpstreamError::NotFound) {
                bodies.gone(&asked).await;
            }
            let kind = match what {
                Endpoint::Image { .. } => ResourceKind::Image,
                Endpoint::Named { .. } => ResourceKind::Repository,
            };
            return Err(failed(error, kind));
        }
    };
    if !is_usable(&what, &bytes) {
        let error = UpstreamError::Protocol("it is not what was asked for");
        return Err(MirrorError::Unusable(Arc::new(error)));
    }
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let checksum = text("x-docker-checksum-payload");
    let body = BodyPointer {
        digest: Digest::of(Algorithm::Sha256, &bytes),
        size: bytes.len() as u64,
        checked_at: unix_seconds(SystemTime::now()),
        layer_size: text("x-docker-size").and_then(|size| size.parse().ok()),
        checksum: checksum.or_else(|| text("x-docker-payload-checksum")),
    };
    let (blobs, digest, kept) = (store.blobs.clone(), body.digest, bytes.clone());
    let keep = tokio::task::spawn_blocking(move || match blobs.open(&digest, None) {
        Ok(Some(_)) => Ok(()),
        _ => blobs.keep(&digest, &kept),
    });
    if let Ok(Err(error)) = keep.await {
        warn_degraded("a body of the v1 API cannot be kept", &error);
    }
    let body = bodies.point(&asked, body).await;
    Ok(FetchedBody { body, bytes })
}

/// Asks for something short.
async fn ask(
    origin: &V1Origin,
    what: &Endpoint,
    repository: Option<&Repository>,
) -> Result<(HeaderMap, Bytes), UpstreamError> {
    let path = what.path();
    let resource = match what {
        Endpoint::Named { resource, .. } => Some(resource),
        Endpoint::Image { .. } => None,
    };
    if resource.is_some_and(Resource::is_served_by_index) {
        let index = origin.index.as_ref().unwrap_or(&origin.upstream);
        let answered = index.whole(path, None, MAX_LIST).await?;
        if let (Some(repository), Some(_)) = (repository, &origin.index) {
            store_token(origin, repository, false, &answered.0);
        }
        return Ok(answered);
    }
    let of_registry = |token| origin.upstream.whole(path.clone(), token, MAX_LIST);
    let answered = origin.with_token(repository, of_registry).await;
    match (answered, &origin.index, resource) {
        // Some indexes have the tags, and their registries do not.
        (Err(refused @ UpstreamError::NotFound), Some(index), Some(_)) => {
            let of_index = index.whole(path.clone(), None, MAX_LIST).await;
            of_index.map_err(|_| refused)
        }
        (answered, ..) => answered,
    }
}

/// Whether a body is of the shape that was asked for: what is kept for ever must not be some server's excuse.
fn is_usable(what: &Endpoint, bytes: &[u8]) -> bool {
    use serde_json::Value;

    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return false;
    };
    match what {
        Endpoint::Image {
            id,
            part: Part::Ancestry,
        } => ids_in_list(bytes).contains(id),
        Endpoint::Image { id, .. } => {
            let named = json.get("id").and_then(Value::as_str);
            json.is_object() && named.is_none_or(|named| named == id.as_str())
        }
        Endpoint::Named { resource, .. } => match resource {
            Resource::Images => json.is_array(),
            Resource::Tags => json.is_object(),
            Resource::Tag(_) => !ids_of_tags(bytes).is_empty(),
            _ => true,
        },
    }
}

/// What an upstream's error means for a client of the v1 API. 401 stays 401: that a login is missing is not
/// that there is nothing, nor that nobody may have it.
pub(super) fn failed(error: UpstreamError, asked: ResourceKind) -> MirrorError {
    of(Arc::new(error), asked)
}

pub(super) fn of(error: Arc<UpstreamError>, asked: ResourceKind) -> MirrorError {
    match error.root() {
        UpstreamError::Denied(StatusCode::UNAUTHORIZED) => MirrorError::LoginRequired,
        _ => MirrorError::from_upstream(error, asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_has_the_shape_that_was_asked_for() {
        let (id, other) = ("1".repeat(64), "2".repeat(64));
        let image = |part| Endpoint::Image {
            id: id.parse().expect("an id"),
            part,
        };
        let named = |resource| Endpoint::Named {
            repository: "team/app".parse().expect("a name"),
            resource,
        };
        let tag = || "1".parse().expect("a tag");
        for (what, body, usable) in [
            (image(Part::Json), format!(r#"{{"id": "{id}"}}"#), true),
            (image(Part::Json), "{}".into(), true),
            (image(Part::Json), format!(r#"{{"id": "{other}"}}"#), false),
            (image(Part::Json), "[]".into(), false),
            (image(Part::Json), r#"{"id": "#.into(), false),
            (image(Part::Json), "<html>".into(), false),
            (
                image(Part::Ancestry),
                format!(r#"["{id}", "{other}"]"#),
                true,
            ),
            (image(Part::Ancestry), format!(r#"["{other}"]"#), false),
            (image(Part::Ancestry), "[]".into(), false),
            (named(Resource::Images), "[]".into(), true),
            (named(Resource::Images), "{}".into(), false),
            (named(Resource::Tags), "{}".into(), true),
            (named(Resource::Tags), "[]".into(), false),
            (named(Resource::Tag(tag())), format!("\"{id}\""), true),
            (named(Resource::Tag(tag())), "\"x\"".into(), false),
            (named(Resource::Json), "{}".into(), true),
            (named(Resource::Json), String::new(), false),
        ] {
            assert_eq!(is_usable(&what, body.as_bytes()), usable, "{what:?} {body}");
        }
    }
}
