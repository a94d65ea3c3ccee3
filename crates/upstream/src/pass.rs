//! Requests that pass through: pushes, deletes, and reads of registries that are not cached.
//!
//! The body streams as it arrives, so it cannot be sent twice: the login is known before its first byte, redirects are not
//! followed, and the upstream's response is returned unchanged.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::auth::Auth;
use super::request::{AuthSource, Identity};
use super::{BodyEnd, SHORT_TIMEOUT, Upstream, UpstreamError};

/// How many pieces of a body wait to be sent: those that wait together are sent by one call.
const WAITING_PIECES: usize = 4;
/// The limit on the response to a complete write: a registry may move a whole layer before it responds.
const WRITE_TIMEOUT: Duration = Duration::from_secs(900);

/// A request to pass through.
#[derive(Debug)]
pub struct Passing {
    /// The client's.
    pub method: Method,
    /// Path and query, rendered from what was parsed.
    pub target: String,
    /// Those of the client's that the endpoint needs; the upstream client adds its own.
    pub headers: HeaderMap,
    /// What a token must allow: `repository:<name>:pull,push`.
    pub scope: String,
    /// The limit on the wait for the response to a GET or HEAD.
    pub read_timeout: Duration,
    /// Whether the request may be sent a second time.
    pub on_closed_connection: OnClosedConnection,
    /// Streamed as it arrives; `None`: the request has none.
    pub body: Option<Body>,
}

/// What to do when the connection of a request without a body closes before the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnClosedConnection {
    /// Report it: the request may have taken effect.
    Fail,
    /// A GET or HEAD is sent again, once: the server closes idle connections so soon that a request may meet one that is
    /// just being closed.
    ResendReads,
}

/// The upstream's response, its body to follow.
#[derive(Debug)]
pub struct Passed {
    /// As the registry sent it.
    pub status: StatusCode,
    /// As the registry sent them.
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
    /// [`UpstreamError::Network`] for a body that is cut off, unless [`BodyEnd::Connection`] ends it;
    /// [`UpstreamError::Timeout`] for one that stalls.
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let next = tokio::time::timeout(super::clients::READ_TIMEOUT, self.response.chunk());
        let chunk = next.await.map_err(|_| UpstreamError::Timeout)?;
        chunk.map_err(UpstreamError::from)
    }
}

