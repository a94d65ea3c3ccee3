//! The response to an HTTP/1.1 request without a body, written without pingora.

use std::fs::File;

use http::{Method, header};
use pingora_core::protocols::http::date::get_cached_date;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;
use tokio::io::AsyncWriteExt as _;

use super::client_stream::ClientStream;
use super::direct_request::DirectRequest;
use super::request_id::{self, RequestId};
use super::response::Response;

/// Bytes that are collected before they are written, so that a head and short pieces share a TLS record.
const COLLECTED: usize = 16 << 10;
/// Room for a head.
const HEAD: usize = 1024;

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

impl DirectSession {
    /// The session of a request that came on `stream`.
    pub fn new(request: DirectRequest, stream: ClientStream) -> Self {
        Self {
            request,
            stream,
            collected: Vec::new(),
            framing: Framing::Head,
            sent: 0,
        }
    }

    pub fn header(&self) -> &RequestHeader {
        &self.request.header
    }

    pub fn header_mut(&mut self) -> &mut RequestHeader {
        &mut self.request.header
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

    /// Sets whether the client takes the body quickly.
    pub fn set_quick(&mut self, quick: bool) {
        self.stream.set_quick(quick);
    }

    /// Writes the head of the response.
    ///
    /// # Errors
    /// [`ErrorType::WriteError`]: the connection failed.
    pub async fn write_head(&mut self, response: &Response, id: &RequestId) -> Result<()> {
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
        head.extend_from_slice(request_id::SPELLED.as_bytes());
        head.extend_from_slice(b": ");
        id.write(head);
        head.extend_from_slice(b"\r\n");
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
        if self.collected.len() + piece.len() >= COLLECTED {
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
    if !response.has_body(method) {
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
    use http::StatusCode;
    use oci::cache_status::CacheStatus;

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
