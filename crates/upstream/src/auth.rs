//! Logging in to a registry: Basic, or the Bearer flow (distribution's token and oauth specifications).
//!
//! Tokens are kept until shortly before they end and fetched once for all who need one. The account's
//! secret goes to the registry's own origin, and to token realms that are trusted.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use reqwest::Url;
use serde::Deserialize;

use super::UpstreamError;
use super::account::{Credentials, Login};
use super::addresses::RedirectPolicy;
use super::clients::Clients;
use super::response::read_body;
use oci::challenge::{self, Challenge};
use runtime::single_flight::SingleFlight;

/// How long a token endpoint may take.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest answer of a token endpoint, in bytes.
const MAX_TOKEN: usize = 1 << 20;
/// The life of a token that does not say, and the shortest that is believed.
const MIN_LIFE: Duration = Duration::from_secs(60);
/// How many tokens are kept.
const TOKENS: u64 = 10_000;

/// How a registry wants to be logged in to, as its last challenge said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Scheme {
    #[default]
    Unasked,
    /// It let us in without.
    Open,
    Basic,
    Bearer(Realm),
}

/// Where tokens are to be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Realm {
    url: Url,
    service: Option<String>,
}

/// A token of one scope. The account is the same for all tokens of an [`Auth`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TokenKey {
    realm: Realm,
    scope: Option<String>,
    /// Asked for without the account.
    anonymous: bool,
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    refresh_at: Instant,
    ends_at: Instant,
}

/// The login at one registry.
pub(super) struct Auth {
    shared: Arc<Shared>,
}

struct Shared {
    origin: Url,
    redirects: RedirectPolicy,
    /// Hosts of realms that are trusted beside the registry's own domain.
    auth_hosts: Vec<String>,
    login: Option<Login>,
    clients: Clients,
    scheme: Mutex<Scheme>,
    tokens: moka::sync::Cache<TokenKey, Token>,
    fetching: SingleFlight<TokenKey, Result<Token, Arc<UpstreamError>>>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Auth({})", self.shared.origin)
    }
}

