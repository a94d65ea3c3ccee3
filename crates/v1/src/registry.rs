//! The v1 API of a registry, and of its index where that is another server: what passes through, and which
//! images are whose. What is kept of it is `cached.rs`'s and `layer.rs`'s.
//!
//! Image requests name no repository, so an image is asked for under a [`Claim`], and only where it is linked
//! to the repository that the claim is about: its image list or its tags named it, it is an ancestor of a
//! linked one, or it was put under a right to push there. An index's own tokens stay here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::V1;
use super::client::{V1Pass, V1Upstream};
use super::records::ImageRecords;
use access::{Action, Open, Permit};
use mirror::{MirrorError, Passed, ResourceKind};
use oci::name::{Registry, Repository};
use oci::v1::{Endpoint, ImageId, Part, Resource};
use upstream::{self, BodyEnd, SetUpError, UpstreamError, is_whole_json};

/// How long an index's token is used. Indexes do not say how long theirs are good; one that is refused is
/// fetched anew.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
const TOKENS: u64 = 10_000;
/// Of how many images it is known where they were seen.
const SEEN: u64 = 100_000;
/// The longest list of images, tags or ancestors, in bytes, and how long it may take to arrive.
pub(super) const MAX_LIST: usize = 8 << 20;
const LIST_WITHIN: Duration = Duration::from_secs(8);

/// One registry of the v1 API.
#[derive(Clone, Debug)]
pub struct V1Settings {
    pub registry: Registry,
    /// Whether what it holds is kept here: nobody pushes to it through us.
    pub mirrored: bool,
    /// Whether its images are served to clients of v2, and those of v2 to its own.
    pub bridge: bool,
    pub upstream: upstream::Settings,
    /// The index, where it is another server.
    pub index: Option<upstream::Settings>,
    /// How long tags and lists are trusted.
    pub tag_ttl: Duration,
    /// How old they may be when the upstream cannot be asked; `None`: however old.
    pub max_stale: Option<Duration>,
    /// How long what is known waits for its upstream before it is answered stale.
    pub stale_after: Duration,
}

/// A registry and its index.
#[derive(Debug)]
pub(super) struct V1Origin {
    pub registry: Registry,
    pub mirrored: bool,
    pub upstream: V1Upstream,
    pub index: Option<V1Upstream>,
    pub tag_ttl: Duration,
    pub max_stale: Option<Duration>,
    pub stale_after: Duration,
    /// What the index gave for a repository, for reading or (true) writing.
    tokens: moka::sync::Cache<(Repository, bool), HeaderValue>,
    /// A repository that an image was last seen in: whose token is good for it where no claim says so.
    pub listed_in: moka::sync::Cache<ImageId, Repository>,
    /// Whether its images are served to clients of v2.
    pub(super) bridge: bool,
    /// The same, as clients say it.
    pub hinted_in: moka::sync::Cache<ImageId, Repository>,
}

impl V1Origin {
    pub fn all(settings: Vec<V1Settings>) -> Result<HashMap<Registry, Arc<V1Origin>>, SetUpError> {
        let origins = settings.into_iter().map(|settings| {
            let origin = Self {
                registry: settings.registry.clone(),
                mirrored: settings.mirrored,
                upstream: V1Upstream::new(settings.upstream)?,
                index: settings.index.map(V1Upstream::new).transpose()?,
                tag_ttl: settings.tag_ttl,
                max_stale: settings.max_stale,
                stale_after: settings.stale_after,
                listed_in: moka::sync::Cache::new(SEEN),
                bridge: settings.bridge,
                hinted_in: moka::sync::Cache::new(SEEN),
                tokens: moka::sync::Cache::builder()
                    .max_capacity(TOKENS)
                    .time_to_live(TOKEN_LIFE)
                    .build(),
            };
            Ok((settings.registry, Arc::new(origin)))
        });
        origins.collect()
    }

