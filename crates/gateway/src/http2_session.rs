//! A request on a stream of an HTTP/2 connection, and its response (RFC 9113 §8.1).

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderValue, Method, StatusCode, header};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;
use tokio::time::timeout;

use super::request_id::{RequestId, X_REQUEST_ID};
use super::response::Response;
use access::CertificateUser;
use oci::error::{ErrorCode, body};

/// The longest DATA frame, in bytes: with its head of 9 it fills a TLS record. One that is longer would begin another
/// record with its last bytes.
const FRAME: usize = (16 << 10) - 9;

/// A request whose head was read, and its stream.
pub struct Http2Session {
    header: RequestHeader,
    request: RecvStream,
    respond: SendResponse<Bytes>,
    certificate: Option<CertificateUser>,
    response: Option<SendStream<Bytes>>,
    /// Whether the end of the response was written.
    ended: bool,
    received: usize,
    sent: usize,
    write_timeout: Duration,
}

impl Http2Session {
    /// `certificate` is the user of the connection's client certificate.
    pub fn new(
        header: RequestHeader,
        request: RecvStream,
        respond: SendResponse<Bytes>,
        certificate: Option<CertificateUser>,
    ) -> Self {
        Self {
            header,
            request,
            respond,
            certificate,
            response: None,
            ended: false,
            received: 0,
            sent: 0,
            write_timeout: Duration::MAX,
        }
    }

    pub fn header(&self) -> &RequestHeader {
        &self.header
    }

    /// The user of the client's certificate; `None` without one that names a user.
    pub fn certificate(&self) -> Option<&CertificateUser> {
        self.certificate.as_ref()
    }

    pub fn header_mut(&mut self) -> &mut RequestHeader {
        &mut self.header
    }

    /// Bytes of the request's body that were read.
    pub fn bytes_received(&self) -> usize {
        self.received
    }

    /// Bytes of the response's body that were written.
    pub fn bytes_sent(&self) -> usize {
        self.sent
    }

    /// Sets how long a write may wait for the client's window.
    pub fn set_write_timeout(&mut self, timeout: Duration) {
        self.write_timeout = timeout;
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&self) -> bool {
        let length = self.header.headers.get(header::CONTENT_LENGTH);
        self.received == 0
            && (self.request.is_end_stream() || length.is_some_and(|length| length == "0"))
    }

    /// The next chunk of the request's body; `None` at its end.
    ///
    /// # Errors
    /// [`ErrorType::ReadError`]: the client reset the stream, or is gone.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let chunk = self.request.data().await.transpose();
        let chunk = chunk.or_err(ErrorType::ReadError, "reading a request's body")?;
        if let Some(chunk) = &chunk {
            self.received += chunk.len();
            // Only a stream that has ended refuses.
            let _ = self.request.flow_control().release_capacity(chunk.len());
        }
        Ok(chunk)
    }

    /// Writes the head of the response, and its end if it has no body.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the client reset the stream, or is gone.
    pub fn write_head(&mut self, response: Response, id: &RequestId) -> Result<()> {
        let ended = !response.has_body(&self.header.method) || response.content_length() == Some(0);
        let mut head = response.into_http2()?;
        head.headers_mut().insert(header::DATE, get_cached_date());
        head.headers_mut().insert(X_REQUEST_ID, id.header_value());
        let stream = self.respond.send_response(head, ended);
        self.response = Some(stream.or_err(ErrorType::WriteError, "writing a response")?);
        self.ended = ended;
        Ok(())
    }

    /// Writes a chunk of the response's body, as the client's window allows. Of a response without one, nothing.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the client reset the stream, or is gone. [`ErrorType::WriteTimedout`]: its window
    /// stayed closed for the write timeout.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.send(piece, After::More).await
    }

    /// As [`Self::write`], and ends the body.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn write_last(&mut self, piece: Bytes) -> Result<()> {
        self.send(piece, After::End).await
    }

    async fn send(&mut self, mut piece: Bytes, after: After) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        let Some(stream) = &mut self.response else {
            return Error::e_explain(ErrorType::InternalError, "a body before its head");
        };
        while !piece.is_empty() {
            let granted = capacity(stream, piece.len(), self.write_timeout).await?;
            let part = piece.split_to(granted.min(piece.len()).min(FRAME));
            self.sent += part.len();
            self.ended = after == After::End && piece.is_empty();
            let sent = stream.send_data(part, self.ended);
            sent.or_err(ErrorType::WriteError, "writing a response")?;
        }
        if after == After::End && !self.ended {
            self.ended = true;
            let sent = stream.send_data(Bytes::new(), true);
            sent.or_err(ErrorType::WriteError, "writing a response")?;
        }
        Ok(())
    }

    /// Resets the stream if the response is incomplete.
    pub fn break_off(&mut self) {
        if !self.ended {
            self.respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }

    /// Ends an answered request. Without a head, the stream is reset.
    pub async fn finish(mut self) {
        if self.response.is_some() {
            // The client may have left.
            let _ = self.write_last(Bytes::new()).await;
        }
    }
}

