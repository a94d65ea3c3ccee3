//! The client of token endpoints (distribution's token and OAuth specifications).

use std::time::{Duration, Instant};

use base64::Engine as _;
use http::{HeaderValue, header};
use reqwest::Url;
use serde::Deserialize;

use super::UpstreamError;
use super::account::{Credentials, Login};
use super::addresses::RedirectPolicy;
use super::clients::Clients;
use super::request::Identity;
use super::response::read_body;

/// The limit on a token request.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(8);
/// The longest response of a token endpoint, in bytes.
const MAX_TOKEN: usize = 1 << 20;
/// The lifetime of a token without `expires_in`, and the shortest one that is accepted.
const MIN_LIFETIME: Duration = Duration::from_secs(60);

/// A token endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenRealm {
    pub url: Url,
    pub service: Option<String>,
}

/// What a token is requested for, with one account.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenCacheKey {
    pub realm: TokenRealm,
    pub scope: Option<String>,
    pub identity: Identity,
}

#[derive(Clone)]
pub(super) struct BearerToken {
    pub header: HeaderValue,
    pub refresh_at: Instant,
    pub ends_at: Instant,
}

/// Fetches tokens with a registry's account, or anonymously.
pub(super) struct TokenClient {
    pub origin: Url,
    pub redirects: RedirectPolicy,
    /// Hosts of realms that are trusted beside the registry's own domain.
    pub auth_hosts: Vec<String>,
    pub login: Option<Login>,
    pub clients: Clients,
}

impl TokenClient {
    /// The account as an `Authorization` of scheme Basic; `None` without an account.
    ///
    /// # Errors
    /// [`UpstreamError::Helper`] when the credential helper fails.
    pub async fn basic(&self) -> Result<Option<HeaderValue>, UpstreamError> {
        match &self.login {
            Some(login) => Ok(Some(basic(&login.credentials().await?))),
            None => Ok(None),
        }
    }

    /// Requests a token: by GET, and by POST for identity tokens and endpoints without GET.
    ///
    /// # Errors
    /// [`UpstreamError::Protocol`] for a realm or a response that is unacceptable; any other refusal or failure of the token
    /// endpoint.
    pub async fn fetch(&self, key: &TokenCacheKey) -> Result<BearerToken, UpstreamError> {
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
                "the token realm has a private address",
            ));
        }
        let trusted =
            key.identity == Identity::Account && is_trusted(url, &self.origin, &self.auth_hosts);
        let credentials = match &self.login {
            Some(login) if trusted => Some(login.credentials().await?),
            _ => None,
        };
        let requested_at = Instant::now();
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
        parse_token(&body.map_err(|_| UpstreamError::Timeout)??, requested_at)
    }

    fn by_get(
        &self,
        key: &TokenCacheKey,
        credentials: Option<&Credentials>,
    ) -> reqwest::RequestBuilder {
        let mut url = key.realm.url.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &key.realm.service {
                query.append_pair("service", service);
            }
            // Several scopes of one challenge, separated by spaces, become one parameter each.
            for scope in key.scope.iter().flat_map(|scope| scope.split(' ')) {
                query.append_pair("scope", scope);
            }
            if let Some(credentials) = credentials {
                query.append_pair("account", &credentials.username);
            }
        }
        let request = self.clients.short().get(url);
        match credentials {
            Some(credentials) => request.header(header::AUTHORIZATION, basic(credentials)),
            None => request,
        }
    }

    fn by_post(
        &self,
        key: &TokenCacheKey,
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
            .short()
            .post(key.realm.url.clone())
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.finish())
    }
}

/// Whether a realm may get the account's secret: the registry's own host, one of the same registrable
/// domain, or one that the operator configured; over https, or else on a plain-http registry's own host.
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

/// The JSON that a token endpoint responds with.
#[derive(Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
}

/// Parses a response. The lifetime counts from the request, by the gateway's clock.
fn parse_token(body: &[u8], requested_at: Instant) -> Result<BearerToken, UpstreamError> {
    let unreadable = UpstreamError::Protocol("the token endpoint's response cannot be read");
    let Ok(answer) = serde_json::from_slice::<TokenResponse>(body) else {
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
    let lifetime = answer.expires_in.map_or(MIN_LIFETIME, |seconds| {
        Duration::try_from_secs_f64(seconds)
            .unwrap_or(MIN_LIFETIME)
            .clamp(MIN_LIFETIME, Duration::from_secs(86_400))
    });
    let ends_at = requested_at + lifetime;
    Ok(BearerToken {
        header,
        refresh_at: requested_at + lifetime.mul_f64(0.8),
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
    fn the_secret_goes_to_trusted_realms_only() {
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
    fn token_lifetimes_are_clamped() {
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
