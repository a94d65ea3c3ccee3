//! The gateway as pingora's HTTP server application: what happens to each request, whatever it asks for.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_core::{Error, ErrorType};

use super::context::RequestContext;
use super::error_response::ErrorResponse;
use super::respond::{self, RequestOptions};
use super::session::Session;
use super::{Gateway, access_log, request_metrics};
use oci::error::ErrorCode;

/// A gateway, and what its HTTP/2 connections may take up.
pub struct Application {
    pub gateway: Gateway,
    pub server_options: HttpServerOptions,
    pub h2_options: H2Options,
}

#[async_trait]
impl HttpServerApp for Application {
    async fn process_new_http(
        self: &Arc<Self>,
        http: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let mut session = Session::read(http).await?;
        if *shutdown.borrow() {
            session.close_afterwards();
        }
        let mut context = RequestContext::begin(request_metrics::begun(session.req_header()));
        let answered = self.gateway.answer(&mut session, &mut context).await;
        // What broke a body off was logged where it happened; a client that left is no error.
        if let Err(error) = &answered {
            fail(&mut session, error).await;
        }
        request_metrics::ended(&session, &context);
        if self.gateway.state.access_log {
            access_log::write(&self.gateway, &session, &context);
        }
        answered.ok()?;
        let stream = session.finish().await?;
        Some(ReusedHttpStream::new(stream, None))
    }

    fn h2_options(&self) -> Option<H2Options> {
        Some(self.h2_options.clone())
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.server_options)
    }
}

/// Says that the gateway failed where nothing was said yet and the client may hear it; else breaks the answer off.
async fn fail(session: &mut Session, error: &Error) {
    let left = matches!(
        error.etype(),
        ErrorType::WriteError | ErrorType::ConnectionClosed
    );
    if left || session.sent_head().is_some() {
        return session.break_off().await;
    }
    let options = RequestOptions::of(&session.req_header().method, &session.req_header().headers);
    let failed = ErrorResponse::new(ErrorCode::Unknown, "the gateway failed");
    let _ = respond::refusal(session, &options, &failed).await;
}