impl Auth {
    pub fn new(
        origin: Url,
        redirects: RedirectPolicy,
        auth_hosts: Vec<String>,
        login: Option<Login>,
        clients: Clients,
    ) -> Self {
        let shared = Shared {
            origin,
            redirects,
            auth_hosts,
            login,
            clients,
            scheme: Mutex::default(),
            tokens: moka::sync::Cache::new(TOKENS),
            fetching: SingleFlight::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What to send with a request for `scope`, as far as the registry has said what it wants.
    ///
    /// # Errors
    /// When no token can be had.
    pub async fn authorization(
        &self,
        scope: Option<&str>,
        anonymous: bool,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let scheme = self.shared.scheme().clone();
        match scheme {
            Scheme::Unasked | Scheme::Open => Ok(None),
            Scheme::Basic if anonymous => Ok(None),
            Scheme::Basic => self.shared.basic().await,
            Scheme::Bearer(realm) => {
                let key = TokenKey {
                    realm,
                    scope: scope.map(str::to_owned),
                    anonymous,
                };
                self.shared.token(key).await.map(Some)
            }
        }
    }

    /// The account, for servers that want it without a challenge.
    ///
    /// # Errors
    /// When a credential helper does not tell it.
    pub async fn account(&self) -> Result<Option<HeaderValue>, UpstreamError> {
        self.shared.basic().await
    }

    /// Whether the registry has said how it wants to be logged in to.
    pub fn is_known(&self) -> bool {
        *self.shared.scheme() != Scheme::Unasked
    }

    /// Reads the answer to a request without a login.
    pub fn learn(&self, status: StatusCode, headers: &HeaderMap) {
        let challenges = read(headers);
        let wants_basic = || {
            challenges
                .iter()
                .any(|challenge| challenge.scheme == "basic")
        };
        let scheme = match bearer(&challenges, &self.shared.origin) {
            Some((realm, _)) => Scheme::Bearer(realm),
            None if wants_basic() => Scheme::Basic,
            None if status.is_success() => Scheme::Open,
            None => return,
        };
        *self.shared.scheme() = scheme;
    }

    /// What to send after a 401 of the registry's own; `None` when there is nothing else to try.
    ///
    /// # Errors
    /// When no token can be had.
    pub async fn answer(
        &self,
        challenges: &HeaderMap,
        scope: Option<&str>,
        sent: Option<&HeaderValue>,
        anonymous: bool,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let challenges = read(challenges);
        if let Some((realm, asked)) = bearer(&challenges, &self.shared.origin) {
            *self.shared.scheme() = Scheme::Bearer(realm.clone());
            let scope = asked.or_else(|| scope.map(str::to_owned));
            let key = TokenKey {
                realm,
                scope,
                anonymous,
            };
            if sent.is_some_and(|sent| {
                self.shared
                    .kept(&key)
                    .is_some_and(|token| token.header == *sent)
            }) {
                // The token that was refused is of no more use.
                self.shared.tokens.invalidate(&key);
            }
            return self.shared.token(key).await.map(Some);
        }
        let wants_basic = challenges
            .iter()
            .any(|challenge| challenge.scheme == "basic");
        if !wants_basic || anonymous {
            return Ok(None);
        }
        *self.shared.scheme() = Scheme::Basic;
        let basic = self.shared.basic().await?;
        Ok(basic.filter(|basic| sent != Some(basic)))
    }

    /// What to send after the 401 of a host that a redirect led to: an anonymous token, never the account.
    ///
    /// # Errors
    /// When no token can be had.
    pub async fn answer_elsewhere(
        &self,
        challenges: &HeaderMap,
        url: &Url,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        let Some((realm, scope)) = bearer(&read(challenges), url) else {
            return Ok(None);
        };
        self.shared
            .token(TokenKey {
                realm,
                scope,
                anonymous: true,
            })
            .await
            .map(Some)
    }
}

impl Shared {
    fn scheme(&self) -> std::sync::MutexGuard<'_, Scheme> {
        self.scheme.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn basic(&self) -> Result<Option<HeaderValue>, UpstreamError> {
        match &self.login {
            Some(login) => Ok(Some(basic(&login.credentials().await?))),
            None => Ok(None),
        }
    }

    /// A token that still lives.
    fn kept(&self, key: &TokenKey) -> Option<Token> {
        self.tokens
            .get(key)
            .filter(|token| Instant::now() < token.ends_at)
    }

    /// A token from memory, or a new one. One that nears its end is used while the next is fetched.
    async fn token(self: &Arc<Self>, key: TokenKey) -> Result<HeaderValue, UpstreamError> {
        if let Some(token) = self.kept(&key) {
            if Instant::now() >= token.refresh_at {
                let shared = self.clone();
                tokio::spawn(async move { shared.fetch(key).await });
            }
            return Ok(token.header);
        }
        self.fetch(key).await.map(|token| token.header)
    }

    /// Fetches a token, once for all who wait for it.
    async fn fetch(self: &Arc<Self>, key: TokenKey) -> Result<Token, UpstreamError> {
        let start = || {
            let (shared, key) = (self.clone(), key.clone());
            async move {
                let token = shared.ask(&key).await.map_err(Arc::new)?;
                shared.tokens.insert(key, token.clone());
                Ok(token)
            }
        };
        let (token, _) = self.fetching.join(key.clone(), start).await;
        token
            .unwrap_or(Err(Arc::new(UpstreamError::Timeout)))
            .map_err(UpstreamError::Token)
    }

    /// Asks the token endpoint: by GET, and by POST where it wants that.
    async fn ask(&self, key: &TokenKey) -> Result<Token, UpstreamError> {
        let url = &key.realm.url;
        let plain = url.scheme() != "https";
        let own_host = url.host_str() == self.origin.host_str();
        if plain && !(self.origin.scheme() == "http" && own_host) {
            return Err(UpstreamError::Protocol("the token realm is not https"));
        }
        if !self
            .redirects
            .allows_host(url.host_str().unwrap_or_default())
        {
            return Err(UpstreamError::Protocol(
                "the token realm is inside of the network",
            ));
        }
        let trusted = !key.anonymous && is_trusted(url, &self.origin, &self.auth_hosts);
        let credentials = match &self.login {
            Some(login) if trusted => Some(login.credentials().await?),
            _ => None,
        };
        let asked_at = Instant::now();
        let ask = async {
            let identity = credentials
                .as_ref()
                .is_some_and(Credentials::is_identity_token);
            if !identity {
                let response = self.by_get(key, credentials.as_ref()).send().await?;
                let by_post =
                    matches!(response.status().as_u16(), 404 | 405 | 501) && credentials.is_some();
                if !by_post {
                    return Ok(response);
                }
            }
            self.by_post(key, credentials.as_ref()).send().await
        };
        let response = match tokio::time::timeout(TOKEN_TIMEOUT, ask).await {
            Ok(response) => response?,
            Err(_) => return Err(UpstreamError::Timeout),
        };
        if !response.status().is_success() {
            return Err(UpstreamError::of(response.status(), response.headers()));
        }
        let body = tokio::time::timeout(TOKEN_TIMEOUT, read_body(response, MAX_TOKEN)).await;
        parse_token(&body.map_err(|_| UpstreamError::Timeout)??, asked_at)
    }

    fn by_get(&self, key: &TokenKey, credentials: Option<&Credentials>) -> reqwest::RequestBuilder {
        let mut url = key.realm.url.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.realm.service {
                query.append_pair("service", service);
            }
            // Several scopes stand in one parameter, parted by spaces, and are asked as several.
            for scope in key.scope.iter().flat_map(|scope| scope.split(' ')) {
                query.append_pair("scope", scope);
            }
            if let Some(credentials) = credentials {
                query.append_pair("account", &credentials.username);
            }
        }
        let request = self.clients.questions().get(url);
        match credentials {
            Some(credentials) => request.header(header::AUTHORIZATION, basic(credentials)),
            None => request,
        }
    }

    fn by_post(
        &self,
        key: &TokenKey,
        credentials: Option<&Credentials>,
    ) -> reqwest::RequestBuilder {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("client_id", "roadstead");
        if let Some(service) = &key.realm.service {
            form.append_pair("service", service);
        }
        if let Some(scope) = &key.scope {
            form.append_pair("scope", scope);
        }
        match credentials {
            Some(credentials) if credentials.is_identity_token() => {
                form.append_pair("grant_type", "refresh_token");
                form.append_pair("refresh_token", &credentials.password);
            }
            Some(credentials) => {
                form.append_pair("grant_type", "password");
                form.append_pair("username", &credentials.username);
                form.append_pair("password", &credentials.password);
            }
            None => {
                form.append_pair("grant_type", "password");
            }
        }
        self.clients
            .questions()
            .post(key.realm.url.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.finish())
    }
}

/// All challenges of all headers.
fn read(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(challenge::parse)
        .collect()
}

/// The first Bearer challenge with a realm, and the scope it asks for.
fn bearer(challenges: &[Challenge], base: &Url) -> Option<(Realm, Option<String>)> {
    challenges
        .iter()
        .filter(|challenge| challenge.scheme == "bearer")
        .find_map(|challenge| {
            let url = base.join(challenge.parameter("realm")?).ok()?;
            let realm = Realm {
                url,
                service: challenge.parameter("service").map(str::to_owned),
            };
            let scope = challenge
                .parameter("scope")
                .filter(|scope| !scope.is_empty());
            Some((realm, scope.map(str::to_owned)))
        })
}

/// Whether a realm may have the account's secret: the registry's own host, one of the same registrable
/// domain, or one that the operator named; over https, or else on a plain-http registry's own host.
fn is_trusted(realm: &Url, origin: &Url, auth_hosts: &[String]) -> bool {
    let (Some(host), Some(own)) = (realm.host_str(), origin.host_str()) else {
        return false;
    };
    if realm.scheme() != "https" {
        return origin.scheme() == "http" && host == own;
    }
    let domain = |host: &str| psl::domain_str(host).map(str::to_owned);
    host == own
        || (domain(host).is_some() && domain(host) == domain(own))
        || auth_hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(host))
}

