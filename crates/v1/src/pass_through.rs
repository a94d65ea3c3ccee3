//! Requests that pass through to a v1 registry, or to its index if that is a separate server. An index's own tokens
//! never reach a client.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};

use super::V1;
use super::claim::Claim;
use super::client::{V1Pass, V1Upstream};
use super::origin::{TokenScope, V1Origin, store_token};
use access::{Action, Open, Permit};
use mirror::{MirrorError, ResourceKind};
use oci::name::{Registry, Repository};
use oci::v1::{Endpoint, ImageId, Part, Resource};
use upstream::Passed;
use upstream::{BodyEnd, UpstreamError, is_whole_json};

/// The longest list of images, tags or ancestors, in bytes.
pub(super) const MAX_LIST: usize = 8 << 20;
/// How long such a list may take to arrive.
const LIST_TIMEOUT: Duration = Duration::from_secs(8);

impl V1 {
    /// Passes on a request about the permit's repository: to the index if that serves the resource.
    ///
    /// # Errors
    /// Why the upstream could not answer. A status is no error, except for a refusal of our account.
    pub async fn v1_repository(
        &self,
        permit: &Permit,
        resource: &Resource,
        pass: V1Pass,
    ) -> Result<Passed, MirrorError> {
        let origin = self.origin(permit.registry())?;
        let repository = permit.repository();
        let scope = token_scope(permit);
        let endpoint = Endpoint::Named {
            repository: repository.clone(),
            resource: resource.clone(),
        };
        let target = endpoint.path();
        match &origin.index {
            Some(index) if resource.is_served_by_index() => {
                let passed = index.pass(target, pass, None).await.map_err(failed)?;
                store_token(&origin, repository, scope, &passed.headers);
                Ok(passed)
            }
            _ => pass_to_registry(&origin, Some((repository, scope)), target, pass).await,
        }
    }

    /// Passes on a request for a part of an image. A client with push rights may put the JSON of any image;
    /// everything else needs a linked image.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] if the claim does not cover the image, and why the upstream could not answer.
    pub async fn v1_image(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
        part: Part,
        pass: V1Pass,
    ) -> Result<Passed, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let puts_json = pass.method == Method::PUT && part == Part::Json;
        let repository = match claim {
            Claim::OpenRegistry(_) => None,
            Claim::Repository(permit) => {
                if !puts_json && !self.is_linked(permit, id).await? {
                    return Err(MirrorError::Unknown {
                        kind: ResourceKind::Image,
                        remembered: false,
                    });
                }
                Some((permit.repository(), token_scope(permit)))
            }
        };
        let id = id.clone();
        pass_to_registry(
            &origin,
            repository,
            Endpoint::Image { id, part }.path(),
            pass,
        )
        .await
    }

    /// The length of a layer in bytes, if the registry reports it.
    ///
    /// # Errors
    /// As [`V1::v1_image`].
    pub async fn v1_layer_size(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
        headers: &HeaderMap,
    ) -> Result<Option<u64>, MirrorError> {
        let head = self.v1_layer_head(claim, id, headers).await?;
        let length = head.headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Ok(length.filter(|_| head.status == StatusCode::OK))
    }

    /// The response head of a layer. A registry whose pull tokens allow only GET is sent a GET, whose body is
    /// not read.
    ///
    /// # Errors
    /// As [`V1::v1_image`].
    pub async fn v1_layer_head(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
        headers: &HeaderMap,
    ) -> Result<Passed, MirrorError> {
        let by = |method| V1Pass {
            method,
            headers: headers.clone(),
            body: None,
        };
        match self
            .v1_image(claim, id, Part::Layer, by(Method::HEAD))
            .await
        {
            Err(MirrorError::Denied) => {}
            Ok(passed) if passed.status == StatusCode::METHOD_NOT_ALLOWED => {}
            outcome => return outcome,
        }
        self.v1_image(claim, id, Part::Layer, by(Method::GET)).await
    }

    /// Passes on a search. `query` is sent unchanged, without `?`.
    ///
    /// # Errors
    /// Why the upstream could not answer.
    pub async fn v1_search(
        &self,
        open: &Open,
        query: &str,
        pass: V1Pass,
    ) -> Result<Passed, MirrorError> {
        let origin = self.origin(open.registry())?;
        let target = format!("/v1/search?{query}");
        let index = origin.index_server();
        index.pass(target, pass, None).await.map_err(failed)
    }

    /// The scheme and authority of a registry and of its index.
    pub fn v1_upstreams_of(&self, registry: &Registry) -> Vec<&str> {
        let origin = self.registries.origins.get(registry);
        let servers = origin.map(|origin| std::iter::once(&origin.upstream).chain(&origin.index));
        servers
            .into_iter()
            .flatten()
            .map(V1Upstream::origin)
            .collect()
    }
}

/// Reads a list of at most 8 MiB.
///
/// # Errors
/// [`MirrorError::Unusable`] if it is longer or truncated; a timeout if it does not arrive within 8 s.
pub async fn v1_list(passed: &mut Passed) -> Result<Bytes, MirrorError> {
    let end = passed.end();
    let read = async {
        let mut bytes = BytesMut::new();
        while let Some(piece) = passed.next().await? {
            if bytes.len() + piece.len() > MAX_LIST {
                return Err(UpstreamError::TooLarge { limit: MAX_LIST });
            }
            bytes.extend_from_slice(&piece);
        }
        if end == BodyEnd::Connection && !is_whole_json(&bytes) {
            return Err(UpstreamError::Cut);
        }
        Ok(bytes.freeze())
    };
    let read = tokio::time::timeout(LIST_TIMEOUT, read).await;
    read.unwrap_or(Err(UpstreamError::Timeout)).map_err(failed)
}

/// Passes a request on to the registry, with a token of its index if it has one. `repository` is absent if no claim
/// names one.
async fn pass_to_registry(
    origin: &V1Origin,
    repository: Option<(&Repository, TokenScope)>,
    target: String,
    pass: V1Pass,
) -> Result<Passed, MirrorError> {
    let upstream = &origin.upstream;
    let passed = match repository.filter(|_| origin.index.is_some()) {
        Some((repository, TokenScope::Pull)) => {
            let send = |token| upstream.pass(target.clone(), bodiless(&pass), token);
            origin.with_token(Some(repository), send).await
        }
        Some((repository, TokenScope::Push)) => {
            let token = origin.push_token(repository);
            upstream.pass(target, pass, token).await
        }
        None => upstream.pass(target, pass, None).await,
    };
    passed.map_err(failed)
}

/// A copy of a request without a body, which can be sent twice.
fn bodiless(pass: &V1Pass) -> V1Pass {
    V1Pass {
        method: pass.method.clone(),
        headers: pass.headers.clone(),
        body: None,
    }
}

/// The token scope that a permit's action needs.
fn token_scope(permit: &Permit) -> TokenScope {
    match permit.action() {
        Action::Pull => TokenScope::Pull,
        _ => TokenScope::Push,
    }
}

fn failed(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository)
}
