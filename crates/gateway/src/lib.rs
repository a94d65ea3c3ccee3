//! Floor 4, the only place that names pingora: the phases of a request, and no policy.

mod admission;
mod caller;
mod catalogue;
mod forward;
mod front;
mod head;
mod location;
mod login;
mod measure;
mod mount;
mod old_clients;
mod pass;
mod preface;
mod respond;
mod route;
mod search;
mod send;
mod socket;
mod tls;
mod token;
mod unframed;
#[cfg_attr(not(feature = "v1"), path = "without_v1.rs")]
mod v1;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{StatusCode, Version, header};
use pingora::http::RequestHeader;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorType, Result};

pub use admission::Admission;
pub use front::{Bound, Front, FrontSettings, ListenAddress};
pub use old_clients::OldClients;
pub use route::{Entry, Listener, Table};
pub use tls::{
    Authority, CertificateFiles, ListenerTls, OwnTls, TlsError, TlsSettings, with_files,
};

use access::{Action, Authenticator, Denied, Login, Permit, Policy, Scopes};
use admission::Admitted;
use login::{Denial, scope_of};
use mirror::{Mirror, MirrorError};
use oci::client::Generation;
use oci::error::ErrorCode;
use oci::manifest::AcceptClass;
use oci::name::{Reference, Registry, Repository};
use oci::v2::Resource;
use pass::Pass;
use respond::{Shareable, Wanted};
use route::{Asked, Refusal, Route, Target};
use telemetry::metrics::InFlight;

/// State shared by all listeners.
#[derive(Debug)]
pub struct AppState {
    pub table: Table,
    pub policy: Policy,
    /// `None`: everybody is anonymous.
    pub authenticator: Option<Authenticator>,
    pub mirror: Mirror,
    #[cfg(feature = "v1")]
    pub v1: ::v1::V1,
    /// Whether every request is logged.
    pub access_log: bool,
    /// Room for requests.
    pub admission: Admission,
    /// How long the form of a `POST /token` may take to arrive.
    pub form_timeout: Duration,
    /// How long a write may make no progress.
    pub idle_timeout: Duration,
}

/// The gateway behind one listener.
#[derive(Clone, Debug)]
pub struct Gateway {
    state: Arc<AppState>,
    listener: Listener,
}

/// One request, for the log.
#[derive(Debug)]
pub struct Exchange {
    started: Instant,
    target: Option<Target>,
    login: Login,
    in_flight: Option<InFlight>,
    admitted: Option<Admitted>,
    v1: v1::Seen,
}

/// Why a request has no answer yet.
#[derive(Debug)]
enum Failure {
    /// Nothing was sent; this can still be said.
    Mirror(MirrorError),
    /// The connection is of no more use.
    Connection(Box<Error>),
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        Self::Mirror(error)
    }
}

impl From<Box<Error>> for Failure {
    fn from(error: Box<Error>) -> Self {
        Self::Connection(error)
    }
}

impl Gateway {
    pub fn new(state: Arc<AppState>, listener: Listener) -> Self {
        Self { state, listener }
    }

    /// Answers what is the v2 API's.
    async fn serve(
        &self,
        session: &mut Session,
        mut wanted: Wanted,
        route: Route,
        exchange: &mut Exchange,
    ) -> Result<()> {
        let login = &exchange.login;
        match route {
            Route::Token | Route::V1(_) => {}
            Route::Ping {
                namespace,
                of: Some(registry),
            } => {
                wanted.namespace = namespace;
                self.ping_for_caller(session, &wanted, &registry).await?;
            }
            Route::Ping {
                namespace,
                of: None,
            } => {
                wanted.namespace = namespace;
                if self.is_nobody(session) {
                    let challenge = self.challenge(session, &Scopes::default(), None);
                    let denial =
                        Denial::unauthorized("log in, or get a token for nobody", challenge);
                    login::deny(session, &wanted, &denial).await?;
                } else {
                    respond::ping(session, &wanted).await?;
                }
            }
            Route::Search(search) => {
                wanted.namespace.clone_from(&search.namespace);
                self.search(session, &wanted, &search, login).await?;
            }
            Route::Catalogue(listing) => {
                wanted.namespace.clone_from(&listing.namespace);
                self.catalogue(session, &wanted, &listing, login).await?;
            }
            Route::Pass(pass) => {
                wanted.namespace.clone_from(&pass.target.namespace);
                exchange.target = Some(pass.target.clone());
                self.pass(session, &wanted, *pass, login).await?;
            }
            Route::Pull(target) => {
                wanted.namespace.clone_from(&target.namespace);
                let target = exchange.target.insert(target);
                self.pull(session, &wanted, target, login).await?;
            }
        }
        Ok(())
    }

    /// Decides, then looks.
    async fn pull(
        &self,
        session: &mut Session,
        wanted: &Wanted,
        target: &Target,
        login: &Login,
    ) -> Result<()> {
        let permit = match self.decide(session, login, target, Action::Pull) {
            Ok(permit) => permit,
            Err(denied) => {
                let denial = self.denial(session, denied, &scope_of(target, Action::Pull));
                return login::deny(session, wanted, &denial).await;
            }
        };
        match self.read(session, wanted, target, &permit).await {
            Ok(()) => Ok(()),
            Err(Failure::Mirror(error)) => self.failure(session, wanted, error).await,
            Err(Failure::Connection(error)) => Err(error),
        }
    }