/// A token endpoint's answer.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

/// Reads an answer; its life counts from when it was asked for, by our clock.
fn parse_token(body: &[u8], asked_at: Instant) -> Result<Token, UpstreamError> {
    let unreadable = UpstreamError::Protocol("the token endpoint's answer cannot be read");
    let Ok(answer) = serde_json::from_slice::<Answer>(body) else {
        return Err(unreadable);
    };
    let text = answer
        .access_token
        .filter(|token| !token.is_empty())
        .or(answer.token);
    let Some(text) = text.filter(|token| !token.is_empty()) else {
        return Err(unreadable);
    };
    let Ok(mut header) = HeaderValue::try_from(format!("Bearer {text}")) else {
        return Err(unreadable);
    };
    header.set_sensitive(true);
    let life = answer.expires_in.map_or(MIN_LIFE, |seconds| {
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(MIN_LIFE)
            .clamp(MIN_LIFE, Duration::from_secs(86_400))
    });
    let ends_at = asked_at + life;
    Ok(Token {
        header,
        refresh_at: asked_at + life.mul_f64(0.8),
        ends_at,
    })
}

fn basic(credentials: &Credentials) -> HeaderValue {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
    // Base64 is always a valid header value.
    let mut value = HeaderValue::try_from(format!("Basic {encoded}"))
        .unwrap_or(HeaderValue::from_static("Basic Og=="));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realms_that_may_have_the_secret() {
        let named = ["auth.other.example".to_owned()];
        for (realm, origin, trusted) in [
            (
                "https://auth.docker.io/token",
                "https://registry-1.docker.io",
                true,
            ),
            ("https://ghcr.io/token", "https://ghcr.io", true),
            (
                "https://gitlab.com/jwt/auth",
                "https://registry.gitlab.com",
                true,
            ),
            (
                "https://auth.other.example/token",
                "https://registry.example.org",
                true,
            ),
            (
                "https://evil.example/token",
                "https://registry-1.docker.io",
                false,
            ),
            (
                "http://auth.docker.io/token",
                "https://registry-1.docker.io",
                false,
            ),
            // A public suffix is no common owner.
            ("https://a.github.io/token", "https://b.github.io", false),
            ("https://a.co.uk/token", "https://b.co.uk", false),
            ("http://127.0.0.1:5001/token", "http://127.0.0.1:5000", true),
            (
                "http://127.0.0.2:5001/token",
                "http://127.0.0.1:5000",
                false,
            ),
            ("https://10.0.0.2/token", "https://10.0.0.1", false),
        ] {
            let url = |text: &str| Url::parse(text).expect("a URL");
            assert_eq!(
                is_trusted(&url(realm), &url(origin), &named),
                trusted,
                "{realm} {origin}"
            );
        }
    }

    #[test]
    fn tokens_live_as_long_as_they_say_and_at_least_a_minute() {
        let now = Instant::now();
        for (body, life) in [
            (r#"{"token":"t","expires_in":300}"#, Some(300)),
            (r#"{"access_token":"t"}"#, Some(60)),
            (r#"{"token":"t","expires_in":1}"#, Some(60)),
            (r#"{"token":"t","expires_in":-5}"#, Some(60)),
            (r#"{"token":"t","expires_in":1e30}"#, Some(60)),
            (r#"{"token":"t","expires_in":1e9}"#, Some(86_400)),
            (r#"{"access_token":"","token":"t"}"#, Some(60)),
            (r#"{"token":""}"#, None),
            (r#"{"token":"a\nb"}"#, None),
            ("{}", None),
            ("<html>", None),
        ] {
            let token = parse_token(body.as_bytes(), now).ok();
            assert_eq!(
                token.as_ref().map(|token| (token.ends_at - now).as_secs()),
                life,
                "{body}"
            );
            assert!(
                token.is_none_or(|token| token.header == "Bearer t" && token.header.is_sensitive())
            );
        }
    }
}
