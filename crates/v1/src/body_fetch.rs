//! Small bodies of the v1 API: opened from the store, or fetched and stored.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::Registries;
use super::origin::{TokenScope, V1Origin, store_token};
use super::pass_through::MAX_LIST;
use crate::records::{BodyPointer, BodyRecords};
use mirror::{MirrorError, ResourceKind, Stale, UNCACHED_DEADLINE, unix_seconds};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::{Algorithm, Digest};
use oci::name::{Registry, Repository};
use oci::v1::{Endpoint, ImageId, Part, Resource, ids_in_list, ids_of_tags};
use runtime::single_flight::SingleFlight;
use store::{Store, warn_degraded};
use upstream::UpstreamError;

/// What is fetched, and the repository whose index token fetches it.
type FetchKey = (Registry, Endpoint, Option<Repository>);

/// The fetches in progress.
pub(super) type BodyFetches = SingleFlight<FetchKey, Result<FetchedBody, MirrorError>>;

/// A body with its pointer.
#[derive(Clone, Debug)]
pub(super) struct FetchedBody {
    pub pointer: Arc<BodyPointer>,
    pub bytes: Bytes,
}

/// A whole small body of the v1 API.
#[derive(Clone, Debug)]
pub struct V1Answer {
    /// The body, verbatim.
    pub bytes: Bytes,
    /// How the cache handled the request (RFC 9211).
    pub cache: CacheStatus,
    /// Set if the upstream could not be asked to revalidate it.
    pub stale: Option<Stale>,
    /// Of image JSON: the length of the layer in bytes.
    pub layer_size: Option<u64>,
    /// Of image JSON: the upstream's checksum of the payload.
    pub checksum: Option<String>,
}

impl V1Answer {
    pub(super) fn of(fetched: FetchedBody, cache: CacheStatus) -> Self {
        let FetchedBody { pointer, bytes } = fetched;
        Self {
            bytes,
            cache,
            stale: None,
            layer_size: pointer.layer_size,
            checksum: pointer.checksum.clone(),
        }
    }
}

impl Registries {
    /// An image's JSON or ancestry, from the store or from its registry.
    pub(super) async fn image_part(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        id: &ImageId,
        part: Part,
    ) -> Result<V1Answer, MirrorError> {
        let endpoint = Endpoint::Image {
            id: id.clone(),
            part,
        };
        if let Some(known) = self.body_pointer(origin, &endpoint).await
            && let Some(fetched) = self.stored_body(&known).await
        {
            return Ok(V1Answer::of(fetched, CacheStatus::HIT));
        }
        self.fetch_body(origin, repository, endpoint).await
    }

    /// Fetches a small body from its registry and stores it.
    pub(super) async fn fetch_body(
        &self,
        origin: &Arc<V1Origin>,
        repository: Option<Repository>,
        endpoint: Endpoint,
    ) -> Result<V1Answer, MirrorError> {
        let joined = self.join_fetch(origin, (origin.registry.clone(), endpoint, repository));
        let Ok((fetched, collapsed)) = tokio::time::timeout(UNCACHED_DEADLINE, joined).await else {
            return Err(MirrorError::timed_out());
        };
        let fetched = fetched.unwrap_or(Err(MirrorError::Internal))?;
        let cache = CacheStatus::forward(Forward::UriMiss)
            .stored()
            .collapsed(collapsed);
        Ok(V1Answer::of(fetched, cache))
    }

    /// Starts a fetch, or joins the one in progress.
    pub(super) async fn join_fetch(
        &self,
        origin: &Arc<V1Origin>,
        key: FetchKey,
    ) -> (Option<Result<FetchedBody, MirrorError>>, bool) {
        let start = || fetch(self.store.clone(), origin.clone(), key.clone());
        self.fetches.join(key.clone(), start).await
    }

    /// The pointer to a body. A disk error counts as absent.
    pub(super) async fn body_pointer(
        &self,
        origin: &V1Origin,
        endpoint: &Endpoint,
    ) -> Option<Arc<BodyPointer>> {
        let bodies = BodyRecords::of(&self.store);
        let opened = bodies.open(&origin.registry, endpoint).await;
        opened.unwrap_or_else(|error| {
            warn_degraded("a pointer of the v1 API cannot be read", &error);
            None
        })
    }

    /// The body that a pointer names, if it is in the store.
    pub(super) async fn stored_body(&self, known: &Arc<BodyPointer>) -> Option<FetchedBody> {
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
        let pointer = known.clone();
        Some(FetchedBody { pointer, bytes })
    }
}

