//! The client of one registry: requests, redirects, logins, limits.
//!
//! Fetches carry the gateway's own headers, and a client's credentials only for a registry that delegates authentication. Each
//! status keeps its meaning: missing, refused, limited and broken are different errors.

mod account;
mod accounts;
mod addresses;
mod anonymous;
mod attempt;
mod auth;
mod blob;
mod body_end;
mod budget;
mod catalogue;
mod circuit;
mod clients;
mod error;
mod health;
mod limits;
mod lists;
mod manifest;
mod observations;
mod pass;
mod peer;
mod preview;
mod probe;
mod push;
mod rate_limit;
mod request;
mod response;
mod token_client;
mod transport;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method};
use reqwest::Url;

pub use account::{Account, AccountName, Credentials};
pub use blob::{BlobBody, BlobRange};
pub use body_end::{BodyEnd, is_whole_json};
pub use budget::Pulls;
pub use catalogue::CataloguePage;
pub use circuit::BreakerState;
pub use error::UpstreamError;
pub use health::{AccountHealth, UpstreamHealth};
pub use lists::Page;
pub use manifest::{Manifest, ManifestHead};
pub use observations::ResponseTimes;
pub use pass::{Body, BrokenOff, Feed, OnClosedConnection, Passed, Passing};
pub use peer::{PeerClient, PeerRequest};
pub use preview::{Preview, Read};
pub use push::{Begun, Upload};
pub use rate_limit::RemainingPulls;
pub use request::{BODY_HEADERS_TIMEOUT, Identity, SHORT_TIMEOUT, UpstreamRequest};
pub use response::{UpstreamResponse, WholeResponse};

use account::Login;
use accounts::{AccountState, Accounts};
use addresses::RedirectPolicy;
use auth::Auth;
use clients::Clients;
use limits::Limits;
use oci::name::Repository;
use probe::Probe;
use request::AuthSource;
use telemetry::metrics;
use token_client::TokenClient;
use transport::Transport;

/// The origin of a registry that does not exist: a reserved name (RFC 6761).
const NOWHERE: &str = "http://nowhere.invalid";
/// The longest page of tags, referrers or repositories, in bytes.
const MAX_PAGE: usize = 8 << 20;

/// The settings of one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The configured name.
    pub registry: String,
    /// Scheme and authority without a trailing slash: `https://registry-1.docker.io`.
    pub origin: String,
    /// The gateway's accounts at the registry, which are equal in rights; none: anonymous.
    pub accounts: Vec<Account>,
    /// A PEM file of CAs, added to the system's roots. Reloaded when it changes.
    pub ca: Option<PathBuf>,
    /// Hosts of trusted token realms, besides the registry's own registrable domain.
    pub auth_hosts: Vec<String>,
    /// How long an idle connection stays open; `None`: the HTTP client's default.
    pub idle: Option<Duration>,
}

/// Why a registry's client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// The origin is no URL with a host.
    #[error("registry {registry}: {origin} is not a URL")]
    Origin {
        /// The configured name.
        registry: String,
        /// As configured.
        origin: String,
    },
    /// The CA file cannot be read.
    #[error("{client}: cannot read {}: {source}", path.display())]
    Ca {
        /// The registry, or the key of the configuration.
        client: String,
        /// The file of `ca`.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The CA file has no certificate.
    #[error("{client}: {} holds no CA's certificate in PEM form: {reason}", path.display())]
    NoCertificate {
        /// The registry, or the key of the configuration.
        client: String,
        /// The file of `ca`.
        path: PathBuf,
        /// What is wrong with the PEM text.
        reason: String,
    },
    /// The HTTP client cannot be built, for example without the system's roots.
    #[error("{client}: its TLS cannot be set up")]
    Tls {
        /// The registry, or the key of the configuration.
        client: String,
        /// Why.
        #[source]
        source: UpstreamError,
    },
}

/// A client of one registry. Clones share its connections, logins and limits.
#[derive(Clone, Debug)]
pub struct Upstream {
    transport: Arc<Transport>,
    clients: Clients,
    auth: AuthSource,
}

impl Upstream {
    /// A client of a registry. Reads the CA file, and reloads it when it changes.
    ///
    /// # Errors
    /// [`SetUpError`], with the unusable setting.
    ///
    /// # Panics
    /// With a CA file, outside of a Tokio runtime.
    pub fn new(settings: Settings) -> Result<Self, SetUpError> {
        Self::with_probe(settings, "/v2/")
    }