/// What follows a piece of a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    More,
    End,
}

/// Waits until some of so many bytes may be sent. Returns how many.
async fn capacity(
    stream: &mut SendStream<Bytes>,
    bytes: usize,
    write_timeout: Duration,
) -> Result<usize> {
    stream.reserve_capacity(bytes);
    let granted = stream.capacity();
    if granted > 0 {
        return Ok(granted);
    }
    let mut granted = pin!(poll_fn(|cx| loop {
        match stream.poll_capacity(cx) {
            Poll::Ready(Some(Ok(0))) => {}
            granted => return granted,
        }
    }));
    let granted = match futures_util::poll!(&mut granted) {
        Poll::Ready(granted) => granted,
        Poll::Pending => timeout(write_timeout, granted)
            .await
            .or_err(ErrorType::WriteTimedout, "the window stays closed")?,
    };
    match granted {
        Some(granted) => granted.or_err(ErrorType::WriteError, "writing a response"),
        None => Error::e_explain(ErrorType::WriteError, "the stream is closed"),
    }
}

/// What is wrong with a head, beyond what the framing checks (RFC 9113 §8.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidHead {
    /// The path has no origin form, or lengths disagree.
    Malformed,
    /// There is no host, or more than one.
    Host,
}

impl InvalidHead {
    /// Refuses the request: an invalid host with a 400, as by HTTP/1 (RFC 9112 §3.2), the rest with a reset.
    pub fn refuse(self, mut respond: SendResponse<Bytes>) {
        if self == Self::Malformed {
            return respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        let mut head = http::Response::new(());
        *head.status_mut() = StatusCode::BAD_REQUEST;
        let json = HeaderValue::from_static("application/json");
        head.headers_mut().insert(header::CONTENT_TYPE, json);
        // The client may have left.
        if let Ok(mut stream) = respond.send_response(head, false) {
            let message = "the request needs one host";
            let _ = stream.send_data(body(ErrorCode::Unsupported, message).into(), true);
        }
    }
}

/// Checks the head of a request.
///
/// # Errors
/// What is wrong with it.
pub fn check(request: &RequestHeader) -> std::result::Result<(), InvalidHead> {
    let path = request.uri.path_and_query();
    let path = path.map_or("", |path| path.as_str());
    let has_path = path.starts_with('/') || path == "*" || request.method == Method::CONNECT;
    let mut lengths = request.headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if !has_path
        || !path.bytes().all(|byte| byte.is_ascii_graphic())
        || lengths.any(|other| Some(other) != length)
    {
        return Err(InvalidHead::Malformed);
    }
    let mut hosts = request.headers.get_all(header::HOST).iter();
    let (host, further) = (hosts.next(), hosts.next());
    let authority = request.uri.authority().map(http::uri::Authority::as_str);
    let one = match (host, authority) {
        (Some(host), Some(authority)) => host == authority,
        (host, authority) => host.is_some() || authority.is_some(),
    };
    let user = |host: &[u8]| host.contains(&b'@');
    if further.is_some()
        || !one
        || authority.is_some_and(|authority| user(authority.as_bytes()))
        || host.is_some_and(|host| user(host.as_bytes()))
    {
        return Err(InvalidHead::Host);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_with_two_meanings_are_invalid() {
        let (malformed, host) = (Err(InvalidHead::Malformed), Err(InvalidHead::Host));
        for (uri, fields, checked) in [
            ("https://a:5000/v2/?x=1", &[][..], Ok(())),
            ("https://a:5000/v2/", &[("host", "a:5000")], Ok(())),
            ("https://a:5000/v2/", &[("host", "b")], host),
            ("/v2/", &[("host", "a")], Ok(())),
            ("/v2/", &[("host", "a"), ("host", "a")], host),
            ("/v2/", &[("host", "u@a")], host),
            ("https://u@a/v2/", &[], host),
            ("/v2/", &[], host),
            ("https://a/v2/", &[("content-length", "1")], Ok(())),
            (
                "https://a/v2/",
                &[("content-length", "1"), ("content-length", "1")],
                Ok(()),
            ),
            (
                "https://a/v2/",
                &[("content-length", "1"), ("content-length", "2")],
                malformed,
            ),
        ] {
            let mut request = http::Request::builder().uri(uri);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let (parts, ()) = request.body(()).expect("a request").into_parts();
            assert_eq!(check(&parts.into()), checked, "{uri} {fields:?}");
        }
    }
}
