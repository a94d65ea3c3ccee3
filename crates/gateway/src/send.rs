//! Sends answers: headers alone, a body that is in memory, a body as it is read, whole or in parts.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{StatusCode, Version, header};
use pingora_core::{Error, ErrorType, Result};

use super::response::Response;
use super::session::Session;
use mirror::{Passed, PassedError, Reader};
use oci::byteranges::Byteranges;
use oci::cache_status::CacheStatus;
use oci::digest::{Digest, Hasher};
use oci::error::{ErrorCode, body};

/// Sends headers alone, as HEAD wants them.
pub async fn head(session: &mut Session, mut response: Response, size: Option<u64>) -> Result<()> {
    if let Some(size) = size {
        response.insert_header(header::CONTENT_LENGTH, size)?;
    }
    session.write_head(response).await
}

/// Sends a body that is in memory; `no_body` leaves it out, as HEAD wants it.
pub async fn whole(
    session: &mut Session,
    mut response: Response,
    no_body: bool,
    bytes: Bytes,
) -> Result<()> {
    response.insert_header(header::CONTENT_LENGTH, bytes.len())?;
    let end = no_body || bytes.is_empty();
    session.write_head(response).await?;
    if end {
        Ok(())
    } else {
        session.write_last(bytes).await
    }
}

/// Sends a body as it is read. An error leaves the body visibly incomplete: the caller must not end it.
pub async fn stream(
    session: &mut Session,
    mut response: Response,
    length: Option<u64>,
    mut reader: Reader,
) -> Result<()> {
    if !frame(session, &mut response, length).await? {
        return Ok(());
    }
    session.write_head(response).await?;
    if length == Some(0) {
        return Ok(());
    }
    pass_on(session, &mut reader).await?;
    session.end().await
}

/// Sends `filler` until there is a body, every so often and at once, and then the body. As with [`stream`],
/// an error leaves it visibly incomplete.
#[cfg(feature = "v1")]
pub async fn filled<E: std::error::Error>(
    session: &mut Session,
    mut response: Response,
    filler: Bytes,
    every: Duration,
    made: impl Future<Output = std::result::Result<Reader, E>>,
) -> Result<()> {
    if !frame(session, &mut response, None).await? {
        return Ok(());
    }
    session.write_head(response).await?;
    let mut made = pin!(made);
    let reader = loop {
        session.write(filler.clone()).await?;
        session.flush().await?;
        if let Ok(reader) = tokio::time::timeout(every, &mut made).await {
            break reader;
        }
    };
    match reader {
        Ok(mut reader) => pass_on(session, &mut reader).await?,
        Err(error) => return broken_off(session, telemetry::chain(&error)).await,
    }
    session.end().await
}

/// Sends several parts of a body, one after the other, in their frame. As with [`stream`], an error leaves
/// it visibly incomplete.
pub async fn parts(
    session: &mut Session,
    mut response: Response,
    frame: &Byteranges,
    mut reader: Reader,
) -> Result<()> {
    response.insert_header(header::CONTENT_LENGTH, frame.length())?;
    session.write_head(response).await?;
    for (head, span) in frame.parts() {
        session.write(head.into()).await?;
        reader.seek(span);
        pass_on(session, &mut reader).await?;
    }
    session.write_last(frame.end().into()).await
}

/// Sends the body of an answer that passes through. As with [`stream`], an error leaves it visibly
/// incomplete.
pub async fn relay(
    session: &mut Session,
    mut response: Response,
    length: Option<u64>,
    mut passed: Passed,
) -> Result<()> {
    if !frame(session, &mut response, length).await? {
        return Ok(());
    }
    session.write_head(response).await?;
    loop {
        match next_passed(session, &mut passed).await? {
            Ok(Some(piece)) => session.write(piece).await?,
            Ok(None) => return session.end().await,
            Err(error) => return broken_off(session, telemetry::chain(&error)).await,
        }
    }
}

/// [`relay`] for a body that only the end of its connection ends: it ends here only if it has this digest.
pub async fn relay_verified(
    session: &mut Session,
    mut response: Response,
    digest: Digest,
    mut passed: Passed,
) -> Result<()> {
    if !frame(session, &mut response, None).await? {
        return Ok(());
    }
    session.write_head(response).await?;
    let mut hasher = Hasher::new(digest.algorithm());
    loop {
        match next_passed(session, &mut passed).await? {
            Ok(Some(piece)) => {
                hasher.update(&piece);
                session.write(piece).await?;
            }
            Ok(None) if hasher.finish() == digest => {
                return session.end().await;
            }
            Ok(None) => return broken_off(session, "the answer was cut off".into()).await,
            Err(error) => return broken_off(session, telemetry::chain(&error)).await,
        }
    }
}