/// A request body as its client sends it. If its [`Feed`] is dropped before its end, the upstream request is broken off and
/// never completed.
#[derive(Debug)]
pub struct Body {
    pieces: mpsc::Receiver<Piece>,
    /// The remaining bytes, where the client announced a length.
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
#[error("the client aborted the request body")]
pub struct BrokenOff;

/// The sending end of a [`Body`].
#[derive(Debug)]
pub struct Feed(mpsc::Sender<Piece>);

impl Feed {
    /// Sends bytes, once there is room for them. False if the upstream request has ended.
    pub async fn send(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Completes the body.
    pub async fn end(self) {
        let _ = self.0.send(Piece::End).await;
    }
}

impl Body {
    /// A body and its sending end. `length` is what the client announced, in bytes.
    pub fn new(length: Option<u64>) -> (Feed, Self) {
        let (sender, pieces) = mpsc::channel(WAITING_PIECES);
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
    /// Passes a request through. The upstream's statuses are no errors, except a refused login.
    ///
    /// # Errors
    /// [`UpstreamError::Denied`] where it refuses the account, [`UpstreamError::Challenged`] where it refuses the client's
    /// login; any other failure to get a response.
    pub async fn pass(&self, mut passing: Passing) -> Result<Passed, UpstreamError> {
        let transport = &self.transport;
        if transport.absent {
            return Err(UpstreamError::NotFound);
        }
        let client = self.clients.pass_through();
        let began = Instant::now();
        transport.probe.admit(&client, &[]).await?;
        let url = transport
            .origin
            .join(&passing.target)
            .map_err(|_| UpstreamError::Unsendable)?;
        // One account for all requests of an upload.
        let account = &transport.accounts.first(began).auth;
        let authorization = self.pass_authorization(account, &passing.scope).await?;
        let body = passing.body.take();
        let request = |authorization: Option<&HeaderValue>| {
            let request = client
                .request(passing.method.clone(), url.clone())
                .headers(passing.headers.clone());
            match authorization {
                Some(value) => request.header(header::AUTHORIZATION, value.clone()),
                None => request,
            }
        };
        let sent = authorization.as_ref();
        let response = if let Some(body) = body {
            // The body's sender bounds the time.
            let request = request(sent).body(reqwest::Body::wrap(body));
            request.send().await.map_err(UpstreamError::from)
        } else {
            let bodiless = self.pass_bodiless(account, &passing, sent, request);
            bodiless.await?
        };
        transport.passed(&client, &response, began);
        let code = response.as_ref().ok().map(|got| got.status().as_u16());
        transport.counted.request("pass", code);
        let response = response?;
        match (response.status(), &self.auth) {
            (status @ StatusCode::UNAUTHORIZED, AuthSource::Caller(_)) => {
                Err(UpstreamError::of_caller(status, response.headers()))
            }
            (status @ StatusCode::UNAUTHORIZED, _) => Err(UpstreamError::Denied(status)),
            _ => Ok(Passed::from(response)),
        }
    }

    /// Sends a request without a body; once more after a challenge, or a closed connection where that is asked for. The
    /// outer error is that of the login.
    async fn pass_bodiless(
        &self,
        auth: &Auth,
        passing: &Passing,
        sent: Option<&HeaderValue>,
        request: impl Fn(Option<&HeaderValue>) -> reqwest::RequestBuilder,
    ) -> Result<Result<reqwest::Response, UpstreamError>, UpstreamError> {
        let is_read = matches!(passing.method, Method::GET | Method::HEAD);
        let timeout = if is_read {
            passing.read_timeout
        } else {
            WRITE_TIMEOUT
        };
        let resends = is_read && passing.on_closed_connection == OnClosedConnection::ResendReads;
        let challenged = matches!(self.auth, AuthSource::Gateway | AuthSource::Anonymous);
        match answered(request(sent), timeout).await {
            Ok(refused) if refused.status() == StatusCode::UNAUTHORIZED && challenged => {
                let scope = Some(passing.scope.as_str());
                let answer = auth
                    .answer(refused.headers(), scope, sent, Identity::Account)
                    .await?;
                Ok(match answer {
                    Some(answer) => answered(request(Some(&answer)), timeout).await,
                    None => Ok(refused),
                })
            }
            Err(UpstreamError::Network(error)) if resends && !error.is_connect() => {
                Ok(answered(request(sent), timeout).await)
            }
            first => Ok(first),
        }
    }

    /// The `Authorization` to pass a request through with. The login must be known before a body's first byte.
    async fn pass_authorization(
        &self,
        auth: &Auth,
        scope: &str,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        match &self.auth {
            AuthSource::Caller(authorization) | AuthSource::Preemptive(authorization) => {
                Ok(authorization.clone())
            }
            AuthSource::Gateway | AuthSource::Anonymous => {
                self.learn_login(auth).await?;
                auth.authorization(Some(scope), Identity::Account).await
            }
        }
    }
}

impl Upstream {
    /// Finds out which login the registry asks for, if that is unknown: the login must be known before a body's first byte.
    async fn learn_login(&self, auth: &Auth) -> Result<(), UpstreamError> {
        if auth.is_known() {
            return Ok(());
        }
        let base = self
            .transport
            .origin
            .join("/v2/")
            .map_err(|_| UpstreamError::Unsendable)?;
        let sent = self.clients.short().get(base).send();
        let answer = tokio::time::timeout(SHORT_TIMEOUT, sent).await;
        let answer = answer.map_err(|_| UpstreamError::Timeout)??;
        auth.observe(answer.status(), answer.headers());
        Ok(())
    }
}

/// Sends a request without a body.
async fn answered(
    request: reqwest::RequestBuilder,
    within: Duration,
) -> Result<reqwest::Response, UpstreamError> {
    let sent = tokio::time::timeout(within, request.send());
    Ok(sent.await.map_err(|_| UpstreamError::Timeout)??)
}
