//! A request, from its head to the end of its response.

use std::time::Duration;

use http::{Method, header};
use pingora_core::{Error, ErrorType};

use super::access_log::AccessRecord;
use super::context::{RequestContext, Requester};
use super::error_response::ErrorResponse;
use super::history::{FailureKind, FailureReason};
use super::request_id::RequestId;
use super::request_options::RequestOptions;
use super::session::{IdleConnection, Session};
use super::{Gateway, request_metrics, respond};
use oci::error::ErrorCode;
use oci::v2::Resource;

impl Gateway {
    /// Answers a request. Returns the connection if HTTP/1 can reuse it.
    pub(super) async fn serve(&self, mut session: Session) -> Option<IdleConnection> {
        if self.listener.trusts(session.client())
            && let Some(id) = RequestId::received(&session.req_header().headers)
        {
            session.request_id = id;
        }
        let request = session.req_header();
        let mut context = RequestContext::new(request, request_metrics::start(request));
        let mut answered = Ok(());
        if let Err(failure) = self.answer(&mut session, &mut context).await {
            context.failure = FailureReason::of(&failure, context.target.as_ref());
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
            self.emit_events(&session, &context);
            self.remember(&session, &mut context, took);
        }
        answered.ok()?;
        session.finish().await
    }

    /// Adds the request to the access log and to the history.
    fn remember(&self, session: &Session, context: &mut RequestContext, took: Duration) {
        let history = &self.state.history;
        let record = AccessRecord::of(session, context, took);
        if self.state.access_log {
            record.log(session, &self.state.mirror);
        }
        if let (&Method::GET, 200, Some(target)) = (&record.method, record.status, &context.target)
            && matches!(target.resource, Resource::Manifest(_))
        {
            history.count_pull(&target.name);
        }
        let headers = &session.req_header().headers;
        let has_credentials = || headers.contains_key(header::AUTHORIZATION);
        if let Some(kind) = FailureKind::of(record.status, has_credentials) {
            history.add_failure(kind, context.failure.take(), &record);
        }
        history.requests.push(record);
    }
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
        assert!(size <= 6400, "{size} bytes");
    }
}