/// Fetches a body from the registry, or from its index if that serves it, and stores it.
async fn fetch(
    store: Arc<Store>,
    origin: Arc<V1Origin>,
    key: FetchKey,
) -> Result<FetchedBody, MirrorError> {
    let (registry, endpoint, repository) = key;
    let bodies = BodyRecords::of(&store);
    let question = bodies.ask(&registry, &endpoint);
    let (headers, bytes) = match request(&origin, &endpoint, repository.as_ref()).await {
        Ok(answered) => answered,
        Err(error) => {
            if matches!(error, UpstreamError::NotFound) {
                bodies.store_absent(&question).await;
            }
            let kind = match endpoint {
                Endpoint::Image { .. } => ResourceKind::Image,
                Endpoint::Named { .. } => ResourceKind::Repository,
            };
            return Err(failed(error, kind));
        }
    };
    if !is_expected(&endpoint, &bytes) {
        let error =
            UpstreamError::Protocol("its answer does not have the shape of what was requested");
        return Err(MirrorError::Unusable(Arc::new(error)));
    }
    let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
    let checksum = text("x-docker-checksum-payload");
    let pointer = BodyPointer {
        digest: Digest::of(Algorithm::Sha256, &bytes),
        size: bytes.len() as u64,
        checked_at: unix_seconds(SystemTime::now()),
        layer_size: text("x-docker-size").and_then(|size| size.parse().ok()),
        checksum: checksum.or_else(|| text("x-docker-payload-checksum")),
    };
    let (blobs, digest, body) = (store.blobs.clone(), pointer.digest, bytes.clone());
    let storing = tokio::task::spawn_blocking(move || match blobs.open(&digest, None) {
        Ok(Some(_)) => Ok(()),
        _ => blobs.put(&digest, &body),
    });
    if let Ok(Err(error)) = storing.await {
        warn_degraded("a body of the v1 API cannot be stored", &error);
    }
    let pointer = bodies.store(&question, pointer).await;
    Ok(FetchedBody { pointer, bytes })
}

/// Requests a small body.
async fn request(
    origin: &V1Origin,
    endpoint: &Endpoint,
    repository: Option<&Repository>,
) -> Result<(HeaderMap, Bytes), UpstreamError> {
    let path = endpoint.path();
    let resource = match endpoint {
        Endpoint::Named { resource, .. } => Some(resource),
        Endpoint::Image { .. } => None,
    };
    if resource.is_some_and(Resource::is_served_by_index) {
        let index = origin.index_server();
        let answered = index.whole(path, None, MAX_LIST).await?;
        if let (Some(repository), Some(_)) = (repository, &origin.index) {
            store_token(origin, repository, TokenScope::Pull, &answered.0);
        }
        return Ok(answered);
    }
    let send = |token| origin.upstream.whole(path.clone(), token, MAX_LIST);
    let answered = origin.with_token(repository, send).await;
    match (answered, &origin.index, resource) {
        // In some set-ups the index has the tags and the registry does not.
        (Err(not_found @ UpstreamError::NotFound), Some(index), Some(_)) => {
            let tags = index.whole(path.clone(), None, MAX_LIST).await;
            tags.map_err(|_| not_found)
        }
        (answered, ..) => answered,
    }
}

/// Whether a body has the requested shape: an error page must not be stored for ever.
pub(super) fn is_expected(endpoint: &Endpoint, bytes: &[u8]) -> bool {
    use serde_json::Value;

    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return false;
    };
    match endpoint {
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

/// Maps an upstream's error for a v1 client. 401 stays 401: a missing login is neither "not found" nor
/// "denied".
pub(super) fn failed(error: UpstreamError, asked: ResourceKind) -> MirrorError {
    mirror_error(Arc::new(error), asked)
}

pub(super) fn mirror_error(error: Arc<UpstreamError>, asked: ResourceKind) -> MirrorError {
    match error.root() {
        UpstreamError::Denied(StatusCode::UNAUTHORIZED) => MirrorError::LoginRequired,
        _ => MirrorError::from_upstream(error, asked),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_body_has_the_requested_shape() {
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
        for (endpoint, body, expected) in [
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
            assert_eq!(
                is_expected(&endpoint, body.as_bytes()),
                expected,
                "{endpoint:?} {body}"
            );
        }
    }
}
