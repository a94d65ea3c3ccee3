//! `GET /.well-known/acme-challenge/<token>`: an ACME authority verifies that a host is this gateway (RFC 8555 §8.3).

use http::{Method, StatusCode, header};

use super::cache_control::CacheControl;
use super::error_response::ErrorResponse;
use super::request_options::RequestOptions;
use super::session::Session;
use super::{Failure, Gateway, respond, send};
use oci::cache_status::CacheStatus;

/// What the token stands behind.
const PATH: &str = "/.well-known/acme-challenge/";

impl Gateway {
    /// The key authorization that a request asks for; `None` if it asks for none, or for an unknown one.
    fn key_authorization(&self, session: &Session) -> Option<String> {
        let request = session.req_header();
        let token = request.uri.path().strip_prefix(PATH)?;
        let is_read = [Method::GET, Method::HEAD].contains(&request.method);
        is_read
            .then(|| self.state.challenges.key_authorization(token))
            .flatten()
    }

    /// Answers the authority, and refuses any other request without a route.
    pub(super) async fn unrouted(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        refused: ErrorResponse,
    ) -> Result<(), Failure> {
        let Some(key_authorization) = self.key_authorization(session) else {
            return Err(refused.into());
        };
        let mut response = respond::response(StatusCode::OK, options, CacheStatus::own("acme"))?;
        response.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
        response.set_cache_control(CacheControl::NoStore)?;
        Ok(send::whole(session, response, key_authorization.into()).await?)
    }
}
