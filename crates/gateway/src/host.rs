//! The host of a request: `Host` or `:authority`.

use http::{Version, header};
use pingora_http::RequestHeader;

use super::Gateway;
use super::resolver::NameContext;
use super::session::Session;
use oci::authority;

impl Gateway {
    /// The context that the names of a request are resolved in.
    pub(super) fn name_context<'a>(
        &'a self,
        session: &'a Session,
        namespace: Option<&'a str>,
    ) -> NameContext<'a> {
        let host = host(session.req_header()).ok().flatten();
        self.listener.name_context(namespace, host)
    }
}

/// A missing or invalid Host, which must be refused (RFC 9112 §3.2).
#[derive(Debug)]
pub struct InvalidHost;

/// The `:authority` or Host.
///
/// # Errors
/// [`InvalidHost`].
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
