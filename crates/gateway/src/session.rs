//! One request and its response, in either version of HTTP: the part of pingora's session that the gateway uses.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;

use super::client_stream::ClientStream;
use super::response::Response;
use oci::cache_status::CacheStatus;

/// A request whose head was read.
pub struct Session {
    http: Box<ServerSession>,
    sent_head: Option<SentHead>,
}

/// The status and cache status of a response whose head was written.
#[derive(Clone, Copy, Debug)]
pub struct SentHead {
    pub status: StatusCode,
    pub cache: CacheStatus,
}

impl Session {
    /// Reads the head of a request; `None` if there is none to answer. Bytes that are not HTTP get an empty 400.
    pub async fn read(http: ServerSession) -> Option<Self> {
        let mut http = Box::new(http);
        match http.read_request().await {
            Ok(true) => Some(Self {
                http,
                sent_head: None,
            }),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!(%error, "cannot read a request");
                if *error.etype() == ErrorType::InvalidHTTPHeader {
                    // The client may have left already.
                    let _ = http.respond_error(400).await;
                }
                http.shutdown().await;
                None
            }
        }
    }

    pub fn req_header(&self) -> &RequestHeader {
        self.http.req_header()
    }

    pub fn is_http2(&self) -> bool {
        self.http.is_http2()
    }

    /// The address of the client; `None` for a Unix socket.
    pub fn client(&self) -> Option<IpAddr> {
        let address = self.http.client_addr()?.as_inet()?;
        Some(address.ip().to_canonical())
    }

    /// The address and port of the client, for the log.
    pub fn client_addr(&self) -> Option<String> {
        self.http.client_addr().map(ToString::to_string)
    }

    /// `None` until the head of the response is written.
    pub fn sent_head(&self) -> Option<SentHead> {
        self.sent_head
    }

    /// Bytes of the request's body that were read.
    pub fn bytes_received(&self) -> usize {
        self.http.body_bytes_read()
    }

    /// Bytes of the response's body that were written.
    pub fn bytes_sent(&self) -> usize {
        self.http.body_bytes_sent()
    }

    /// Sets how long a write of the response may make no progress.
    pub fn set_write_timeout(&mut self, timeout: Duration) {
        self.http.set_write_timeout(Some(timeout));
    }

    /// Closes an HTTP/1 connection after this response.
    pub fn close_afterwards(&mut self) {
        self.http.set_keepalive(None);
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&mut self) -> bool {
        self.http.is_body_empty()
    }

    /// The next chunk of the request's body; `None` at its end.
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        self.http.read_request_body().await
    }

    /// Sends `100 Continue`.
    pub async fn write_continue(&mut self) -> Result<()> {
        self.http.write_continue_response().await
    }

    /// Writes the head of the response.
    pub async fn write_head(&mut self, response: Response) -> Result<()> {
        let (header, cache) = response.into_parts();
        let status = header.status;
        self.http.write_response_header(header).await?;
        self.sent_head = Some(SentHead { status, cache });
        Ok(())
    }

    /// Writes a chunk of the response's body.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        self.http.write_response_body(piece, false).await
    }

    /// Writes the last chunk of the response's body, and ends it.
    pub async fn write_last(&mut self, piece: Bytes) -> Result<()> {
        self.http.write_response_body(piece, true).await
    }

    /// Ends the response's body.
    pub async fn end(&mut self) -> Result<()> {
        self.write_last(Bytes::new()).await
    }

    /// Sends what is buffered, so that a client receives it while the gateway waits for more. HTTP/2 does so itself.
    pub async fn flush(&self) -> Result<()> {
        let ServerSession::H1(http) = &*self.http else {
            return Ok(());
        };
        match ClientStream::downcast(http.stream()) {
            Some(stream) => stream
                .flush()
                .await
                .or_err(ErrorType::WriteError, "flushing the response"),
            None => Error::e_explain(ErrorType::InternalError, "not a ClientStream"),
        }
    }

    /// Aborts an incomplete response visibly: resets an HTTP/2 stream, whose drop alone could look like its end. An
    /// HTTP/1 connection ends when it is dropped, short of the length or of the last chunk.
    pub async fn break_off(&mut self) {
        if self.is_http2() {
            self.http.shutdown().await;
        }
    }

    /// Ends an answered request. Returns the connection if HTTP/1 can reuse it.
    pub async fn finish(self) -> Option<Stream> {
        let reusable = self.http.finish().await.ok()??;
        Some(reusable.into_parts().0)
    }
}
