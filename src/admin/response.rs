//! Responses of the admin listeners.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::Body;

pub(super) fn text(status: StatusCode, words: impl Into<Bytes>) -> Response<Body> {
    whole(status, "text/plain; charset=utf-8", words.into())
}

/// The media type of JSON.
pub(super) const JSON: &str = "application/json";
/// The media type of JSON documents, one in a line.
pub(super) const JSON_LINES: &str = "application/x-ndjson";
/// The media type of server-sent events.
pub(super) const EVENT_STREAM: &str = "text/event-stream";

pub(super) fn ok(value: &impl serde::Serialize) -> Response<Body> {
    json(StatusCode::OK, value)
}

pub(super) fn no_content() -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => whole(status, JSON, bytes.into()),
        Err(error) => {
            tracing::error!(%error, "a response cannot be serialised");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the answer cannot be written\n",
            )
        }
    }
}

/// A body that is sent as its pieces come.
pub(super) fn streamed(kind: &'static str, pieces: mpsc::Receiver<Bytes>) -> Response<Body> {
    let frames = futures_util::stream::unfold(pieces, |mut pieces| async {
        let piece: Bytes = pieces.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), pieces))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

pub(super) fn whole(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes).boxed_unsync());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