/// Sends a part of the body of an answer that passes through: `length` bytes of it, after the first `skip`.
/// As with [`stream`], an error leaves it visibly incomplete.
#[cfg(feature = "v1")]
pub async fn relay_part(
    session: &mut Session,
    mut response: Response,
    mut skip: u64,
    length: u64,
    mut passed: Passed,
) -> Result<()> {
    response.insert_header(header::CONTENT_LENGTH, length)?;
    session.write_head(response).await?;
    let mut left = length;
    while left > 0 {
        let mut piece = match next_passed(session, &mut passed).await? {
            Ok(Some(piece)) => piece,
            Ok(None) => return broken_off(session, "the answer is too short".into()).await,
            Err(error) => return broken_off(session, telemetry::chain(&error)).await,
        };
        let most = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let skipped = piece.split_to(piece.len().min(most(skip)));
        skip -= skipped.len() as u64;
        piece.truncate(most(left));
        left -= piece.len() as u64;
        if !piece.is_empty() {
            session.write(piece).await?;
        }
    }
    session.end().await
}

/// The next piece, with what was sent before it on the wire while we wait.
async fn next_passed(
    session: &mut Session,
    passed: &mut Passed,
) -> Result<std::result::Result<Option<Bytes>, PassedError>> {
    let mut next = pin!(passed.next());
    match futures_util::poll!(&mut next) {
        Poll::Ready(next) => Ok(next),
        Poll::Pending => {
            session.flush().await?;
            Ok(next.await)
        }
    }
}

/// Whether a client knows no end of a body but its length and the end of the connection (RFC 9112 §7.1).
pub fn needs_length(session: &Session) -> bool {
    session.req_header().version <= Version::HTTP_10
}

/// Says how long the body is, or how its end is told. False where the client cannot be told: it was refused, since
/// a body that is broken off would look whole.
async fn frame(
    session: &mut Session,
    response: &mut Response,
    length: Option<u64>,
) -> Result<bool> {
    match length {
        Some(length) => response.insert_header(header::CONTENT_LENGTH, length)?,
        None if session.is_http2() => {}
        None if needs_length(session) => {
            let status = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
            let mut refused = Response::new(status, CacheStatus::own("refused"))?;
            refused.insert_header(header::CONTENT_TYPE, "application/json")?;
            refused.insert_header(header::CACHE_CONTROL, "no-store")?;
            let message = "the length of this answer is not known: ask by HTTP/1.1";
            let told = body(ErrorCode::Unsupported, message);
            Box::pin(whole(session, refused, false, told.into())).await?;
            return Ok(false);
        }
        None => response.insert_header(header::TRANSFER_ENCODING, "chunked")?,
    }
    Ok(true)
}

/// Ends a body before its end. What there was still reaches the client: it may resume from there.
async fn broken_off(session: &mut Session, error: String) -> Result<()> {
    tracing::warn!(error, "a body was broken off");
    let _ = session.flush().await;
    Error::e_explain(ErrorType::InternalError, "the body ended early")
}

/// Sends what a reader has to give, and does not end the body.
async fn pass_on(session: &mut Session, reader: &mut Reader) -> Result<()> {
    loop {
        let next = {
            let mut next = pin!(reader.next());
            match futures_util::poll!(&mut next) {
                Poll::Ready(next) => next,
                Poll::Pending => {
                    session.flush().await?;
                    next.await
                }
            }
        };
        let piece = match next {
            Ok(piece) => piece,
            Err(error) => return broken_off(session, telemetry::chain(&error)).await,
        };
        let Some(piece) = piece else { return Ok(()) };
        let waited = {
            let mut write = pin!(session.write(piece.clone()));
            match futures_util::poll!(&mut write) {
                Poll::Ready(written) => {
                    written?;
                    Duration::ZERO
                }
                Poll::Pending => {
                    let since = Instant::now();
                    write.await?;
                    since.elapsed()
                }
            }
        };
        reader.written(piece, waited);
    }
}
