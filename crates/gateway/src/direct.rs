//! HTTP/1.1 requests without a body, parsed and answered without pingora's session.
//!
//! Nearly all requests of a registry are such: a GET or HEAD with a few fields, then nothing until its response. What
//! is the least unusual (a body, an expectation, an upgrade, a second `Host`, bytes after the head) is pingora's.

use std::fs::File;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use httparse::Status;
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;
use tokio::io::AsyncWriteExt as _;

use super::client_stream::ClientStream;
use super::response::Response;

/// Fields of a request; one with more is pingora's.
const FIELDS: usize = 64;
/// Bytes that are collected before they are written, so that a head and short pieces share a TLS record.
const COLLECTED: usize = 16 << 10;
/// Room for a head.
const HEAD: usize = 1024;

/// The head of a request that has no body.
#[derive(Debug)]
pub struct DirectRequest {
    pub header: RequestHeader,
    keep_alive: bool,
}

/// A request without a body, and its connection.
pub struct DirectSession {
    request: DirectRequest,
    stream: ClientStream,
    collected: Vec<u8>,
    framing: Framing,
    sent: usize,
}

/// How the end of a response's body is told (RFC 9112 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// The head is not written yet.
    Head,
    /// So many bytes are missing.
    Length(u64),
    Chunked,
    /// By the end of the connection.
    Close,
    /// The response is complete.
    Done,
}

impl DirectRequest {
    /// Parses a head; `None` if pingora has to.
    pub fn parse(head: &Bytes) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(Status::Complete(length)) = request.parse(head) else {
            return None;
        };
        let path = request.path?;
        if length != head.len()
            || request.version != Some(1)
            || !path.starts_with('/')
            || !path.is_ascii()
        {
            return None;
        }
        let method = match request.method? {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            _ => return None,
        };
        let target = PathAndQuery::from_maybe_shared(head.slice_ref(path.as_bytes())).ok()?;
        let mut fields = HeaderMap::with_capacity(request.headers.len());
        let mut keep_alive = true;
        let mut hosts = 0;
        for field in request.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            match name {
                header::CONTENT_LENGTH
                | header::TRANSFER_ENCODING
                | header::EXPECT
                | header::UPGRADE => return None,
                header::HOST => hosts += 1,
                header::CONNECTION if field.value.eq_ignore_ascii_case(b"close") => {
                    keep_alive = false;
                }
                header::CONNECTION if !field.value.eq_ignore_ascii_case(b"keep-alive") => {
                    return None;
                }
                _ => {}
            }
            let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
            fields.append(name, value);
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = method;
        parts.uri = Uri::from(target);
        parts.headers = fields;
        (hosts == 1).then(|| Self {
            header: parts.into(),
            keep_alive,
        })
    }

    /// The session of this request, which came on `stream`.
    pub fn on(self, stream: ClientStream) -> DirectSession {
        DirectSession {
            request: self,
            stream,
            collected: Vec::new(),
            framing: Framing::Head,
            sent: 0,
        }
    }
}

impl DirectSession {
    pub fn header(&self) -> &RequestHeader {
        &self.request.header
    }

    pub fn stream(&self) -> &ClientStream {
        &self.stream
    }

    /// Bytes of the response's body that were written.
    pub fn bytes_sent(&self) -> usize {
        self.sent
    }

    /// Closes the connection after this response.
    pub fn close_afterwards(&mut self) {
        self.request.keep_alive = false;
    }

    /// Writes the head of the response.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the connection failed.
    pub async fn write_head(&mut self, response: &Response) -> Result<()> {
        self.framing = framing(&self.request.header.method, response);
        if self.framing == Framing::Close {
            self.request.keep_alive = false;
        }
        let head = &mut self.collected;
        head.reserve(HEAD);
        head.extend_from_slice(b"HTTP/1.1 ");
        head.extend_from_slice(response.status().as_str().as_bytes());
        head.push(b' ');
        let reason = response.status().canonical_reason();
        head.extend_from_slice(reason.unwrap_or_default().as_bytes());
        head.extend_from_slice(b"\r\n");
        response.write_fields(head);
        head.extend_from_slice(b"Date: ");
        head.extend_from_slice(get_cached_date().as_bytes());
        head.extend_from_slice(if self.request.keep_alive {
            b"\r\nConnection: keep-alive\r\n\r\n"
        } else {
            b"\r\nConnection: close\r\n\r\n"
        });
        match self.framing {
            Framing::Done => self.flush().await,
            _ => Ok(()),
        }
    }

