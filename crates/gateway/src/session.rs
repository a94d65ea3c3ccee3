//! One request and its response, in either version of HTTP: pingora's session, or one without a body of its own.

use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::socket::SocketAddr;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;

use super::client_stream::ClientStream;
use super::direct::DirectSession;
use super::response::Response;
use access::VerifiedLogin;
use oci::cache_status::CacheStatus;

/// A request whose head was read.
pub struct Session {
    http: Http,
    sent_head: Option<SentHead>,
    /// The last login that was verified on the connection.
    pub verified_login: Option<VerifiedLogin>,
}

/// An HTTP/1 connection that can serve another request.
pub struct IdleConnection {
    pub stream: Stream,
    pub verified_login: Option<VerifiedLogin>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the frequent one, and it is moved once"
)]
enum Http {
    Direct(DirectSession),
    Pingora(Box<ServerSession>),
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
                http: Http::Pingora(http),
                sent_head: None,
                verified_login: None,
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

    /// The session of a request that was parsed by the gateway itself.
    pub fn direct(session: DirectSession) -> Self {
        Self {
            http: Http::Direct(session),
            sent_head: None,
            verified_login: None,
        }
    }

    pub fn req_header(&self) -> &RequestHeader {
        match &self.http {
            Http::Direct(http) => http.header(),
            Http::Pingora(http) => http.req_header(),
        }
    }

    pub fn is_http2(&self) -> bool {
        match &self.http {
            Http::Direct(_) => false,
            Http::Pingora(http) => http.is_http2(),
        }
    }

    /// The address of the client; `None` for a Unix socket.
    pub fn client(&self) -> Option<IpAddr> {
        let peer = |address: &SocketAddr| Some(address.as_inet()?.ip().to_canonical());
        match &self.http {
            Http::Direct(http) => peer(http.stream().get_socket_digest()?.peer_addr()?),
            Http::Pingora(http) => peer(http.client_addr()?),
        }
    }

    /// The address and port of the client, for the log.
    pub fn client_addr(&self) -> Option<String> {
        match &self.http {
            Http::Direct(http) => {
                let digest = http.stream().get_socket_digest()?;
                digest.peer_addr().map(ToString::to_string)
            }
            Http::Pingora(http) => http.client_addr().map(ToString::to_string),
        }
    }

    /// `None` until the head of the response is written.
    pub fn sent_head(&self) -> Option<SentHead> {
        self.sent_head
    }

    /// Bytes of the request's body that were read.
    pub fn bytes_received(&self) -> usize {
        match &self.http {
            Http::Direct(_) => 0,
            Http::Pingora(http) => http.body_bytes_read(),
        }
    }

    /// Bytes of the response's body that were written.
    pub fn bytes_sent(&self) -> usize {
        match &self.http {
            Http::Direct(http) => http.bytes_sent(),
            Http::Pingora(http) => http.body_bytes_sent(),
        }
    }

    /// Sets how long a write of an HTTP/2 response may make no progress. Below HTTP/1, the socket has a timeout.
    pub fn set_write_timeout(&mut self, timeout: Duration) {
        if let Http::Pingora(http) = &mut self.http {
            http.set_write_timeout(Some(timeout));
        }
    }

    /// Closes an HTTP/1 connection after this response.
    pub fn close_afterwards(&mut self) {
        match &mut self.http {
            Http::Direct(http) => http.close_afterwards(),
            Http::Pingora(http) => http.set_keepalive(None),
        }
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&mut self) -> bool {
        match &mut self.http {
            Http::Direct(_) => true,
            Http::Pingora(http) => http.is_body_empty(),
        }
    }

    /// The next chunk of the request's body; `None` at its end.
    ///
    /// # Errors
    /// The client is gone, or its framing is invalid (RFC 9112 §7.1).
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match &mut self.http {
            Http::Direct(_) => Ok(None),
            Http::Pingora(http) => http.read_request_body().await,
        }
    }

    /// Sends `100 Continue`.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn write_continue(&mut self) -> Result<()> {
        match &mut self.http {
            Http::Direct(_) => Ok(()),
            Http::Pingora(http) => http.write_continue_response().await,
        }
    }

    /// Writes the head of the response.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn write_head(&mut self, response: Response) -> Result<()> {
        let (status, cache) = (response.status(), response.cache());
        match &mut self.http {
            Http::Direct(http) => http.write_head(&response).await?,
            Http::Pingora(http) => {
                let version = http.req_header().version;
                let response = response.into_pingora(version)?;
                http.write_response_header(response).await?;
            }
        }
        self.sent_head = Some(SentHead { status, cache });
        Ok(())
    }

    /// Writes a chunk of the response's body.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn write(&mut self, piece: Bytes) -> Result<()> {
        match &mut self.http {
            Http::Direct(http) => http.write(&piece).await,
            Http::Pingora(http) => http.write_response_body(piece, false).await,
        }
    }

    /// Writes the last chunk of the response's body, and ends it.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn write_last(&mut self, piece: Bytes) -> Result<()> {
        match &mut self.http {
            Http::Direct(http) => {
                http.write(&piece).await?;
                http.end().await
            }
            Http::Pingora(http) => http.write_response_body(piece, true).await,
        }
    }

    /// Ends the response's body.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn end(&mut self) -> Result<()> {
        self.write_last(Bytes::new()).await
    }

    /// Sends what is buffered, so that a client receives it while the gateway waits for more. HTTP/2 does so itself.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn flush(&mut self) -> Result<()> {
        let http = match &mut self.http {
            Http::Direct(http) => return http.flush().await,
            Http::Pingora(http) => &**http,
        };
        let ServerSession::H1(http) = http else {
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
        if let Http::Pingora(http) = &mut self.http
            && http.is_http2()
        {
            http.shutdown().await;
        }
    }

    /// Ends an answered request. Returns the connection if HTTP/1 can reuse it.
    pub async fn finish(self) -> Option<IdleConnection> {
        let stream = match self.http {
            Http::Direct(http) => http.finish().await?,
            Http::Pingora(http) => Box::pin(http.finish()).await.ok()??.into_parts().0,
        };
        Some(IdleConnection {
            stream,
            verified_login: self.verified_login,
        })
    }
}
