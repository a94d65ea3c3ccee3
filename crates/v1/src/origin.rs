//! A registry of the v1 API with its index, and the index's tokens.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use super::client::{V1Pass, V1Upstream};
use oci::name::{Registry, Repository};
use oci::v1::{Endpoint, ImageId, Resource};
use upstream::{SetUpError, UpstreamError};

/// How long an index's token is reused. Indexes do not announce a lifetime; a refused token is replaced.
const TOKEN_TTL: Duration = Duration::from_secs(3600);
const MAX_TOKENS: u64 = 10_000;
/// How many images have their repository remembered.
const MAX_IMAGES: u64 = 100_000;

/// The settings of one registry of the v1 API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Settings {
    /// The configured name.
    pub registry: Registry,
    /// Whether its content is cached: no client pushes to it through the gateway.
    pub mirrored: bool,
    /// Whether its images are served to v2 clients.
    pub bridge: bool,
    /// The client of the v1 registry, which is its index too unless `index` is set.
    pub upstream: upstream::Settings,
    /// The index, if it is a separate server.
    pub index: Option<upstream::Settings>,
    /// How long tags and lists are fresh.
    pub tag_ttl: Duration,
    /// How old a stale tag or list may be served; `None`: any age.
    pub max_stale: Option<Duration>,
    /// How long a revalidation may take before the stale answer is served.
    pub stale_after: Duration,
}

/// What an index's token allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TokenScope {
    Pull,
    Push,
}

/// The v1 sides of registries.
pub(super) type V1Origins = HashMap<Registry, Arc<V1Origin>>;

/// A registry and its index.
#[derive(Debug)]
pub(super) struct V1Origin {
    /// What it was made with.
    pub settings: V1Settings,
    pub registry: Registry,
    pub mirrored: bool,
    pub upstream: V1Upstream,
    pub index: Option<V1Upstream>,
    pub tag_ttl: Duration,
    pub max_stale: Option<Duration>,
    pub stale_after: Duration,
    /// The index's tokens.
    tokens: moka::sync::Cache<(Repository, TokenScope), HeaderValue>,
    /// The repository that last listed an image; its token fetches the image if the claim names no repository.
    pub listed_in: moka::sync::Cache<ImageId, Repository>,
    /// Whether its images are served to v2 clients.
    pub(super) bridge: bool,
    /// The repository that a client named for an image.
    pub hinted_in: moka::sync::Cache<ImageId, Repository>,
}

impl V1Origin {
    /// Those of `before` that are the same remain.
    pub fn all(settings: Vec<V1Settings>, before: &V1Origins) -> Result<V1Origins, SetUpError> {
        let origins = settings.into_iter().map(|settings| {
            let same = before.get(&settings.registry);
            if let Some(same) = same.filter(|same| same.settings == settings) {
                return Ok((settings.registry, same.clone()));
            }
            let origin = Self {
                settings: settings.clone(),
                registry: settings.registry.clone(),
                mirrored: settings.mirrored,
                upstream: V1Upstream::new(settings.upstream)?,
                index: settings.index.map(V1Upstream::new).transpose()?,
                tag_ttl: settings.tag_ttl,
                max_stale: settings.max_stale,
                stale_after: settings.stale_after,
                listed_in: moka::sync::Cache::new(MAX_IMAGES),
                bridge: settings.bridge,
                hinted_in: moka::sync::Cache::new(MAX_IMAGES),
                tokens: moka::sync::Cache::builder()
                    .max_capacity(MAX_TOKENS)
                    .time_to_live(TOKEN_TTL)
                    .build(),
            };
            Ok((settings.registry, Arc::new(origin)))
        });
        origins.collect()
    }

    /// Sends a request about a repository, with a token of the index if there is an index. A refused token is
    /// replaced once.
    pub async fn with_token<T, F, A>(
        &self,
        repository: Option<&Repository>,
        send: F,
    ) -> Result<T, UpstreamError>
    where
        F: Fn(Option<HeaderValue>) -> A,
        A: Future<Output = Result<T, UpstreamError>>,
    {
        let (Some(index), Some(repository)) = (&self.index, repository) else {
            return send(None).await;
        };
        let key = (repository.clone(), TokenScope::Pull);
        let cached = self.tokens.get(&key);
        let was_cached = cached.is_some();
        let token = match cached {
            Some(token) => Some(token),
            None => read_token(self, index, repository).await?,
        };
        match send(token).await {
            Err(UpstreamError::Denied(StatusCode::UNAUTHORIZED)) if was_cached => {
                self.tokens.invalidate(&key);
                let token = read_token(self, index, repository).await?;
                send(token).await
            }
            outcome => outcome,
        }
    }

    /// The token for pushes to a repository. Only the request that begins a push obtains one.
    pub(super) fn push_token(&self, repository: &Repository) -> Option<HeaderValue> {
        self.tokens.get(&(repository.clone(), TokenScope::Push))
    }

    /// The server of image lists, tokens and searches.
    pub(super) fn index_server(&self) -> &V1Upstream {
        self.index.as_ref().unwrap_or(&self.upstream)
    }
}

/// Fetches a pull token from the index; the token of a push in progress if the index returns none.
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
    store_token(origin, repository, TokenScope::Pull, &passed?.headers);
    let cached = |scope| origin.tokens.get(&(repository.clone(), scope));
    Ok(cached(TokenScope::Pull).or_else(|| cached(TokenScope::Push)))
}

/// Caches the token of an index's response, in the form in which a client sends it back.
pub(super) fn store_token(
    origin: &V1Origin,
    repository: &Repository,
    scope: TokenScope,
    headers: &HeaderMap,
) {
    let value = headers.get("x-docker-token");
    let Some(value) = value.and_then(|value| value.to_str().ok()) else {
        return;
    };
    if let Ok(mut token) = HeaderValue::from_str(&format!("Token {value}")) {
        token.set_sensitive(true);
        origin.tokens.insert((repository.clone(), scope), token);
    }
}