    /// Writes a chunk of the response's body; of a response without one, nothing.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the connection failed. [`ErrorType::InternalError`]: it is longer than announced.
    pub async fn write(&mut self, piece: &[u8]) -> Result<()> {
        if piece.is_empty() || self.framing == Framing::Done {
            return Ok(());
        }
        let mut is_last = false;
        match &mut self.framing {
            Framing::Length(missing) => match missing.checked_sub(piece.len() as u64) {
                Some(after) => {
                    *missing = after;
                    is_last = after == 0;
                }
                None => return Error::e_explain(ErrorType::InternalError, "a body is too long"),
            },
            Framing::Chunked => {
                let line = format!("{:x}\r\n", piece.len());
                self.collected.extend_from_slice(line.as_bytes());
            }
            Framing::Head | Framing::Close | Framing::Done => {}
        }
        self.sent += piece.len();
        if is_last {
            self.send(piece).await?;
        } else {
            self.put(piece).await?;
        }
        if self.framing == Framing::Chunked {
            self.put(b"\r\n").await?;
        }
        Ok(())
    }

    /// Whether the kernel can send files as the response's body: without TLS, if its length is known.
    pub fn sends_files(&self) -> bool {
        self.stream.is_plain() && matches!(self.framing, Framing::Length(_))
    }

    /// Lets the kernel send part of a file as the next bytes of the response's body. Returns how many; 0 behind the
    /// file's end.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the connection failed, or is not as [`Self::sends_files`] says.
    pub async fn send_file(&mut self, file: &File, offset: u64, bytes: u64) -> Result<u64> {
        self.send(b"").await?;
        let sent = self.stream.send_file(file, offset, bytes).await;
        let sent = sent.or_err(ErrorType::WriteError, "writing the response")?;
        if let Framing::Length(missing) = &mut self.framing {
            *missing = missing.saturating_sub(sent);
        }
        self.sent += usize::try_from(sent).unwrap_or(usize::MAX);
        Ok(sent)
    }

    /// Ends the response's body.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the connection failed, or the body is shorter than announced.
    pub async fn end(&mut self) -> Result<()> {
        match self.framing {
            Framing::Length(0) | Framing::Close | Framing::Done => {}
            Framing::Chunked => self.put(b"0\r\n\r\n").await?,
            Framing::Head | Framing::Length(_) => {
                return Error::e_explain(ErrorType::WriteError, "a body is too short");
            }
        }
        self.framing = Framing::Done;
        self.flush().await
    }

    /// Sends what is collected here and by TLS.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the connection failed.
    pub async fn flush(&mut self) -> Result<()> {
        self.send(b"").await?;
        let flushed = self.stream.flush().await;
        flushed.or_err(ErrorType::WriteError, "writing the response")
    }

    /// Ends an answered request. Returns the connection if another request may follow.
    pub async fn finish(mut self) -> Option<ClientStream> {
        let complete = matches!(self.framing, Framing::Done | Framing::Length(0));
        if !complete && self.framing != Framing::Close {
            return None;
        }
        self.flush().await.ok()?;
        if self.request.keep_alive {
            return Some(self.stream);
        }
        // The client may have left.
        let _ = self.stream.shutdown().await;
        None
    }

    /// Collects a short piece, and sends a long one.
    async fn put(&mut self, piece: &[u8]) -> Result<()> {
        if self.collected.len() + piece.len() > COLLECTED {
            return self.send(piece).await;
        }
        self.collected.extend_from_slice(piece);
        Ok(())
    }

    /// Sends what is collected and then `piece`, in one call: they share a TLS record.
    async fn send(&mut self, piece: &[u8]) -> Result<()> {
        let sent = self.stream.send(&self.collected, piece).await;
        sent.or_err(ErrorType::WriteError, "writing the response")?;
        self.collected.clear();
        Ok(())
    }
}

