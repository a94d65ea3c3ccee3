//! The access log: one line per answered request.

use super::Gateway;
use super::context::RequestContext;
use super::session::Session;
use oci::name::{NameScope, Registry};

/// Writes the line of one request.
pub fn write(gateway: &Gateway, session: &Session, context: &RequestContext) {
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
            gateway.state.mirror.upstream_of(&target.name.registry)
        }
        _ => "-",
    };
    let cache = cache.map(|cache| cache.parameters().to_string());
    let client = session.client_addr().map(|client| client.to_string());
    tracing::info!(
        target: "access",
        client = client.as_deref().unwrap_or("-"),
        user = context.login.user().unwrap_or("anonymous"),
        method = request.method.as_str(),
        path = loggable(request.uri.path()),
        registry = registry.map_or("-", Registry::as_str),
        repository = name.map_or("-", |name| name.repository.as_str()),
        status = sent.map_or(0, |sent| sent.status.as_u16()),
        bytes = session.bytes_sent(),
        ms = telemetry::ms(context.started),
        cache = cache.as_deref().unwrap_or("-"),
        upstream,
    );
}

/// Makes a path safe to log: at most 512 characters, no control characters.
fn loggable(path: &str) -> String {
    path.chars()
        .take(512)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}