    /// Asks the registry for something of a repository, with the token that its index gave where there is an
    /// index. A token that is refused is fetched anew, once.
    pub async fn with_token<T, F, A>(
        &self,
        repository: Option<&Repository>,
        ask: F,
    ) -> Result<T, UpstreamError>
    where
        F: Fn(Option<HeaderValue>) -> A,
        A: Future<Output = Result<T, UpstreamError>>,
    {
        let (Some(index), Some(repository)) = (&self.index, repository) else {
            return ask(None).await;
        };
        let key = (repository.clone(), false);
        let kept = self.tokens.get(&key);
        let was_kept = kept.is_some();
        let token = match kept {
            Some(token) => Some(token),
            None => read_token(self, index, repository).await?,
        };
        match ask(token).await {
            Err(UpstreamError::Denied(StatusCode::UNAUTHORIZED)) if was_kept => {
                self.tokens.invalidate(&key);
                let token = read_token(self, index, repository).await?;
                ask(token).await
            }
            answered => answered,
        }
    }

    /// Where lists of images, tokens and searches are.
    pub(super) fn index_server(&self) -> &V1Upstream {
        self.index.as_ref().unwrap_or(&self.upstream)
    }
}

/// The right that an image is asked for with.
#[derive(Clone, Copy, Debug)]
pub enum Claim<'a> {
    /// To what is linked to this repository.
    Repository(&'a Permit),
    /// To every image of a registry that everybody may read.
    OpenRegistry(&'a Open),
}

impl<'a> Claim<'a> {
    pub fn registry(self) -> &'a Registry {
        match self {
            Self::Repository(permit) => permit.registry(),
            Self::OpenRegistry(open) => open.registry(),
        }
    }
}

impl V1 {
    /// Passes a request for something of the permit's repository on, to the index where that keeps it.
    ///
    /// # Errors
    /// Why it could not be asked. Its statuses are none, save that it refuses our account.
    pub async fn v1_repository(
        &self,
        permit: &Permit,
        resource: &Resource,
        pass: V1Pass,
    ) -> Result<Passed, MirrorError> {
        let origin = self.origin(permit.registry())?;
        let repository = permit.repository();
        let writes = permit.action() != Action::Pull;
        let endpoint = Endpoint::Named {
            repository: repository.clone(),
            resource: resource.clone(),
        };
        let target = endpoint.path();
        match &origin.index {
            Some(index) if resource.is_served_by_index() => {
                let passed = index.pass(target, pass, None).await.map_err(failed)?;
                store_token(&origin, repository, writes, &passed.headers);
                Ok(passed)
            }
            _ => ask(&origin, Some((repository, writes)), target, pass).await,
        }
    }

    /// Passes a request for a part of an image on. Its description may be put by whoever may push; everything
    /// else is for images that are linked.
    ///
    /// # Errors
    /// [`MirrorError::Unknown`] for images that are not the claim's, and why it could not be asked.
    pub async fn v1_image(
        &self,
        claim: Claim<'_>,
        id: &ImageId,
        part: Part,
        pass: V1Pass,
    ) -> Result<Passed, MirrorError> {
        let origin = self.origin(claim.registry())?;
        let begins = pass.method == Method::PUT && part == Part::Json;
        let whose = match claim {
            Claim::OpenRegistry(_) => None,
            Claim::Repository(permit) => {
                if !begins && !self.is_linked(permit, id).await? {
                    return Err(MirrorError::Unknown {
                        kind: ResourceKind::Image,
                        remembered: false,
                    });
                }
                Some((permit.repository(), permit.action() != Action::Pull))
            }
        };
        let id = id.clone();
        ask(&origin, whose, Endpoint::Image { id, part }.path(), pass).await
    }

    /// The length of a layer in bytes, where the registry says it.
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

