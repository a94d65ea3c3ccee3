//! The gateway as pingora's HTTP server application: what happens to each request, whatever it asks for.

use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_core::{Error, ErrorType};

use super::context::RequestContext;
use super::refusal::Refusal;
use super::respond::{self, Wanted};
use super::session::Session;
use super::{Gateway, access_log, measure};
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
        let mut context = RequestContext::begin(measure::begun(session.req_header()));
        let answered = self.gateway.answer(&mut session, &mut context).await;
        // What broke a body off was logged where it happened; a client that left is no error.
        if let Err(error) = &answered {
            fail(&mut session, error).await;
        }
        measure::ended(&session, &context);
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
    if left || session.answered().is_some() {
        return session.break_off().await;
    }
    let wanted = Wanted::of(&session.req_header().method, &session.req_header().headers);
    let failed = Refusal::new(ErrorCode::Unknown, "the gateway failed");
    let _ = respond::refusal(session, &wanted, &failed).await;
}
