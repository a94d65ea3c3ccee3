//! `Host`, as HTTP/1 has it, or `:authority`.

use http::{Version, header};
use pingora_http::RequestHeader;

use super::Gateway;
use super::resolver::Place;
use super::session::Session;
use oci::authority;

impl Gateway {
    /// Where a name of a request is asked for.
    pub(super) fn place<'a>(
        &'a self,
        session: &'a Session,
        namespace: Option<&'a str>,
    ) -> Place<'a> {
        let host = host(session.req_header()).ok().flatten();
        self.listener.place(namespace, host)
    }
}

/// A request that must be refused (RFC 9112 §3.2).
#[derive(Debug)]
pub struct BadHost;

/// Host or `:authority`.
pub fn host(request: &RequestHeader) -> Result<Option<&str>, BadHost> {
    if let Some(authority) = request.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    match request.headers.get(header::HOST) {
        None if request.version == Version::HTTP_11 => Err(BadHost),
        None => Ok(None),
        Some(host) => {
            let host = host.to_str().map_err(|_| BadHost)?;
            authority::is_valid(host)
                .then_some(Some(host))
                .ok_or(BadHost)
        }
    }
}