    /// The head of a layer. Registries that let a token for reading do GET alone are asked by GET, and not
    /// listened to further.
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
            answered => return answered,
        }
        self.v1_image(claim, id, Part::Layer, by(Method::GET)).await
    }

    /// Asks for a search. `query` goes as it is, without `?`.
    ///
    /// # Errors
    /// Why it could not be asked.
    pub async fn v1_search(
        &self,
        open: &Open,
        query: &str,
        pass: V1Pass,
    ) -> Result<Passed, MirrorError> {
        let origin = self.origin(open.registry())?;
        let target = format!("/v1/search?{query}");
        let upstream = origin.index.as_ref().unwrap_or(&origin.upstream);
        upstream.pass(target, pass, None).await.map_err(failed)
    }

    /// These images are the permit's repository's.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn v1_link(&self, permit: &Permit, ids: &[ImageId]) -> Result<(), MirrorError> {
        if let Some(origin) = self.registries.origins.get(permit.registry()) {
            for id in ids {
                origin
                    .listed_in
                    .insert(id.clone(), permit.repository().clone());
            }
        }
        let images = ImageRecords::of(self.store());
        let linked = images.link(permit.registry(), permit.repository(), ids);
        linked
            .await
            .map_err(|error| MirrorError::Disk(Arc::new(error)))
    }

    /// The permit's repository is gone.
    pub async fn v1_unlink_all(&self, permit: &Permit) {
        let images = ImageRecords::of(self.store());
        let (registry, repository) = (permit.registry(), permit.repository());
        images.unlink_all(registry, repository).await;
    }

    /// What a registry and its index call themselves: scheme and authority.
    pub fn v1_upstreams_of(&self, registry: &Registry) -> Vec<&str> {
        let origin = self.registries.origins.get(registry);
        let servers = origin.map(|origin| std::iter::once(&origin.upstream).chain(&origin.index));
        servers
            .into_iter()
            .flatten()
            .map(V1Upstream::origin)
            .collect()
    }

    pub(super) async fn is_linked(
        &self,
        permit: &Permit,
        id: &ImageId,
    ) -> Result<bool, MirrorError> {
        let images = ImageRecords::of(self.store());
        let linked = images.is_linked(permit.registry(), permit.repository(), id);
        linked
            .await
            .map_err(|error| MirrorError::Disk(Arc::new(error)))
    }
}

/// Reads a list of at most 8 MiB.
///
/// # Errors
/// When it is longer, broken off, or does not come to its end.
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
    let read = tokio::time::timeout(LIST_WITHIN, read).await;
    read.unwrap_or(Err(UpstreamError::Timeout)).map_err(failed)
}

/// Asks the registry, with the token that its index gave for a repository where there is an index.
pub(super) async fn ask(
    origin: &V1Origin,
    whose: Option<(&Repository, bool)>,
    target: String,
    pass: V1Pass,
) -> Result<Passed, MirrorError> {
    let upstream = &origin.upstream;
    let (Some(index), Some((repository, writes))) = (&origin.index, whose) else {
        return upstream.pass(target, pass, None).await.map_err(failed);
    };
    let key = (repository.clone(), writes);
    let kept = origin.tokens.get(&key);
    let is_new = kept.is_none();
    let token = match kept {
        Some(token) => Some(token),
        // Only where a push begins is a token for it to be had.
        None if writes => None,
        None => read_token(origin, index, repository)
            .await
            .map_err(failed)?,
    };
    let again = (!writes && !is_new).then(|| V1Pass {
        method: pass.method.clone(),
        headers: pass.headers.clone(),
        body: None,
    });
    match (upstream.pass(target.clone(), pass, token).await, again) {
        (Err(UpstreamError::Denied(StatusCode::UNAUTHORIZED)), Some(again)) => {
            origin.tokens.invalidate(&key);
            let token = read_token(origin, index, repository)
                .await
                .map_err(failed)?;
            upstream.pass(target, again, token).await.map_err(failed)
        }
        (passed, _) => passed.map_err(failed),
    }
}

/// A token for reading a repository, of the index; that of a push that is under way if it gives none.
async fn read_token(
    origin: &V1Origin,
    index: &V1Upstream,
    repository: &Repository,
) -> Result<Option<HeaderValue>, UpstreamError> {
    let endpoint = Endpoint::Named {
        repository: repository.clone(),
        resource: Resource::Images,
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-docker-token", HeaderValue::from_static("true"));
    let pass = V1Pass {
        method: Method::GET,
        headers,
        body: None,
    };
    let passed = index.pass(endpoint.path(), pass, None).await;
    store_token(origin, repository, false, &passed?.headers);
    let kept = |writes| origin.tokens.get(&(repository.clone(), writes));
    Ok(kept(false).or_else(|| kept(true)))
}

/// Keeps the token of an index's answer, as a client would send it back.
pub(super) fn store_token(
    origin: &V1Origin,
    repository: &Repository,
    writes: bool,
    headers: &HeaderMap,
) {
    let given = headers.get("x-docker-token");
    let Some(given) = given.and_then(|given| given.to_str().ok()) else {
        return;
    };
    if let Ok(mut token) = HeaderValue::from_str(&format!("Token {given}")) {
        token.set_sensitive(true);
        origin.tokens.insert((repository.clone(), writes), token);
    }
}

fn failed(error: UpstreamError) -> MirrorError {
    MirrorError::from_upstream(Arc::new(error), ResourceKind::Repository)
}