    /// As [`Upstream::new`], for a server of another API. `probe` is the path that any such server answers.
    ///
    /// # Errors
    /// As [`Upstream::new`].
    ///
    /// # Panics
    /// As [`Upstream::new`].
    pub fn with_probe(settings: Settings, probe: &str) -> Result<Self, SetUpError> {
        let Settings {
            registry,
            origin,
            accounts,
            ca,
            auth_hosts,
            idle,
        } = settings;
        let url = Url::parse(&origin).ok().filter(Url::has_host);
        let Some(url) = url else {
            return Err(SetUpError::Origin { registry, origin });
        };
        let redirects = RedirectPolicy::new(url.host_str().unwrap_or_default());
        let clients = Clients::open(&registry, &redirects, ca, idle)?;
        let account = |account: Option<Account>| {
            let name = account.as_ref().map(Account::name);
            let auth = Auth::new(TokenClient {
                origin: url.clone(),
                redirects: redirects.clone(),
                auth_hosts: auth_hosts.clone(),
                login: account.map(|account| Login::new(account, &registry)),
                clients: clients.clone(),
            });
            AccountState::new(name.unwrap_or(AccountName::Anonymous), auth)
        };
        let mut accounts = accounts.into_iter();
        let first = account(accounts.next());
        let others = accounts.map(|one| account(Some(one))).collect();
        let limits = Arc::new(Limits::default());
        let transport = Transport {
            probe: Probe::new(&url, probe, &limits),
            accounts: Accounts::new(first, others),
            origin: url,
            redirects,
            limits,
            counted: metrics::Upstream::of(&registry),
            absent: false,
        };
        Ok(Self {
            transport: Arc::new(transport),
            clients,
            auth: AuthSource::Gateway,
        })
    }

    /// A registry that does not exist: no request is sent, and every response is a 404.
    ///
    /// # Errors
    /// [`SetUpError::Tls`] when TLS cannot be set up.
    pub fn absent(registry: &str) -> Result<Self, SetUpError> {
        let mut upstream = Self::new(Settings {
            registry: registry.to_owned(),
            origin: NOWHERE.to_owned(),
            accounts: Vec::new(),
            ca: None,
            auth_hosts: Vec::new(),
            idle: None,
        })?;
        if let Some(transport) = Arc::get_mut(&mut upstream.transport) {
            transport.absent = true;
        }
        Ok(upstream)
    }

    /// Whether the registry does not exist.
    pub fn is_absent(&self) -> bool {
        self.transport.absent
    }

    /// The same registry with a client's own `Authorization` instead of the account.
    #[must_use]
    pub fn for_caller(&self, authorization: Option<HeaderValue>) -> Self {
        Self {
            transport: self.transport.clone(),
            clients: self.clients.clone(),
            auth: AuthSource::Caller(authorization),
        }
    }

    /// The same registry with a fixed `Authorization`, sent without a challenge and instead of the account.
    #[must_use]
    pub fn with_authorization(&self, authorization: Option<HeaderValue>) -> Self {
        Self {
            transport: self.transport.clone(),
            clients: self.clients.clone(),
            auth: AuthSource::Preemptive(authorization),
        }
    }

    /// The first account that is not refused as an `Authorization` of scheme Basic, for servers that want it without a
    /// challenge; `None` without an account.
    ///
    /// # Errors
    /// [`UpstreamError::Helper`] when a credential helper fails.
    pub async fn account_authorization(&self) -> Result<Option<HeaderValue>, UpstreamError> {
        let account = self.transport.accounts.first(Instant::now());
        account.auth.account().await
    }

    /// The pulls that the registry allows at `now`, all accounts together; `None` unless it counts them and says so. A
    /// client's own login has none.
    pub fn pulls(&self, now: Instant) -> Option<Pulls> {
        match self.auth {
            AuthSource::Gateway => self.transport.accounts.pulls(now),
            AuthSource::Anonymous => self.transport.accounts.anonymous().pulls(now),
            AuthSource::Caller(_) | AuthSource::Preemptive(_) => None,
        }
    }

    /// Scheme and authority, for the log.
    pub fn origin(&self) -> &str {
        self.transport.origin.as_str().trim_end_matches('/')
    }

    /// Requests the base of the API, `/v2/`.
    ///
    /// # Errors
    /// A refusal or failure of the upstream.
    pub async fn ping(&self) -> Result<(), UpstreamError> {
        let request = self.request(Method::GET, "/v2/".to_owned(), String::new());
        self.short(request).await.map(drop)
    }

    /// A request for `path`; `scope` is what a token must allow.
    pub fn request(&self, method: Method, path: String, scope: String) -> UpstreamRequest {
        UpstreamRequest::new(method, path, scope, self.auth.clone())
    }

    /// A request for something of a repository, with a token to pull.
    fn pull(&self, method: Method, path: String, repository: &Repository) -> UpstreamRequest {
        self.request(method, path, format!("repository:{repository}:pull"))
    }

    /// Sends a request and reads the whole body, of at most `limit` bytes.
    ///
    /// # Errors
    /// A refusal or failure of the upstream; [`UpstreamError::TooLarge`] for a longer body.
    pub async fn fetch_whole(
        &self,
        request: &UpstreamRequest,
        limit: usize,
    ) -> Result<WholeResponse, UpstreamError> {
        let client = self.clients.short();
        self.transport.whole(&client, request, limit).await
    }

    /// Sends a request for a body that a fill reads, on the fills' connections.
    ///
    /// # Errors
    /// A refusal or failure of the upstream.
    pub async fn fetch_body(
        &self,
        request: &UpstreamRequest,
    ) -> Result<UpstreamResponse, UpstreamError> {
        self.transport.send(&self.clients.bodies(), request).await
    }

    /// Sends a request of which only the head of the response matters.
    async fn short(&self, request: UpstreamRequest) -> Result<UpstreamResponse, UpstreamError> {
        self.transport.send(&self.clients.short(), &request).await
    }
}
