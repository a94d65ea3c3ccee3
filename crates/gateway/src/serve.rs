//! A request, from its head to the end of its response.

use std::time::Duration;

use http::{Method, header};
use pingora_core::{Error, ErrorType};

use super::access_log::AccessRecord;
use super::context::{RequestContext, Requester};
use super::error_response::ErrorResponse;
use super::failure::FailureReason;
use super::history::FailureKind;
use super::login_attempt::LoginAttempt;
use super::request_options::RequestOptions;
use super::session::{IdleConnection, Session};
use super::{Failure, Gateway, request_metrics, respond};
use oci::error::ErrorCode;
use oci::v2::Resource;

impl Gateway {
    /// Answers a request. Returns the connection if HTTP/1 can reuse it.
    pub(super) async fn serve(&self, mut session: Session) -> Option<IdleConnection> {
        self.accept_forwarded(&mut session);
        let request = session.req_header();
        let mut context = RequestContext::new(request, request_metrics::start(request));
        let mut answered = Ok(());
        if let Err(failure) = self.answer(&mut session, &mut context).await {
            let failure = self.told(&context, failure);
            note_failure(&session, &mut context, &failure);
            let options = &context.options;
            answered = Box::pin(self.fail(&mut session, options, failure)).await;
            // An aborted body was logged where it failed; a client that left is no error.
            if let Err(error) = &answered {
                Box::pin(abort(&mut session, options, error)).await;
            }
        }
        let took = context.started.elapsed();
        request_metrics::finish(&session, &context, took);
        if context.requester == Requester::Client {
            let end = ResponseEnd::of(&answered);
            self.emit_events(&session, &context, end);
            self.remember(&session, &mut context, end, took);
        }
        answered.ok()?;
        session.finish().await
    }

    /// Adds the request to the access log and to the history.
    fn remember(
        &self,
        session: &Session,
        context: &mut RequestContext,
        end: ResponseEnd,
        took: Duration,
    ) {
        let history = &self.state.history;
        let is_manifest = matches!(
            &context.target,
            Some(target) if matches!(target.resource, Resource::Manifest(_))
        );
        let record = AccessRecord::of(session, context, took);
        if self.state.access_log {
            record.log(session, &self.state.mirror);
        }
        if let (&Method::GET, 200, ResponseEnd::Complete) = (&record.method, record.status, end)
            && let Some(name) = record.repository().filter(|_| is_manifest)
        {
            history.count_pull(name);
        }
        if let Some(kind) = failure_kind(session, record.status) {
            history.add_failure(kind, context.failure.take(), &record);
        }
        history.requests.push(record);
    }
}

/// How the response to a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseEnd {
    /// The client was sent all of it.
    Complete,
    /// It was broken off, or the client left.
    Incomplete,
}

impl ResponseEnd {
    fn of<E>(answered: &Result<(), E>) -> Self {
        match answered {
            Ok(()) => Self::Complete,
            Err(_) => Self::Incomplete,
        }
    }
}

/// Notes why a request is denied or fails, for the history.
pub(super) fn note_failure(session: &Session, context: &mut RequestContext, failure: &Failure) {
    let status = failure.status().map(|status| status.as_u16());
    if status.is_some_and(|status| failure_kind(session, status).is_some()) {
        let attempt = session.login_attempt.as_ref();
        let refused_user = attempt.and_then(LoginAttempt::refused_user);
        context.failure = FailureReason::of(failure, context.target.as_ref(), refused_user);
    }
}

/// The kind of failure that a response with this status is.
fn failure_kind(session: &Session, status: u16) -> Option<FailureKind> {
    let headers = &session.req_header().headers;
    let in_form = session.login_attempt.is_some();
    FailureKind::of(status, || {
        in_form || headers.contains_key(header::AUTHORIZATION)
    })
}

/// Sends a 500 if no head was sent and the client can still receive one; otherwise aborts the response.
async fn abort(session: &mut Session, options: &RequestOptions, error: &Error) {
    let left = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::ConnectionClosed
    );
    if left || session.sent_head().is_some() {
        return session.break_off();
    }
    let failed = ErrorResponse::new(ErrorCode::Unknown, "the gateway failed");
    let _ = respond::error(session, options, &failed).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what `make` returns, in bytes.
    fn size_of_returned<A, B, F>(_make: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// It is moved for each request of HTTP/2, and each connection of HTTP/1 has one.
    #[test]
    fn the_future_of_a_request_is_small() {
        let serve = |gateway: &'static Gateway, session| gateway.serve(session);
        let size = size_of_returned(serve);
        assert!(size <= 6144, "{size} bytes");
    }
}