    fn decide(
        &self,
        session: &Session,
        login: &Login,
        target: &Target,
        action: Action,
    ) -> Result<Permit, Denied> {
        let (registry, repository) = (&target.registry, &target.endpoint.repository);
        let policy = &self.state.policy;
        if policy.delegates_auth(registry) && action == Action::Pull {
            let permit = policy.delegated_permit(&self.presented(session), registry, repository);
            return permit.ok_or(Denied::User);
        }
        let caller = login.caller(&target.typed);
        policy.decide(&caller, action, registry, repository)
    }

    /// Decides, then lets a request through.
    async fn pass(
        &self,
        session: &mut Session,
        wanted: &Wanted,
        mut pass: Pass,
        login: &Login,
    ) -> Result<()> {
        let permit = match self.decide(session, login, &pass.target, pass.action) {
            Ok(permit) => permit,
            Err(denied) => {
                let denial = self.denial(session, denied, &scope_of(&pass.target, pass.action));
                return login::deny(session, wanted, &denial).await;
            }
        };
        if let Some(mount) = pass.mount.take()
            && let Some(from) = self.source_of(session, login, &pass, &mount).await
        {
            pass.mount_from(mount.digest, from);
        }
        match self.forward(session, wanted, &pass, &permit).await {
            Ok(()) => Ok(()),
            Err(Failure::Mirror(error)) => {
                self.failure(session, wanted, error).await?;
                forward::drain(session).await;
                Ok(())
            }
            Err(Failure::Connection(error)) => Err(error),
        }
    }

    async fn read(
        &self,
        session: &mut Session,
        wanted: &Wanted,
        target: &Target,
        permit: &Permit,
    ) -> Result<(), Failure> {
        let AppState { policy, mirror, .. } = &*self.state;
        let open = policy.is_open(permit.registry());
        let immutable = if open {
            Shareable::Forever
        } else {
            Shareable::Private
        };
        match &target.endpoint.resource {
            Resource::Blob(digest) if wanted.head => {
                let answer = mirror.blob_head(permit, digest).await?;
                respond::blob_head(session, wanted, digest, answer, immutable).await?;
            }
            Resource::Blob(digest) => {
                let answer = mirror.blob(permit, digest).await?;
                respond::blob(session, wanted, digest, answer, immutable).await?;
            }
            Resource::Manifest(reference) => {
                let class = accept_class(session.req_header());
                let answer = mirror
                    .manifest(permit, reference, class, !wanted.head)
                    .await?;
                let by_digest = matches!(reference, Reference::Digest(_));
                let shareable = if by_digest {
                    immutable
                } else {
                    Shareable::Private
                };
                respond::manifest(session, wanted, answer, shareable).await?;
            }
            resource => {
                let answer = mirror.list(permit, resource, &target.query).await?;
                let external = self.external(session);
                respond::page(session, wanted, target, answer, &external).await?;
            }
        }
        Ok(())
    }

