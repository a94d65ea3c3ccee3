//! One request and its response, in either version of HTTP.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Uri};
use http::{HeaderValue, StatusCode, header};
use pingora_core::protocols::http::ServerSession;
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::RequestHeader;

use super::client_stream::ClientStream;
use super::content_event::ContentEvent;
use super::direct_session::DirectSession;
use super::http2_session::Http2Session;
use super::login_attempt::LoginAttempt;
use super::request_id::{self, RequestId};
use super::response::Response;
use super::shared_stream::SharedStream;
use access::{CertificateUser, VerifiedLogin};
use oci::cache_status::CacheStatus;
use oci::forwarded::Scheme;

/// A request whose head was read.
pub struct Session {
    http: Http,
    peer: Option<SocketAddr>,
    sent_head: Option<SentHead>,
    /// Sent with the response.
    pub request_id: RequestId,
    /// The scheme that its client uses, by what a trusted proxy says.
    pub forwarded_scheme: Option<Scheme>,
    /// The password that it sent, once that is verified.
    pub login_attempt: Option<LoginAttempt>,
    /// The content that it pulled or changed.
    pub content_event: Option<Box<ContentEvent>>,
    /// The last login that was verified on the connection.
    pub verified_login: Option<VerifiedLogin>,
}

/// An HTTP/1 connection that can serve another request.
pub struct IdleConnection {
    pub stream: ClientStream,
    pub verified_login: Option<VerifiedLogin>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the frequent one, and it is moved once"
)]
enum Http {
    /// HTTP/1.1, without a request body.
    Direct(DirectSession),
    /// Any other HTTP/1, a handle to its connection, and the user of its client certificate.
    Pingora(Box<ServerSession>, SharedStream, Option<CertificateUser>),
    Http2(Box<Http2Session>),
}

/// The status and cache status of a response whose head was written.
#[derive(Clone, Copy, Debug)]
pub struct SentHead {
    pub status: StatusCode,
    pub cache: CacheStatus,
}

impl Session {
    fn new(http: Http, peer: Option<SocketAddr>) -> Self {
        Self {
            http,
            peer,
            sent_head: None,
            request_id: RequestId::new(),
            forwarded_scheme: None,
            login_attempt: None,
            content_event: None,
            verified_login: None,
        }
    }

    /// Reads the rest of the head of an HTTP/1 request, which began with `head`; `None` if there is none to answer.
    /// Bytes that are not HTTP get an empty 400.
    pub async fn read(stream: ClientStream, head: Bytes, idle_timeout: Duration) -> Option<Self> {
        let (peer, certificate) = (stream.peer(), stream.certificate().cloned());
        let stream = SharedStream::new(stream);
        let mut http = Box::new(ServerSession::new_http1(Box::new(stream.clone())));
        http.set_keepalive(Some(idle_timeout.as_secs()));
        http.set_pipelined_prefix(head.into());
        match http.read_request().await {
            Ok(true) => Some(Self::new(Http::Pingora(http, stream, certificate), peer)),
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

    /// The session of an HTTP/1.1 request without a body.
    pub fn direct(session: DirectSession) -> Self {
        let peer = session.stream().peer();
        Self::new(Http::Direct(session), peer)
    }

    /// The session of a request on a stream of HTTP/2. `peer` is the client's address.
    pub fn http2(session: Http2Session, peer: Option<SocketAddr>) -> Self {
        Self::new(Http::Http2(Box::new(session)), peer)
    }

    pub fn req_header(&self) -> &RequestHeader {
        match &self.http {
            Http::Direct(http) => http.header(),
            Http::Http2(http) => http.header(),
            Http::Pingora(http, ..) => http.req_header(),
        }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.http, Http::Http2(_))
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        match &mut self.http {
            Http::Direct(http) => http.header_mut(),
            Http::Http2(http) => http.header_mut(),
            Http::Pingora(http, ..) => http.req_header_mut(),
        }
    }

    /// Sets the host that the client addressed.
    pub fn set_host(&mut self, host: HeaderValue) {
        let header = self.req_header_mut();
        if header.uri.authority().is_some() {
            let mut parts = header.uri.clone().into_parts();
            parts.authority = Authority::try_from(host.as_bytes()).ok();
            if let Ok(uri) = Uri::from_parts(parts) {
                header.set_uri(uri);
            }
        }
        // The name is known, and the value is one.
        let _ = header.insert_header(header::HOST, host);
    }

    /// Sets the address of the client, whose proxy sent the request. Port 0 is unknown.
    pub fn set_client(&mut self, client: SocketAddr) {
        self.peer = Some(client);
    }

    /// The address of the client; `None` for a Unix socket.
    pub fn client(&self) -> Option<IpAddr> {
        self.peer.map(|peer| peer.ip().to_canonical())
    }

    /// The user of the client's certificate; `None` without one that names a user.
    pub fn certificate(&self) -> Option<&CertificateUser> {
        match &self.http {
            Http::Direct(http) => http.stream().certificate(),
            Http::Pingora(_, _, certificate) => certificate.as_ref(),
            Http::Http2(http) => http.certificate(),
        }
    }

    /// The address and port of the client, for the log; `None` for a Unix socket. Port 0 is unknown.
    pub fn client_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// `None` until the head of the response is written.
    pub fn sent_head(&self) -> Option<SentHead> {
        self.sent_head
    }

    /// Bytes of the request's body that were read.
    pub fn bytes_received(&self) -> usize {
        match &self.http {
            Http::Direct(_) => 0,
            Http::Pingora(http, ..) => http.body_bytes_read(),
            Http::Http2(http) => http.bytes_received(),
        }
    }

    /// Bytes of the response's body that were written.
    pub fn bytes_sent(&self) -> usize {
        match &self.http {
            Http::Direct(http) => http.bytes_sent(),
            Http::Pingora(http, ..) => http.body_bytes_sent(),
            Http::Http2(http) => http.bytes_sent(),
        }
    }

    /// Sets how long a write of an HTTP/2 response may make no progress. Below HTTP/1, the socket has a timeout.
    pub fn set_write_timeout(&mut self, timeout: Duration) {
        if let Http::Http2(http) = &mut self.http {
            http.set_write_timeout(timeout);
        }
    }

    /// Closes an HTTP/1 connection after this response.
    pub fn close_afterwards(&mut self) {
        match &mut self.http {
            Http::Direct(http) => http.close_afterwards(),
            Http::Pingora(http, ..) => http.set_keepalive(None),
            Http::Http2(_) => {}
        }
    }

    /// Whether the request has no body.
    pub fn is_body_empty(&mut self) -> bool {
        match &mut self.http {
            Http::Direct(_) => true,
            Http::Pingora(http, ..) => http.is_body_empty(),
            Http::Http2(http) => http.is_body_empty(),
        }
    }

    /// The next chunk of the request's body; `None` at its end.
    ///
    /// # Errors
    /// The client is gone, or its framing is invalid (RFC 9112 §7.1).
    pub async fn read_body(&mut self) -> Result<Option<Bytes>> {
        match &mut self.http {
            Http::Direct(_) => Ok(None),
            Http::Pingora(http, ..) => http.read_request_body().await,
            Http::Http2(http) => http.read_body().await,
        }
    }

    /// Sends `100 Continue`; by HTTP/2 nothing, whose clients do not wait for it.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn write_continue(&mut self) -> Result<()> {
        match &mut self.http {
            Http::Direct(_) | Http::Http2(_) => Ok(()),
            Http::Pingora(http, ..) => http.write_continue_response().await,
        }
    }

