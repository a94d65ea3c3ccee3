//! HTTP/2 connections (RFC 9113).
//!
//! One task serves a connection: it reads and writes frames, and answers the requests of all streams. So a response is
//! on its way as soon as it is written, and no other task has to be woken for it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{FuturesUnordered, Stream as _};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::Instant;

use super::client_stream::ClientStream;
use super::head::{Ended, IdleEnd, linger};
use super::http2_session::{self, Http2Session};
use super::session::Session;
use super::shared_stream::SharedStream;
use access::CertificateUser;

/// Invalid requests that a connection may send before it is closed.
const INVALID: usize = 32;

/// How long a client without requests may take to agree to the end of the connection.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may be silent after the end of the connection, while it receives what was sent before.
const QUIET: Duration = Duration::from_secs(5);

/// A connection after its preface.
pub struct Http2Connection {
    connection: Connection<SharedStream, Bytes>,
    stream: SharedStream,
    peer: Option<SocketAddr>,
    certificate: Option<CertificateUser>,
    idle_timeout: Duration,
    idle_end: IdleEnd,
    is_ending: bool,
    invalid: usize,
}

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// By agreement, or by an error of the client: it is to receive what was sent.
    Closed,
    /// It failed.
    Failed,
}

impl Http2Connection {
    /// Reads the preface and sends the settings of `builder`.
    ///
    /// # Errors
    /// The connection failed, or the bytes are not HTTP/2.
    pub async fn accept(
        stream: ClientStream,
        builder: &Builder,
        idle_timeout: Duration,
        idle_end: IdleEnd,
    ) -> Result<Self, h2::Error> {
        let (peer, certificate) = (stream.peer(), stream.certificate().cloned());
        let stream = SharedStream::collecting(stream);
        Ok(Self {
            connection: builder.handshake(stream.clone()).await?,
            stream,
            peer,
            certificate,
            idle_timeout,
            idle_end,
            is_ending: false,
            invalid: 0,
        })
    }

    /// Serves requests by `answer` until the client, the idle timeout or the shutdown ends the connection.
    pub async fn serve<F: Future>(mut self, mut answer: impl FnMut(Session) -> F) {
        let mut requests = FuturesUnordered::new();
        self.idle_end
            .set_deadline(Instant::now() + self.idle_timeout);
        let end = poll_fn(|cx| self.poll(cx, &mut requests, &mut answer)).await;
        let (mut stream, idle_timeout) = (self.stream.clone(), self.idle_timeout);
        // Requests in flight find out that their client is gone, and are counted and logged.
        drop(self);
        while requests.next().await.is_some() {}
        if end == End::Closed {
            linger(&mut stream, QUIET, idle_timeout).await;
        }
    }

    fn poll<F: Future>(
        &mut self,
        cx: &mut Context<'_>,
        requests: &mut FuturesUnordered<F>,
        answer: &mut impl FnMut(Session) -> F,
    ) -> Poll<End> {
        loop {
            while let Poll::Ready(accepted) = self.connection.poll_accept(cx) {
                let (request, respond) = match accepted {
                    Some(Ok(request)) => request,
                    Some(Err(error)) if error.is_io() => return Poll::Ready(End::Failed),
                    Some(Err(_)) | None => return Poll::Ready(End::Closed),
                };
                if let Some(session) = self.begin(request, respond) {
                    requests.push(answer(session));
                }
            }
            let mut answered = false;
            while let Poll::Ready(Some(_)) = Pin::new(&mut *requests).poll_next(cx) {
                answered = true;
            }
            if !answered {
                break;
            }
            // Their responses are sent by polling the connection again.
            self.idle_end
                .set_deadline(Instant::now() + self.idle_timeout);
        }
        if let Poll::Ready(Err(_)) = self.stream.poll_send(cx) {
            return Poll::Ready(End::Failed);
        }
        self.poll_idle(cx, requests.is_empty())
    }

    /// Ends the connection after it has been idle for too long, or for the shutdown: the client is told, and has a moment to
    /// agree, so that no request of its is lost (RFC 9113 §6.8).
    fn poll_idle(&mut self, cx: &mut Context<'_>, idle: bool) -> Poll<End> {
        while let Poll::Ready(ended) = self.idle_end.poll(cx) {
            match ended {
                Ended::Deadline if idle && self.is_ending => return Poll::Ready(End::Closed),
                Ended::Deadline if !idle => {
                    self.idle_end
                        .set_deadline(Instant::now() + self.idle_timeout);
                }
                Ended::Deadline | Ended::Shutdown => {
                    self.is_ending = true;
                    self.connection.graceful_shutdown();
                    let wait = self.idle_timeout.min(GOAWAY_TIMEOUT);
                    self.idle_end.set_deadline(Instant::now() + wait);
                    cx.waker().wake_by_ref();
                }
            }
        }
        Poll::Pending
    }

    /// The session of a request; `None` if it is invalid, and was refused.
    fn begin(
        &mut self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Option<Session> {
        let (parts, body) = request.into_parts();
        let header = parts.into();
        if let Err(invalid) = http2_session::check(&header) {
            invalid.refuse(respond);
            self.invalid += 1;
            if self.invalid == INVALID {
                self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            return None;
        }
        let session = Http2Session::new(header, body, respond, self.certificate.clone());
        Some(Session::http2(session, self.peer))
    }
}
