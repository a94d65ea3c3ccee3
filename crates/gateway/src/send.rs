//! Sends responses: a head alone, a body in memory, a body as it is read or relayed, whole or in parts.

use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, StatusCode, Version, header};
use pingora_core::{Error, ErrorType, Result};

use super::cache_control::CacheControl;
use super::response::Response;
use super::session::Session;
use mirror::Reader;
use oci::byteranges::Byteranges;
use oci::cache_status::CacheStatus;
use oci::digest::{Digest, Hasher};
use oci::error::{ErrorCode, body};
use upstream::{Passed, UpstreamError};

/// Sends a head alone, as for HEAD.
///
/// # Errors
/// The client is gone, or took nothing within the write timeout.
pub async fn head(session: &mut Session, mut response: Response, size: Option<u64>) -> Result<()> {
    if let Some(size) = size {
        response.insert_header(header::CONTENT_LENGTH, size)?;
    }
    session.write_head(response).await
}

/// Sends a body that is in memory; its head alone in answer to HEAD (RFC 9110 §9.3.2).
///
/// # Errors
/// As [`head`].
pub async fn whole(session: &mut Session, mut response: Response, bytes: Bytes) -> Result<()> {
    response.append_header(header::CONTENT_LENGTH, bytes.len() as u64)?;
    session.write_head(response).await?;
    if bytes.is_empty() || session.req_header().method == Method::HEAD {
        Ok(())
    } else {
        session.write_last(bytes).await
    }
}

/// Sends a body as it is read. An error leaves the body visibly incomplete: the caller must not end it.
///
/// # Errors
/// As [`head`], or the body broke off: what was sent stays short of its length or last chunk.
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
    write_body(session, &mut reader).await?;
    session.end().await
}

/// Sends `filler` at once and at intervals until there is a body, and then the body. As with [`stream`], an error
/// leaves it visibly incomplete.
///
/// # Errors
/// As [`head`], or the body broke off: what was sent stays short of its length or last chunk.
#[cfg(feature = "v1")]
pub async fn filled<E: std::error::Error>(
    session: &mut Session,
    mut response: Response,
    filler: Bytes,
    interval: Duration,
    body: impl Future<Output = std::result::Result<Reader, E>>,
) -> Result<()> {
    if !frame(session, &mut response, None).await? {
        return Ok(());
    }
    session.write_head(response).await?;
    let mut body = pin!(body);
    let reader = loop {
        session.write(filler.clone()).await?;
        session.flush().await?;
        if let Ok(reader) = tokio::time::timeout(interval, &mut body).await {
            break reader;
        }
    };
    match reader {
        Ok(mut reader) => write_body(session, &mut reader).await?,
        Err(error) => return incomplete(session, telemetry::chain(&error)).await,
    }
    session.end().await
}

/// Sends several parts of a body as multipart/byteranges. As with [`stream`], an error leaves it visibly incomplete.
///
/// # Errors
/// As [`head`], or the body broke off: what was sent stays short of its length or last chunk.
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
        write_body(session, &mut reader).await?;
    }
    session.write_last(frame.end().into()).await
}

/// Relays the body of a registry's answer. As with [`stream`], an error leaves it visibly incomplete.
///
/// # Errors
/// As [`head`], or the body broke off: what was sent stays short of its length or last chunk.
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
            Ok(Some(chunk)) => session.write(chunk).await?,
            Ok(None) => return session.end().await,
            Err(error) => return incomplete(session, telemetry::chain(&error)).await,
        }
    }
}

/// Relays a body that is delimited by the close of its connection: it is ended only if it has this digest.
///
/// # Errors
/// As [`stream`], or the bytes have another digest.
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
            Ok(Some(chunk)) => {
                hasher.update(&chunk);
                session.write(chunk).await?;
            }
            Ok(None) if hasher.finish() == digest => {
                return session.end().await;
            }
            Ok(None) => return incomplete(session, "the answer was cut off".into()).await,
            Err(error) => return incomplete(session, telemetry::chain(&error)).await,
        }
    }
}

