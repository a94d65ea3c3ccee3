//! Logging in to a registry: Basic, or the Bearer flow (distribution's token and oauth specifications).
//!
//! Tokens are cached until shortly before they expire; concurrent requests share one fetch. The account's secret goes to
//! the registry's own origin and to trusted token realms only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::Url;

use super::UpstreamError;
use super::request::Identity;
use super::token_client::{BearerToken, TokenCacheKey, TokenClient, TokenRealm};
use oci::challenge::{self, Challenge};
use runtime::single_flight::SingleFlight;

/// How many tokens are cached.
const MAX_TOKENS: u64 = 10_000;

/// The authentication scheme of a registry, from its last challenge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum AuthScheme {
    #[default]
    Unknown,
    /// It asks for no login.
    Open,
    Basic,
    Bearer(TokenRealm),
}

/// The login at one registry.
pub(super) struct Auth {
    shared: Arc<Shared>,
}

struct Shared {
    client: TokenClient,
    scheme: Mutex<AuthScheme>,
    tokens: moka::sync::Cache<TokenCacheKey, BearerToken>,
    fetching: SingleFlight<TokenCacheKey, Result<BearerToken, Arc<UpstreamError>>>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Auth({})", self.shared.client.origin)
    }
}

impl Auth {
    pub fn new(client: TokenClient) -> Self {
        let shared = Shared {
            client,
            scheme: Mutex::default(),
            tokens: moka::sync::Cache::new(MAX_TOKENS),
            fetching: SingleFlight::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The `Authorization` of a request for `scope`; `None` where the registry asks for none, or has not been asked yet.
    ///
    /// # Errors
    /// [`UpstreamError::Token`] where no token is issued, [`UpstreamError::Helper`] when the credential helper fails.
    pub async fn authorization(
        &self,
        scope: Option<&str>,
        identity: Identity,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let scheme = self.shared.scheme().clone();
        match scheme {
            AuthScheme::Unknown | AuthScheme::Open => Ok(None),
            AuthScheme::Basic if identity == Identity::Anonymous => Ok(None),
            AuthScheme::Basic => self.shared.client.basic().await,
            AuthScheme::Bearer(realm) => {
                let key = TokenCacheKey {
                    realm,
                    scope: scope.map(str::to_owned),
                    identity,
                };
                self.shared.token(key).await.map(Some)
            }
        }
    }

    /// The account, for servers that want it without a challenge.
    ///
    /// # Errors
    /// [`UpstreamError::Helper`] when the credential helper fails.
    pub async fn account(&self) -> Result<Option<HeaderValue>, UpstreamError> {
        self.shared.client.basic().await
    }

    /// Whether an error means that the registry refuses the account itself. A 401 to a token may be about one repository.
    pub fn refuses_account(&self, error: &UpstreamError) -> bool {
        let refused = match error {
            UpstreamError::Token(error) => matches!(error.root(), UpstreamError::Denied(_)),
            UpstreamError::Denied(status) => {
                *status == StatusCode::UNAUTHORIZED && *self.shared.scheme() == AuthScheme::Basic
            }
            _ => false,
        };
        refused && self.shared.client.login.is_some()
    }

    /// Whether the registry's authentication scheme is known.
    pub fn is_known(&self) -> bool {
        *self.shared.scheme() != AuthScheme::Unknown
    }

    /// Learns the scheme from the response to a request without a login.
    pub fn observe(&self, status: StatusCode, headers: &HeaderMap) {
        let challenges = self::challenges(headers);
        let wants_basic = || {
            challenges
                .iter()
                .any(|challenge| challenge.scheme == "basic")
        };
        let scheme = match bearer_realm(&challenges, &self.shared.client.origin) {
            Some((realm, _)) => AuthScheme::Bearer(realm),
            None if wants_basic() => AuthScheme::Basic,
            None if status.is_success() => AuthScheme::Open,
            None => return,
        };
        *self.shared.scheme() = scheme;
    }

    /// The `Authorization` that answers the registry's 401; `None` when there is nothing else to try.
    ///
    /// # Errors
    /// As [`Auth::authorization`].
    pub async fn answer(
        &self,
        challenges: &HeaderMap,
        scope: Option<&str>,
        sent: Option<&HeaderValue>,
        identity: Identity,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let challenges = self::challenges(challenges);
        if let Some((realm, asked)) = bearer_realm(&challenges, &self.shared.client.origin) {
            *self.shared.scheme() = AuthScheme::Bearer(realm.clone());
            let scope = asked.or_else(|| scope.map(str::to_owned));
            let key = TokenCacheKey {
                realm,
                scope,
                identity,
            };
            if sent.is_some_and(|sent| {
                self.shared
                    .cached(&key)
                    .is_some_and(|token| token.header == *sent)
            }) {
                // A refused token is of no further use.
                self.shared.tokens.invalidate(&key);
            }
            return self.shared.token(key).await.map(Some);
        }
        let wants_basic = challenges
            .iter()
            .any(|challenge| challenge.scheme == "basic");
        if !wants_basic || identity == Identity::Anonymous {
            return Ok(None);
        }
        *self.shared.scheme() = AuthScheme::Basic;
        let basic = self.shared.client.basic().await?;
        Ok(basic.filter(|basic| sent != Some(basic)))
    }

    /// The `Authorization` that answers the 401 of a redirect's target: an anonymous token, never the account.
    ///
    /// # Errors
    /// [`UpstreamError::Token`] where no token is issued.
    pub async fn answer_redirect_target(
        &self,
        challenges: &HeaderMap,
        url: &Url,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let Some((realm, scope)) = bearer_realm(&self::challenges(challenges), url) else {
            return Ok(None);
        };
        self.shared
            .token(TokenCacheKey {
                realm,
                scope,
                identity: Identity::Anonymous,
            })
            .await
            .map(Some)
    }
}

impl Shared {
    fn scheme(&self) -> std::sync::MutexGuard<'_, AuthScheme> {
        self.scheme.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cached token that has not expired.
    fn cached(&self, key: &TokenCacheKey) -> Option<BearerToken> {
        self.tokens
            .get(key)
            .filter(|token| Instant::now() < token.ends_at)
    }

    /// A cached token, or a new one. A token that is about to expire is used while the next one is fetched.
    async fn token(self: &Arc<Self>, key: TokenCacheKey) -> Result<HeaderValue, UpstreamError> {
        if let Some(token) = self.cached(&key) {
            if Instant::now() >= token.refresh_at {
                let shared = self.clone();
                tokio::spawn(async move { shared.fetch(key).await });
            }
            return Ok(token.header);
        }
        self.fetch(key).await.map(|token| token.header)
    }

    /// Fetches a token, once for all concurrent requests.
    async fn fetch(self: &Arc<Self>, key: TokenCacheKey) -> Result<BearerToken, UpstreamError> {
        let start = || {
            let (shared, key) = (self.clone(), key.clone());
            async move {
                let token = shared.client.fetch(&key).await.map_err(Arc::new)?;
                shared.tokens.insert(key, token.clone());
                Ok(token)
            }
        };
        let (token, _) = self.fetching.join(key.clone(), start).await;
        token
            .unwrap_or(Err(Arc::new(UpstreamError::Timeout)))
            .map_err(UpstreamError::Token)
    }
}

/// All challenges of all headers.
fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect()
}

/// The first Bearer challenge with a realm, and its scope.
fn bearer_realm(challenges: &[Challenge], base: &Url) -> Option<(TokenRealm, Option<String>)> {
    challenges
        .iter()
        .filter(|challenge| challenge.scheme == "bearer")
        .find_map(|challenge| {
            let url = base.join(challenge.parameter("realm")?).ok()?;
            let realm = TokenRealm {
                url,
                service: challenge.parameter("service").map(str::to_owned),
            };
            let scope = challenge
                .parameter("scope")
                .filter(|scope| !scope.is_empty());
            Some((realm, scope.map(str::to_owned)))
        })
}
