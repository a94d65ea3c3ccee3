//! Requests that pass through: pushes, deletes, and reads of registries whose bytes are not kept.
//!
//! The body streams while it arrives, so nothing can be sent twice: the login is had before its first byte,
//! redirects are not followed, and what the upstream answers goes back as it is.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::limits::Kind;
use super::transport::AuthSource;
use super::{BODY_HEADERS, BodyEnd, QUESTION, Upstream, UpstreamError};

/// How long an upstream may take to answer when it has everything: a registry may move a whole layer before
/// it says so.
const ANSWER: Duration = Duration::from_secs(900);

/// A request to pass on.
#[derive(Debug)]
pub struct Passing {
    pub method: Method,
    /// Path and query, rendered from what was parsed.
    pub target: String,
    pub headers: HeaderMap,
    /// What a token must allow: `repository:<name>:pull,push`.
    pub scope: String,
    /// Absent where the request has none.
    pub body: Option<Body>,
}

/// What an upstream answered, body to follow.
#[derive(Debug)]
pub struct Passed {
    pub status: StatusCode,
    pub headers: HeaderMap,
    response: reqwest::Response,
}

impl From<reqwest::Response> for Passed {
    fn from(response: reqwest::Response) -> Self {
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            response,
        }
    }
}

impl Passed {
    /// What ends the body.
    pub fn end(&self) -> BodyEnd {
        BodyEnd::of(&self.response)
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// A body that is cut off or stalls is an error, never an end, but where [`BodyEnd::Connection`] ends it.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let next = tokio::time::timeout(super::clients::READ_TIMEOUT, self.response.chunk());
        let chunk = next.await.map_err(|_| UpstreamError::Timeout)?;
        chunk.map_err(UpstreamError::from)
    }
}

/// A request body as its client sends it. One that is dropped before it was ended is broken off upstream,
/// never taken for complete.
#[derive(Debug)]
pub struct Body {
    pieces: mpsc::Receiver<Piece>,
    /// What is still to come in bytes, where the client said.
    left: Option<u64>,
    ended: bool,
}

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// The client did not send the whole body.
#[derive(Debug, thiserror::Error)]
#[error("the client broke its body off")]
pub struct BrokenOff;

/// The other end of a [`Body`].
#[derive(Debug)]
pub struct Feed(mpsc::Sender<Piece>);

impl Feed {
    /// Hands bytes on, once those before are on their way. False when nobody takes them any more.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// That was all.
    pub async fn end(self) {
        let _ = self.0.send(Piece::End).await;
    }
}

impl Body {
    /// `length` is what the client announced, in bytes.
    pub fn new(length: Option<u64>) -> (Feed, Self) {
        let (sender, pieces) = mpsc::channel(1);
        let body = Self {
            pieces,
            left: length,
            ended: length == Some(0),
        };
        (Feed(sender), body)
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = std::task::ready!(self.pieces.poll_recv(context));
        let frame = match piece {
            Some(Piece::Bytes(bytes)) => {
                let more = bytes.len() as u64;
                self.left = self.left.map(|left| left.saturating_sub(more));
                Some(Ok(Frame::data(bytes)))
            }
            Some(Piece::End) => {
                self.ended = true;
                None
            }
            None => {
                self.ended = true;
                Some(Err(BrokenOff))
            }
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Upstream {
    /// Passes a request on. The statuses of the upstream are no errors, save a refused login.
    ///
    /// # Errors
    /// Why it could not be asked; [`UpstreamError::Denied`] where it refuses our account.
    pub async fn pass(&self, passing: Passing) -> Result<Passed, UpstreamError> {
        let transport = &self.transport;
        if transport.absent {
            return Err(UpstreamError::NotFound);
        }
        let client = self.clients.passing();
        let began = Instant::now();
        transport.probe.admit(&client, Kind::Other, &[]).await?;
        let url = transport
            .origin
            .join(&passing.target)
            .map_err(|_| UpstreamError::Unsendable)?;
        let within = answer_timeout(&passing.method, BODY_HEADERS);
        let scope = Some(passing.scope.as_str());
        let theirs = matches!(self.auth, AuthSource::Caller(_));
        let authorization = if let AuthSource::Caller(authorization) = &self.auth {
            authorization.clone()
        } else {
            self.learn_login().await?;
            transport.auth.authorization(scope, false).await?
        };
        let request = |authorization: Option<HeaderValue>| {
            let request = client
                .request(passing.method.clone(), url.clone())
                .headers(passing.headers.clone());
            match authorization {
                Some(value) => request.header(header::AUTHORIZATION, value),
                None => request,
            }
        };
        let response = if let Some(body) = passing.body {
            // Whoever feeds the body bounds the time.
            let request = request(authorization).body(reqwest::Body::wrap(body));
            request.send().await.map_err(UpstreamError::from)
        } else {
            let first = answered(request(authorization.clone()), within).await;
            match first {
                Ok(refused) if refused.status() == StatusCode::UNAUTHORIZED && !theirs => {
                    let (challenges, sent) = (refused.headers(), authorization.as_ref());
                    match transport
                        .auth
                        .answer(challenges, scope, sent, false)
                        .await?
                    {
                        Some(answer) => answered(request(Some(answer)), within).await,
                        None => Ok(refused),
                    }
                }
                first => first,
            }
        };
        transport.passed(&client, &response, began);
        let code = response.as_ref().ok().map(|got| got.status().as_u16());
        transport.counted.request("pass", code);
        let response = response?;
        if response.status() == StatusCode::UNAUTHORIZED && theirs {
            return Err(UpstreamError::of_caller(
                response.status(),
                response.headers(),
            ));
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(UpstreamError::Denied(StatusCode::UNAUTHORIZED));
        }
        Ok(Passed::from(response))
    }
}

impl Upstream {
    /// Finds out how the registry wants to be logged in to, if that is not known: the login must be had
    /// before a body's first byte.
    async fn learn_login(&self) -> Result<(), UpstreamError> {
        let auth = &self.transport.auth;
        if auth.is_known() {
            return Ok(());
        }
        let base = self
            .transport
            .origin
            .join("/v2/")
            .map_err(|_| UpstreamError::Unsendable)?;
        let asked = self.clients.questions().get(base).send();
        let answer = tokio::time::timeout(QUESTION, asked).await;
        let answer = answer.map_err(|_| UpstreamError::Timeout)??;
        auth.learn(answer.status(), answer.headers());
        Ok(())
    }
}

/// How long an upstream may take to answer a request without a body: a read has a client that waits for its
/// headers, everything else may move a whole layer.
pub(super) fn answer_timeout(method: &Method, read: Duration) -> Duration {
    match *method {
        Method::GET | Method::HEAD => read,
        _ => ANSWER,
    }
}

/// Sends a request without a body.
pub(super) async fn answered(
    request: reqwest::RequestBuilder,
    within: Duration,
) -> Result<reqwest::Response, UpstreamError> {
    let sent = tokio::time::timeout(within, request.send());
    Ok(sent.await.map_err(|_| UpstreamError::Timeout)??)
}