/// Relays `length` bytes of the body of a registry's answer, after the first `skip`. As with [`stream`], an error
/// leaves it visibly incomplete.
///
/// # Errors
/// As [`head`], or the body broke off: what was sent stays short of its length or last chunk.
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
        let mut chunk = match next_passed(session, &mut passed).await? {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return incomplete(session, "the answer is too short".into()).await,
            Err(error) => return incomplete(session, telemetry::chain(&error)).await,
        };
        let most = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let skipped = chunk.split_to(chunk.len().min(most(skip)));
        skip -= skipped.len() as u64;
        chunk.truncate(most(left));
        left -= chunk.len() as u64;
        if !chunk.is_empty() {
            session.write(chunk).await?;
        }
    }
    session.end().await
}

/// The next chunk of a registry's answer.
async fn next_passed(
    session: &mut Session,
    passed: &mut Passed,
) -> Result<std::result::Result<Option<Bytes>, UpstreamError>> {
    flush_while_pending(session, passed.next()).await
}

/// Waits for a chunk, and flushes those written before if it is not ready at once.
async fn flush_while_pending<T>(session: &mut Session, next: impl Future<Output = T>) -> Result<T> {
    let mut next = pin!(next);
    match futures_util::poll!(&mut next) {
        Poll::Ready(next) => Ok(next),
        Poll::Pending => {
            session.flush().await?;
            Ok(next.await)
        }
    }
}

/// Whether the client finds the end of a body only by its length or the close (HTTP/1.0; RFC 9112 §7.1).
pub fn needs_length(session: &Session) -> bool {
    session.req_header().version <= Version::HTTP_10
}

/// Sets the framing of the body. False if the client can be told neither length nor end: it was refused, since an
/// incomplete body would look whole.
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
            refused.set_json(CacheControl::NoStore)?;
            let message = "the length of this answer is not known: ask by HTTP/1.1";
            let error = body(ErrorCode::Unsupported, message);
            Box::pin(whole(session, refused, error.into())).await?;
            return Ok(false);
        }
        None => response.insert_header(header::TRANSFER_ENCODING, "chunked")?,
    }
    Ok(true)
}

/// Fails an incomplete body. Its bytes so far still reach the client, which may resume from there.
async fn incomplete(session: &mut Session, error: String) -> Result<()> {
    tracing::warn!(error, "a body was broken off");
    let _ = session.flush().await;
    Error::e_explain(ErrorType::InternalError, "the body ended early")
}

/// Writes the chunks of a reader, without ending the body.
async fn write_body(session: &mut Session, reader: &mut Reader) -> Result<()> {
    loop {
        session.set_quick(reader.is_quick());
        // Without TLS the kernel sends from the page cache, and copies nothing (decision 52).
        if session.sends_files()
            && let Some(part) = reader.cached_part()
        {
            let sending = session.send_file(&part.file, part.offset, part.bytes);
            let (sent, waited) = timed(sending).await;
            match sent? {
                0 => return incomplete(session, "the file is too short".to_owned()).await,
                sent => reader.sent(sent, waited),
            }
            continue;
        }
        let chunk = match flush_while_pending(session, reader.next()).await? {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Ok(()),
            Err(error) => return incomplete(session, telemetry::chain(&error)).await,
        };
        let (written, waited) = timed(session.write(chunk.clone())).await;
        written?;
        reader.written(chunk, waited);
    }
}

/// The result of a write, and how long it waited for its receiver.
async fn timed<T>(write: impl Future<Output = T>) -> (T, Duration) {
    let mut write = pin!(write);
    match futures_util::poll!(&mut write) {
        Poll::Ready(written) => (written, Duration::ZERO),
        Poll::Pending => {
            let since = Instant::now();
            (write.await, since.elapsed())
        }
    }
}
