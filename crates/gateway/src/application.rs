//! The gateway as pingora's HTTP server application: a request from its head to the end of its response.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_core::{Error, ErrorType};

use super::context::{RequestContext, Requester};
use super::error_response::ErrorResponse;
use super::request_options::RequestOptions;
use super::session::{IdleConnection, Session};
use super::{Gateway, access_log, request_metrics, respond};
use oci::error::ErrorCode;

/// A gateway with the limits of its HTTP/2 connections.
pub struct Application {
    pub gateway: Gateway,
    pub server_options: HttpServerOptions,
    pub h2_options: H2Options,
}

impl Application {
    /// Answers a request. Returns the connection if HTTP/1 can reuse it.
    pub async fn serve(
        &self,
        mut session: Session,
        shutdown: &ShutdownWatch,
    ) -> Option<IdleConnection> {
        if *shutdown.borrow() {
            session.close_afterwards();
        }
        let request = session.req_header();
        let mut context = RequestContext::new(request, request_metrics::start(request));
        let mut answered = Ok(());
        if let Err(failure) = self.gateway.answer(&mut session, &mut context).await {
            let options = &context.options;
            answered = Box::pin(self.gateway.fail(&mut session, options, failure)).await;
            // An aborted body was logged where it failed; a client that left is no error.
            if let Err(error) = &answered {
                Box::pin(abort(&mut session, options, error)).await;
            }
        }
        request_metrics::finish(&session, &context);
        if self.gateway.state.access_log && context.requester == Requester::Client {
            access_log::write(&self.gateway, &session, &context);
        }
        answered.ok()?;
        session.finish().await
    }
}

#[async_trait]
impl HttpServerApp for Application {
    async fn process_new_http(
        self: &Arc<Self>,
        http: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let session = Session::read(http).await?;
        let connection = self.serve(session, shutdown).await?;
        Some(ReusedHttpStream::new(connection.stream, None))
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2_options.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.server_options)
    }
}

/// Sends a 500 if no head was sent and the client can still receive one; otherwise aborts the response.
async fn abort(session: &mut Session, options: &RequestOptions, error: &Error) {
    let left = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::ConnectionClosed
    );
    if left || session.sent_head().is_some() {
        return session.break_off().await;
    }
    let failed = ErrorResponse::new(ErrorCode::Unknown, "the gateway failed");
    let _ = respond::error(session, options, &failed).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what `make` returns, in bytes.
    fn size_of_returned<A, B, C, F>(_make: impl FnOnce(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// It is moved for each request of HTTP/2, and each connection of HTTP/1 has one.
    #[test]
    fn the_future_of_a_request_is_small() {
        let serve = |application: &'static Application, session, shutdown: &'static _| {
            application.serve(session, shutdown)
        };
        let size = size_of_returned(serve);
        assert!(size <= 6 << 10, "{size} bytes");
    }
}
