//! What becomes of a request: room for it, its route, who asks, and then the answer.

use http::{StatusCode, header};
use pingora_core::Result;

use super::context::RequestContext;
use super::error_response::ErrorResponse;
use super::host::host;
use super::login::scope_of;
use super::respond::{self, RequestOptions};
use super::route::{self, Route};
use super::session::Session;
use super::table::RequestParts;
use super::{Gateway, catalogue};
use access::{Action, Login, Scopes};
use oci::error::ErrorCode;

impl Gateway {
    /// Answers a request.
    ///
    /// # Errors
    /// When the connection is of no more use; an answer that has begun is not whole then.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
    ) -> Result<()> {
        if session.is_http2() {
            // An HTTP/2 receiver that stops stalls its stream, not the socket, which has a deadline already.
            session.set_write_timeout(self.state.idle_timeout);
        }
        let request = session.req_header();
        let mut options = RequestOptions::of(&request.method, &request.headers);
        match self.state.admission.request(session.client()) {
            Ok(admitted) => context.admitted = Some(admitted),
            Err(denial) => return respond::refuse(session, &options, &denial).await,
        }
        let route = match self.route(session) {
            Ok(Route::V1(route)) => return self.v1(session, route, &mut context.v1).await,
            Ok(Route::Token) => return self.token(session, &options).await,
            Ok(route) => route,
            Err(refusal) => return respond::refuse(session, &options, &refusal).await,
        };
        match self.log_in(session, &route).await {
            Ok(login) => context.login = login,
            Err(denial) => return respond::refuse(session, &options, &denial).await,
        }
        // The commonest request goes the shortest way.
        if let Route::Pull(target) = route {
            options.namespace.clone_from(&target.namespace);
            let target = context.target.insert(target);
            return self.pull(session, &options, target, &context.login).await;
        }
        self.dispatch(session, options, route, context).await
    }

    /// Where a request goes.
    fn route(&self, session: &Session) -> Result<Route, ErrorResponse> {
        let request = session.req_header();
        let host = host(request).map_err(|_| {
            ErrorResponse::with_status(
                StatusCode::BAD_REQUEST,
                ErrorCode::NameInvalid,
                "the Host header is missing or not valid",
            )
        })?;
        let agent = request.headers.get(header::USER_AGENT);
        let parts = RequestParts {
            method: &request.method,
            path: if request.raw_path_is_utf8() {
                request.uri.path()
            } else {
                "/%ff"
            },
            query: request.uri.query().unwrap_or_default(),
            host,
            agent: agent
                .and_then(|agent| agent.to_str().ok())
                .unwrap_or_default(),
        };
        route::route(&self.state.table, &self.listener, parts)
    }

    /// Who asks, where this gateway is who knows.
    async fn log_in(&self, session: &Session, route: &Route) -> Result<Login, Box<ErrorResponse>> {
        if self.authenticator().is_none() || self.delegates_auth(route) {
            return Ok(Login::ANONYMOUS);
        }
        let scope = match route {
            Route::Pull(target) => scope_of(target, Action::Pull),
            Route::PassThrough(pass) => scope_of(&pass.target, pass.action),
            Route::Catalogue(_) | Route::Search(_) => catalogue::scope(),
            Route::Ping { .. } | Route::Token | Route::V1(_) => Scopes::default(),
        };
        self.login(session, &scope).await
    }

    /// Answers what is the v2 API's, cached reads apart.
    async fn dispatch(
        &self,
        session: &mut Session,
        mut options: RequestOptions,
        route: Route,
        context: &mut RequestContext,
    ) -> Result<()> {
        let login = &context.login;
        match route {
            // Answered before.
            Route::Token | Route::V1(_) | Route::Pull(_) => {}
            Route::Ping {
                namespace,
                of: Some(registry),
            } => {
                options.namespace = namespace;
                self.ping_registry(session, &options, &registry).await?;
            }
            Route::Ping {
                namespace,
                of: None,
            } => {
                options.namespace = namespace;
                if self.must_challenge_ping(session) {
                    let challenge = self.challenge(session, &Scopes::default(), None);
                    let denial =
                        ErrorResponse::unauthorized("log in, or get a token for nobody", challenge);
                    respond::refuse(session, &options, &denial).await?;
                } else {
                    respond::ping(session, &options).await?;
                }
            }
            Route::Search(search) => {
                options.namespace.clone_from(&search.namespace);
                self.search(session, &options, &search, login).await?;
            }
            Route::Catalogue(listing) => {
                options.namespace.clone_from(&listing.namespace);
                self.catalogue(session, &options, &listing, login).await?;
            }
            Route::PassThrough(pass) => {
                options.namespace.clone_from(&pass.target.namespace);
                context.target = Some(pass.target.clone());
                self.pass(session, &options, *pass, login).await?;
            }
        }
        Ok(())
    }
}
