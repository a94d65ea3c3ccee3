//! Bodies of requests: passed on, read whole, or drained.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora_core::{Error, ErrorType, Result};

use super::session::Session;
use mirror::Feed;
use oci::headers::content_length;
use oci::manifest::MAX_MANIFEST;

/// How long a registry may take to answer once it has the body, or to take the next piece of it.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(900);
/// How much of a body is read that nobody wants, so that its sender hears the answer.
const DRAINED: usize = 1 << 20;
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// Hands the body on as it arrives. Ends well only where the client ended it.
pub async fn feed_body(session: &mut Session, feed: Feed, idle_timeout: Duration) -> Result<()> {
    while let Some(bytes) = read(session, idle_timeout).await? {
        match tokio::time::timeout(ANSWER_TIMEOUT, feed.send(bytes)).await {
            Ok(true) => {}
            // The registry has what it wants, or fails: its answer tells.
            Ok(false) => return Ok(()),
            Err(_) => {
                return Error::e_explain(ErrorType::WriteTimedout, "the registry takes no more");
            }
        }
    }
    feed.end().await;
    Ok(())
}

/// The next piece of the body, within the time that a client may be silent.
pub async fn read(session: &mut Session, idle_timeout: Duration) -> Result<Option<Bytes>> {
    let next = tokio::time::timeout(idle_timeout, session.read_body());
    match next.await {
        Ok(read) => read,
        Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the client sends nothing"),
    }
}

/// A manifest whole; `None` when it is too long.
pub async fn read_manifest(session: &mut Session, idle_timeout: Duration) -> Result<Option<Bytes>> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = read(session, idle_timeout).await? {
        if bytes.len() + piece.len() > MAX_MANIFEST {
            return Ok(None);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(Some(bytes.freeze()))
}

/// Reads a body that is announced to be short, whoever wants it: an answer before its end closes the
/// connection.
pub async fn read_short_body(session: &mut Session) {
    let headers = &session.req_header().headers;
    let short = content_length(headers).is_some_and(|length| length <= DRAINED as u64);
    if short && !expects_continue(headers) {
        drain(session).await;
    }
}

/// Tells a client that waits for it to send its body.
pub async fn send_continue(session: &mut Session) -> Result<()> {
    if expects_continue(&session.req_header().headers) && !session.is_http2() {
        session.write_continue().await?;
    }
    Ok(())
}

/// Reads some of a body that nobody wants: a client that is cut off while it sends does not hear the answer.
pub async fn drain(session: &mut Session) {
    let read = async {
        let mut drained = 0;
        while drained < DRAINED {
            match session.read_body().await {
                Ok(Some(bytes)) => drained += bytes.len(),
                _ => return true,
            }
        }
        false
    };
    if !tokio::time::timeout(DRAIN_WITHIN, read)
        .await
        .unwrap_or(false)
    {
        session.close_afterwards();
    }
}

fn expects_continue(headers: &HeaderMap) -> bool {
    let expect = headers.get(header::EXPECT);
    expect.is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
