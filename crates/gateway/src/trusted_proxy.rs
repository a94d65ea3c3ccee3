//! What a trusted proxy in front of the gateway says of a request: its client, its URL and its id.

use http::HeaderValue;

use super::Gateway;
use super::request_id::RequestId;
use super::session::Session;
use oci::forwarded::Forwarded;

impl Gateway {
    /// Lets a request be as its client sent it to a trusted proxy. Of any other client, what it says of itself is ignored, and
    /// no registry gets such a field.
    pub(super) fn accept_forwarded(&self, session: &mut Session) {
        if !self.listener.trusts(session.client()) {
            return;
        }
        let headers = &session.req_header().headers;
        let id = RequestId::received(headers);
        let forwarded = Forwarded::of(headers, |ip| self.listener.trusts(Some(ip)));
        let Forwarded { client, scheme, .. } = forwarded;
        let host = forwarded.host.map(HeaderValue::from_str);
        if let Some(id) = id {
            session.request_id = id;
        }
        if let Some(client) = client {
            session.set_client(client);
        }
        if let Some(Ok(host)) = host {
            session.set_host(host);
        }
        session.forwarded_scheme = scheme;
    }
}
