//! The access log: one line per answered request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, header};
use pingora_http::RequestHeader;

use super::context::RequestContext;
use super::login_attempt::{LoginAttempt, user};
use super::session::Session;
use mirror::Mirror;
use oci::cache_status::CacheStatus;
use oci::name::{NameScope, Registry, RepositoryName};

/// The most characters of a path that are remembered.
const LONGEST_PATH: usize = 512;

/// An answered request. It is made for each: what is costly to write is written when somebody reads it.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// The end of the answer.
    pub ended: SystemTime,
    /// `None` for a Unix socket. Port 0 is unknown.
    pub client: Option<SocketAddr>,
    /// `None`: anonymous.
    pub user: Option<Arc<str>>,
    /// As sent.
    pub method: Method,
    /// At most 512 characters, without control characters.
    pub path: Box<str>,
    /// The registry that it was routed to, or the repository that it is about.
    pub scope: Option<NameScope>,
    /// 0: the client left before an answer.
    pub status: u16,
    /// Bytes of the response's body.
    pub sent_bytes: u64,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
    /// How the cache took part.
    pub cache: Option<CacheStatus>,
    /// The registry that was asked.
    pub upstream: Option<Registry>,
}

impl AccessRecord {
    /// The record of a request that has ended after `took`. It takes what the request was about out of `context`.
    pub(super) fn of(session: &Session, context: &mut RequestContext, took: Duration) -> Self {
        let request = session.req_header();
        let sent = session.sent_head();
        let cache = sent.map(|sent| sent.cache);
        let is_forwarded = cache.is_some_and(|cache| cache.forwarded().is_some());
        let target = context.target.take();
        let upstream = target.as_ref().filter(|_| is_forwarded);
        let upstream = upstream.map(|target| target.name.registry.clone());
        let scope = target.map(|target| NameScope::Repository(target.name));
        Self {
            ended: SystemTime::now(),
            client: session.client_addr(),
            user: user(session, &context.login),
            method: request.method.clone(),
            path: loggable(request.uri.path()),
            scope: scope.or_else(|| context.v1.take()),
            status: sent.map_or(0, |sent| sent.status.as_u16()),
            sent_bytes: session.bytes_sent() as u64,
            took,
            cache,
            upstream,
        }
    }

    /// The address of its client, with the port if that is known; `None` for a Unix socket.
    pub fn client(&self) -> Option<String> {
        self.client.map(shown)
    }

    /// Its user, or `anonymous`.
    pub fn user(&self) -> &str {
        self.user.as_deref().unwrap_or("anonymous")
    }

    /// The registry that it was routed to.
    pub fn registry(&self) -> Option<&Registry> {
        self.scope.as_ref().map(NameScope::registry)
    }

    /// The repository that it is about.
    pub fn repository(&self) -> Option<&RepositoryName> {
        self.scope.as_ref().and_then(NameScope::repository)
    }

    /// Writes its line, with what only the log tells of the request.
    pub(super) fn log(&self, session: &Session, mirror: &Mirror) {
        let attempt = session.login_attempt.as_ref();
        let refused_user = attempt.and_then(LoginAttempt::refused_user);
        let refused_user = refused_user.map(|user| telemetry::harmless(user, usize::MAX));
        let client = self.client();
        let cache = self.cache.map(|cache| cache.parameters().to_string());
        let upstream = self.upstream.as_ref();
        tracing::info!(
            target: "access",
            request_id = %session.request_id,
            client = client.as_deref().unwrap_or("-"),
            user = self.user(),
            refused_user,
            user_agent = user_agent(session.req_header()).as_deref().unwrap_or("-"),
            method = self.method.as_str(),
            path = &*self.path,
            registry = self.registry().map_or("-", Registry::as_str),
            repository = self.repository().map_or("-", |name| name.repository.as_str()),
            status = self.status,
            bytes = self.sent_bytes,
            ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            cache = cache.as_deref().unwrap_or("-"),
            upstream = upstream.map_or("-", |registry| mirror.upstream_of(registry)),
        );
    }
}

/// An address, with its port if that is known.
pub(super) fn shown(client: SocketAddr) -> String {
    match client.port() {
        0 => client.ip().to_string(),
        _ => client.to_string(),
    }
}

/// The User-Agent of a request, at most 256 characters without control characters.
fn user_agent(request: &RequestHeader) -> Option<String> {
    let agent = request.headers.get(header::USER_AGENT)?;
    let agent = String::from_utf8_lossy(agent.as_bytes());
    Some(telemetry::harmless(&agent, 256))
}

/// Makes a path safe to log: at most 512 characters, no control characters.
fn loggable(path: &str) -> Box<str> {
    // Without an early end, it is done in a few instructions.
    let is_graphic = |all: bool, byte: u8| all & byte.is_ascii_graphic();
    if path.len() <= LONGEST_PATH && path.bytes().fold(true, is_graphic) {
        return path.into();
    }
    let characters = path.chars().take(LONGEST_PATH);
    let harmless = characters.map(|c| if c.is_control() { '?' } else { c });
    harmless.collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_paths_are_harmless() {
        for (path, logged) in [
            ("/v2/a/manifests/b", "/v2/a/manifests/b"),
            ("/v2/ä\u{7f}\n\u{9b}", "/v2/ä???"),
        ] {
            assert_eq!(&*loggable(path), logged);
        }
        for long in ["a".repeat(513), "ä".repeat(513)] {
            assert_eq!(loggable(&long).chars().count(), LONGEST_PATH);
        }
    }
}
