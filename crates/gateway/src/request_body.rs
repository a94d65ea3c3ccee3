//! Bodies of requests: forwarded, read whole, or drained.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use pingora_core::{Error, ErrorType};

use super::Failure;
use super::session::Session;
use mirror::MirrorError;
use oci::headers::content_length;
use oci::manifest::MAX_MANIFEST;
use upstream::Feed;

/// How long a registry may take to answer once it has the body, or to accept the next chunk of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(900);
/// The limit of an unwanted body that is read, so that its sender receives the response.
const DRAINED: usize = 1 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Feeds the body to a request upstream, and waits for its answer, which may come before the body ends.
///
/// # Errors
/// [`Failure::Mirror`] from the request upstream or its timeout; [`Failure::Connection`] from the client.
pub async fn forward<T>(
    session: &mut Session,
    feed: Option<Feed>,
    idle_timeout: Duration,
    answer: impl Future<Output = Result<T, MirrorError>>,
) -> Result<T, Failure> {
    let mut answer = pin!(answer);
    if let Some(feed) = feed {
        tokio::select! {
            biased;
            answer = &mut answer => return Ok(answer?),
            sent = feed_body(session, feed, idle_timeout) => sent?,
        }
    }
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, answer).await;
    Ok(answer.map_err(|_| MirrorError::timed_out())??)
}

/// Forwards the body as it arrives, and ends it only where the client did.
async fn feed_body(
    session: &mut Session,
    feed: Feed,
    idle_timeout: Duration,
) -> pingora_core::Result<()> {
    while let Some(bytes) = read(session, idle_timeout).await? {
        match tokio::time::timeout(ANSWER_TIMEOUT, feed.send(bytes)).await {
            Ok(true) => {}
            // The registry needs no more, or failed: its answer says which.
            Ok(false) => return Ok(()),
            Err(_) => {
                return Error::e_explain(ErrorType::WriteTimedout, "the registry accepts no more");
            }
        }
    }
    feed.end().await;
    Ok(())
}

/// The next chunk of the body, within the idle timeout.
///
/// # Errors
/// [`ErrorType::ReadTimedout`] after that time; else as [`Session::read_body`].
pub async fn read(
    session: &mut Session,
    idle_timeout: Duration,
) -> pingora_core::Result<Option<Bytes>> {
    let next = tokio::time::timeout(idle_timeout, session.read_body());
    match next.await {
        Ok(read) => read,
        Err(_) => Error::e_explain(ErrorType::ReadTimedout, "the client sends nothing"),
    }
}

/// Reads a manifest; `None` if it is too large.
///
/// # Errors
/// As [`read`].
pub async fn read_manifest(
    session: &mut Session,
    idle_timeout: Duration,
) -> pingora_core::Result<Option<Bytes>> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = read(session, idle_timeout).await? {
        if bytes.len() + chunk.len() > MAX_MANIFEST {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.freeze()))
}

/// Reads a body whose Content-Length is short: a response before its end would close the connection.
pub async fn read_short_body(session: &mut Session) {
    let headers = &session.req_header().headers;
    let short = content_length(headers).is_some_and(|length| length <= DRAINED as u64);
    if short && !expects_continue(headers) {
        drain(session).await;
    }
}

/// Sends `100 Continue` to a client that waits for it (RFC 9110 §10.1.1).
///
/// # Errors
/// As [`Session::write_continue`].
pub async fn send_continue(session: &mut Session) -> pingora_core::Result<()> {
    if expects_continue(&session.req_header().headers) && !session.is_http2() {
        session.write_continue().await?;
    }
    Ok(())
}

/// Reads some of an unwanted body: a client whose connection is closed while it sends does not see the response.
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
    if !tokio::time::timeout(DRAIN_TIMEOUT, read)
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
