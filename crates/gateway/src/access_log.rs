//! The access log: one line per answered request.

use std::time::{Duration, SystemTime};

use http::Method;

use super::Gateway;
use super::context::RequestContext;
use super::session::Session;
use oci::cache_status::CacheStatus;
use oci::name::{NameScope, Registry, RepositoryName};
use oci::v2::Resource;

/// An answered request.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// The end of the answer.
    pub ended: SystemTime,
    /// Address and port; `None` for a Unix socket.
    pub client: Option<String>,
    /// `None`: anonymous.
    pub user: Option<String>,
    /// As sent.
    pub method: Method,
    /// At most 512 characters, without control characters.
    pub path: String,
    /// The registry that it was routed to.
    pub registry: Option<Registry>,
    /// The repository that it is about.
    pub name: Option<RepositoryName>,
    /// The tag or digest that it is about.
    pub reference: Option<String>,
    /// 0: the client left before an answer.
    pub status: u16,
    /// Bytes of the response's body.
    pub sent_bytes: u64,
    /// From the head of the request to the end of the answer.
    pub took: Duration,
    /// How the cache took part.
    pub cache: Option<CacheStatus>,
    /// Scheme and authority of the registry that was asked.
    pub upstream: Option<String>,
}

impl AccessRecord {
    /// The record of a request that has ended.
    pub(super) fn of(gateway: &Gateway, session: &Session, context: &RequestContext) -> Self {
        let request = session.req_header();
        let sent = session.sent_head();
        let (target, v1) = (context.target.as_ref(), context.v1.as_ref());
        let name = target.map(|target| &target.name);
        let name = name.or(v1.and_then(NameScope::repository));
        let registry = name.map(|name| &name.registry);
        let registry = registry.or(v1.map(NameScope::registry));
        let cache = sent.map(|sent| sent.cache);
        let upstream = match target {
            Some(target) if cache.is_some_and(|cache| cache.forwarded().is_some()) => {
                let registry = &target.name.registry;
                Some(gateway.state.mirror.upstream_of(registry).to_owned())
            }
            _ => None,
        };
        let reference = target.and_then(|target| match &target.resource {
            Resource::Manifest(reference) => Some(reference.to_string()),
            Resource::Blob(digest) | Resource::Referrers(digest) => Some(digest.to_string()),
            Resource::Tags | Resource::Uploads | Resource::Upload(_) => None,
        });
        Self {
            ended: SystemTime::now(),
            client: session.client_addr().map(|client| client.to_string()),
            user: context.login.user().map(str::to_owned),
            method: request.method.clone(),
            path: loggable(request.uri.path()),
            registry: registry.cloned(),
            name: name.cloned(),
            reference,
            status: sent.map_or(0, |sent| sent.status.as_u16()),
            sent_bytes: session.bytes_sent() as u64,
            took: context.started.elapsed(),
            cache,
            upstream,
        }
    }

    /// Writes its line.
    pub(super) fn log(&self) {
        let cache = self.cache.map(|cache| cache.parameters().to_string());
        tracing::info!(
            target: "access",
            client = self.client.as_deref().unwrap_or("-"),
            user = self.user.as_deref().unwrap_or("anonymous"),
            method = self.method.as_str(),
            path = self.path,
            registry = self.registry.as_ref().map_or("-", Registry::as_str),
            repository = self.name.as_ref().map_or("-", |name| name.repository.as_str()),
            status = self.status,
            bytes = self.sent_bytes,
            ms = u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            cache = cache.as_deref().unwrap_or("-"),
            upstream = self.upstream.as_deref().unwrap_or("-"),
        );
    }
}

/// Makes a path safe to log: at most 512 characters, no control characters.
fn loggable(path: &str) -> String {
    path.chars()
        .take(512)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
