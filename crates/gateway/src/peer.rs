//! `GET /_peer/blobs/<digest>`: the other gateways of the bucket read a blob that this one fetches.
//!
//! Without a valid ticket, or for any other blob, the response is that of an unknown path, on all listeners, whether
//! `store.bucket.advertise` is set or not.

use std::borrow::Cow;

use http::{Method, StatusCode, header};

use super::context::{RequestContext, Requester};
use super::request_options::BodySelection;
use super::response::Response;
use super::route::{Route, unknown_path};
use super::session::Session;
use super::{Failure, Gateway, send};
use mirror::{BlobAnswer, PeerQuery};
use oci::digest::Digest;
use telemetry::metrics;

/// The first component of the path.
pub const PATH: &str = "_peer";

/// The route of a path below it.
pub fn route(method: &Method, segments: &[Cow<'_, str>]) -> Option<Route> {
    let [kind, digest] = segments else {
        return None;
    };
    let digest = digest.parse().ok()?;
    (method == Method::GET && kind == "blobs").then_some(Route::Peer(digest))
}

impl Gateway {
    /// Answers another gateway.
    pub(super) async fn peer(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
        digest: &Digest,
    ) -> Result<(), Failure> {
        let authorization = session.req_header().headers.get(header::AUTHORIZATION);
        let authorization = authorization.and_then(|value| value.to_str().ok());
        let query = PeerQuery {
            digest: *digest,
            range: context.options.range.as_deref(),
            authorization: authorization.unwrap_or_default(),
        };
        let answer = self.state.mirror.answer_peer(&query).await;
        let answer = answer.ok_or_else(unknown_path)?;
        context.requester = Requester::Peer;
        let sent = respond(session, context, digest, answer).await;
        let bytes = session.bytes_sent();
        metrics::peer_sent(bytes);
        tracing::debug!(target: "fill", %digest, bytes, "sent to another gateway");
        sent
    }
}

async fn respond(
    session: &mut Session,
    context: &RequestContext,
    digest: &Digest,
    answer: BlobAnswer,
) -> Result<(), Failure> {
    let (status, span, content_range) = match context.options.select(answer.size, digest) {
        Ok(BodySelection::Whole { .. }) => (StatusCode::OK, None, None),
        Ok(BodySelection::Part { span, size }) => {
            let range = span.content_range(size);
            (StatusCode::PARTIAL_CONTENT, Some(span), Some(range))
        }
        Ok(BodySelection::Parts(_)) | Err(_) => return Err(unknown_path().into()),
    };
    let length = span.map(|span| span.len()).or(answer.size);
    let mut response = Response::new(status, answer.cache)?;
    response.append_header(header::CONTENT_TYPE, "application/octet-stream")?;
    if let Some(range) = content_range {
        response.append_header(header::CONTENT_RANGE, range)?;
    }
    let reader = answer.open(span).await?;
    Ok(send::stream(session, response, length, reader).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::Algorithm;

    #[test]
    fn only_gets_of_digests_are_routed() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        let text = digest.to_string();
        let get = &Method::GET;
        for (method, segments, routed) in [
            (get, vec!["blobs", &text], true),
            (&Method::HEAD, vec!["blobs", &text], false),
            (&Method::POST, vec!["blobs", &text], false),
            (get, vec!["manifests", &text], false),
            (get, vec!["blobs", "sha256:0"], false),
            (get, vec!["blobs", &text, ""], false),
            (get, vec![], false),
        ] {
            let parts: Vec<_> = segments.iter().map(|&part| Cow::Borrowed(part)).collect();
            let found = route(method, &parts);
            assert_eq!(found, routed.then_some(Route::Peer(digest)), "{segments:?}");
        }
    }
}