    /// Writes the head of the response.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout.
    pub async fn write_head(&mut self, response: Response) -> Result<()> {
        let (status, cache) = (response.status(), response.cache());
        match &mut self.http {
            Http::Direct(http) => http.write_head(&response, &self.request_id).await?,
            Http::Pingora(http, ..) => {
                let mut head = response.into_pingora()?;
                head.insert_header(request_id::SPELLED, self.request_id.header_value())?;
                http.write_response_header(head).await?;
            }
            Http::Http2(http) => http.write_head(response, &self.request_id)?,
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
            Http::Pingora(http, ..) => http.write_response_body(piece, false).await,
            Http::Http2(http) => http.write(piece).await,
        }
    }

    /// Sets whether the client takes the body quickly: the kernel then holds more of it. HTTP/2 has windows for that.
    pub fn set_quick(&mut self, quick: bool) {
        if let Http::Direct(http) = &mut self.http {
            http.set_quick(quick);
        }
    }

    /// Whether the kernel can send files as the response's body.
    pub fn sends_files(&self) -> bool {
        matches!(&self.http, Http::Direct(http) if http.sends_files())
    }

    /// Lets the kernel send part of a file as the next bytes of the response's body. Returns how many; 0 behind the
    /// file's end.
    ///
    /// # Errors
    /// The client is gone, or took nothing within the write timeout. Or the session does not send files.
    pub async fn send_file(&mut self, file: &File, offset: u64, bytes: u64) -> Result<u64> {
        match &mut self.http {
            Http::Direct(http) => http.send_file(file, offset, bytes).await,
            _ => Error::e_explain(ErrorType::InternalError, "not a plain connection"),
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
            Http::Pingora(http, ..) => http.write_response_body(piece, true).await,
            Http::Http2(http) => http.write_last(piece).await,
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
        match &mut self.http {
            Http::Direct(http) => http.flush().await,
            Http::Pingora(_, stream, _) => {
                let sent = stream.send().await;
                sent.or_err(ErrorType::WriteError, "flushing the response")
            }
            Http::Http2(_) => Ok(()),
        }
    }

    /// Aborts an incomplete response visibly: resets an HTTP/2 stream. An HTTP/1 connection ends when it is dropped,
    /// short of the length or of the last chunk.
    pub fn break_off(&mut self) {
        if let Http::Http2(http) = &mut self.http {
            http.break_off();
        }
    }

    /// Ends an answered request. Returns the connection if HTTP/1 can reuse it.
    pub async fn finish(self) -> Option<IdleConnection> {
        let stream = match self.http {
            Http::Direct(http) => http.finish().await?,
            Http::Pingora(http, stream, _) => {
                drop(Box::pin(http.finish()).await.ok()??);
                stream.into_inner()?
            }
            Http::Http2(http) => {
                http.finish().await;
                return None;
            }
        };
        Some(IdleConnection {
            stream,
            verified_login: self.verified_login,
        })
    }
}
