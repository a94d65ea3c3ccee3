//! `Host`, as HTTP/1 has it, or `:authority`.

use http::{Version, header};
use pingora_http::RequestHeader;

use super::Gateway;
use super::resolver::NameContext;
use super::session::Session;
use oci::authority;

impl Gateway {
    /// Where a name of a request is asked for.
    pub(super) fn name_context<'a>(
        &'a self,
        session: &'a Session,
        namespace: Option<&'a str>,
    ) -> NameContext<'a> {
        let host = host(session.req_header()).ok().flatten();
        self.listener.name_context(namespace, host)
    }
}

/// A request that must be refused (RFC 9112 §3.2).
#[derive(Debug)]
pub struct InvalidHost;

/// Host or `:authority`.
pub fn host(request: &RequestHeader) -> Result<Option<&str>, InvalidHost> {
    if let Some(authority) = request.uri.authority() {
        return Ok(Some(authority.as_str()));
    }
    match request.headers.get(header::HOST) {
        None if request.version == Version::HTTP_11 => Err(InvalidHost),
        None => Ok(None),
        Some(host) => {
            let host = host.to_str().map_err(|_| InvalidHost)?;
            authority::is_valid(host)
                .then_some(Some(host))
                .ok_or(InvalidHost)
        }
    }
}