    /// One line per finished request.
    fn log(&self, session: &Session, exchange: &Exchange) {
        let request = session.req_header();
        let response = session.response_written();
        let header = |name: &str| {
            response
                .and_then(|response| response.headers.get(name)?.to_str().ok())
                .unwrap_or("-")
        };
        let target = exchange.target.as_ref();
        let registry = target.map(|target| &target.registry);
        let registry = registry.or(exchange.v1.registry.as_ref());
        let repository = target.map(|target| &target.endpoint.repository);
        let repository = repository.or(exchange.v1.repository.as_ref());
        let cache = header("cache-status").trim_start_matches("roadstead; ");
        let upstream = match target {
            Some(target) if cache.contains("fwd=") => {
                self.state.mirror.upstream_of(&target.registry)
            }
            _ => "-",
        };
        let client = session
            .client_addr()
            .map_or_else(|| "-".to_owned(), ToString::to_string);
        tracing::info!(
            target: "access",
            client,
            user = exchange.v1.user.as_deref().or(exchange.login.user()).unwrap_or("anonymous"),
            method = request.method.as_str(),
            path = loggable(request.uri.path()),
            registry = registry.map_or("-", Registry::as_str),
            repository = repository.map_or("-", Repository::as_str),
            status = response.map_or(0, |response| response.status.as_u16()),
            bytes = session.body_bytes_sent(),
            ms = telemetry::ms(exchange.started),
            cache,
            upstream,
        );
    }
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        Exchange {
            started: Instant::now(),
            target: None,
            login: Login::ANONYMOUS,
            in_flight: None,
            admitted: None,
            v1: v1::Seen::default(),
        }
    }

    async fn request_filter(&self, session: &mut Session, exchange: &mut Exchange) -> Result<bool> {
        if session.is_http2() {
            // An HTTP/2 receiver that stops stalls its stream, not the socket, which has a deadline already.
            session.set_write_timeout(Some(self.state.idle_timeout));
        }
        let request = session.req_header();
        exchange.in_flight = Some(measure::begun(request));
        let wanted = Wanted::of(&request.method, &request.headers);
        match self.state.admission.request(login::client(session)) {
            Ok(admitted) => exchange.admitted = Some(admitted),
            Err(denial) => {
                login::deny(session, &wanted, &denial).await?;
                return Ok(true);
            }
        }
        let request = session.req_header();
        let Ok(host) = host(request) else {
            let refused = Refusal {
                status: StatusCode::BAD_REQUEST,
                code: ErrorCode::NameInvalid,
                message: "the Host header is missing or not valid".into(),
            };
            respond::refusal(session, &wanted, &refused).await?;
            return Ok(true);
        };
        let asked = Asked {
            method: &request.method,
            path: if request.raw_path_is_utf8() {
                request.uri.path()
            } else {
                "/%ff"
            },
            query: request.uri.query().unwrap_or_default(),
            host,
            agent: request
                .headers
                .get(header::USER_AGENT)
                .and_then(|agent| agent.to_str().ok())
                .unwrap_or_default(),
        };
        let route = match route::route(&self.state.table, &self.listener, asked) {
            Ok(route) => route,
            Err(refusal) => {
                forward::refuse(session, &wanted, &refusal).await?;
                return Ok(true);
            }
        };
        let route = match route {
            Route::V1(route) => {
                self.v1(session, route, &mut exchange.v1).await?;
                return Ok(true);
            }
            route => route,
        };
        if route == Route::Token {
            let host = host.map(str::to_owned);
            self.token(session, &wanted, host.as_deref()).await?;
            return Ok(true);
        }
        if self.authenticator().is_some() && !self.leaves(&route) {
            let scope = match &route {
                Route::Pull(target) => scope_of(target, Action::Pull),
                Route::Pass(pass) => scope_of(&pass.target, pass.action),
                Route::Catalogue(_) | Route::Search(_) => catalogue::scope(),
                Route::Ping { .. } | Route::Token | Route::V1(_) => Scopes::default(),
            };
            exchange.login = match self.login(session, &scope).await {
                Ok(login) => login,
                Err(denial) => {
                    login::deny(session, &wanted, &denial).await?;
                    return Ok(true);
                }
            };
        }
        self.serve(session, wanted, route, exchange).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, _: &mut Exchange) -> Result<Box<HttpPeer>> {
        // Every request is answered in `request_filter`.
        Error::e_explain(ErrorType::InternalError, "nothing is forwarded")
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        _: &mut Exchange,
    ) -> FailToProxy {
        let begun = session.response_written().is_some();
        if !begun
            && !matches!(
                error.etype(),
                ErrorType::WriteError | ErrorType::ConnectionClosed
            )
        {
            let internal = Refusal {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                code: ErrorCode::Unknown,
                message: "the gateway failed".into(),
            };
            let wanted = Wanted::of(&session.req_header().method, &session.req_header().headers);
            let _ = respond::refusal(session, &wanted, &internal).await;
        } else if session.is_http2() {
            // A stream that is only dropped could look finished; this resets it with INTERNAL_ERROR.
            session.downstream_session.shutdown().await;
        }
        // HTTP/1: the connection ends short of the announced length or of the last chunk.
        FailToProxy {
            error_code: 0,
            can_reuse_downstream: false,
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Exchange, _: &Error) -> bool {
        // What broke a body off was logged where it happened; a client that left is no error.
        true
    }

    async fn logging(&self, session: &mut Session, _: Option<&Error>, exchange: &mut Exchange) {
        measure::ended(session, exchange);
        if self.state.access_log {
            self.log(session, exchange);
        }
    }
}

/// A request that must be refused (RFC 9112 §3.2).
struct BadHost;

/// Host or `:authority`.
fn host(request: &RequestHeader) -> Result<Option<&str>, BadHost> {
    if let Some(authority) = request.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    match request.headers.get(header::HOST) {
        None if request.version == Version::HTTP_11 => Err(BadHost),
        None => Ok(None),
        Some(host) => {
            let host = host.to_str().map_err(|_| BadHost)?;
            is_authority(host).then_some(Some(host)).ok_or(BadHost)
        }
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2); it may be empty.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(at) if !text[at..].contains(']') => (&text[..at], &text[at + 1..]),
        _ => (text, ""),
    };
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
    let host_is_good = match literal {
        Some(literal) => literal.bytes().all(|byte| name(byte) || byte == b':'),
        None => host.bytes().all(name),
    };
    host_is_good && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn accept_class(request: &RequestHeader) -> AcceptClass {
    let agent = request.headers.get(header::USER_AGENT);
    let client = Generation::of(agent.and_then(|agent| agent.to_str().ok()).unwrap_or(""));
    let lines = request.headers.get_all(header::ACCEPT).iter();
    AcceptClass::of(lines.filter_map(|line| line.to_str().ok()), client)
}

/// A path as it may stand in the log: bounded, and without control characters.
fn loggable(path: &str) -> String {
    path.chars()
        .take(512)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