fn framing(method: &Method, response: &Response) -> Framing {
    let bodyless = matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if bodyless || method == Method::HEAD {
        return Framing::Done;
    }
    if let Some(length) = response.content_length() {
        return Framing::Length(length);
    }
    if response.contains(&header::TRANSFER_ENCODING) {
        return Framing::Chunked;
    }
    Framing::Close
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::cache_status::CacheStatus;

    fn parse(head: &str) -> Option<DirectRequest> {
        DirectRequest::parse(&Bytes::copy_from_slice(head.as_bytes()))
    }

    #[test]
    fn only_plain_requests_without_a_body_are_parsed() {
        let host = "Host: a\r\n";
        for (line, fields, parsed) in [
            ("GET / HTTP/1.1", "", true),
            ("HEAD /v2/ HTTP/1.1", "", true),
            (
                "GET /v2/a?ns=x&n=1 HTTP/1.1",
                "Accept: */*\r\naccept: b\r\n",
                true,
            ),
            ("GET / HTTP/1.1", "Connection: Keep-Alive\r\n", true),
            ("GET / HTTP/1.1", "Connection: close\r\n", true),
            ("GET / HTTP/1.1", "Connection: upgrade\r\n", false),
            ("GET / HTTP/1.1", "Connection: close, te\r\n", false),
            ("GET / HTTP/1.1", "Upgrade: h2c\r\n", false),
            ("GET / HTTP/1.1", "Content-Length: 0\r\n", false),
            ("GET / HTTP/1.1", "Transfer-Encoding: chunked\r\n", false),
            ("GET / HTTP/1.1", "Expect: 100-continue\r\n", false),
            ("GET / HTTP/1.1", "Host: b\r\n", false),
            ("GET / HTTP/1.1", "Bad Name: b\r\n", false),
            ("GET / HTTP/1.1", "Folded: a\r\n b\r\n", false),
            ("GET / HTTP/1.0", "", false),
            ("POST / HTTP/1.1", "", false),
            ("OPTIONS * HTTP/1.1", "", false),
            ("GET http://a/ HTTP/1.1", "", false),
            ("GET /ü HTTP/1.1", "", false),
            ("GET  / HTTP/1.1", "", false),
            ("CONNECT a:1 HTTP/1.1", "", false),
        ] {
            let head = format!("{line}\r\n{host}{fields}\r\n");
            assert_eq!(parse(&head).is_some(), parsed, "{head}");
            // What follows the head may be a body or the next request.
            assert!(parse(&format!("{head}x")).is_none(), "{head}");
        }
        assert!(parse("GET / HTTP/1.1\r\n\r\n").is_none());
        let many = "A: b\r\n".repeat(FIELDS);
        assert!(parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")).is_none());
    }

    #[test]
    fn fields_are_as_they_were_sent() {
        let head = "GET /v2/a/b?x=%20 HTTP/1.1\r\nhost: a:5000\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n";
        let request = parse(head).expect("a plain request");
        let header = &request.header;
        assert_eq!(header.method, Method::GET);
        assert_eq!(header.uri.path(), "/v2/a/b");
        assert_eq!(header.uri.query(), Some("x=%20"));
        assert_eq!(header.version, http::Version::HTTP_11);
        assert_eq!(header.headers["host"], "a:5000");
        let values: Vec<_> = header.headers.get_all("x-two").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(request.keep_alive);
    }

    #[test]
    fn framing_follows_the_head() {
        for (method, status, field, expected) in [
            (
                Method::GET,
                200,
                Some(("content-length", "3")),
                Framing::Length(3),
            ),
            (
                Method::GET,
                200,
                Some(("transfer-encoding", "chunked")),
                Framing::Chunked,
            ),
            (Method::GET, 200, None, Framing::Close),
            (Method::GET, 304, None, Framing::Done),
            (Method::GET, 204, None, Framing::Done),
            (
                Method::HEAD,
                200,
                Some(("content-length", "3")),
                Framing::Done,
            ),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let mut response = Response::new(status, CacheStatus::HIT).expect("a head");
            if let Some((name, value)) = field {
                response.insert_header(name, value).expect("a field");
            }
            assert_eq!(framing(&method, &response), expected, "{method} {status}");
        }
    }
}
