//! Answers requests: admits, routes and authenticates each, then dispatches it.

use super::context::RequestContext;
use super::error_response::ErrorResponse;
use super::login::scope_of;
use super::route::{Route, route};
use super::session::Session;
use super::table::RequestParts;
use super::{Failure, Gateway, catalogue, respond};
use access::{Action, Login, Scopes};

impl Gateway {
    /// Answers a request.
    ///
    /// # Errors
    /// [`Failure::Response`] and [`Failure::Mirror`] before any of the response was sent; with
    /// [`Failure::Connection`] a response that has begun is incomplete.
    pub(super) async fn answer(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
    ) -> Result<(), Failure> {
        if session.is_http2() {
            // An HTTP/2 client that stops reading stalls its stream, not the socket, which has a write timeout.
            session.set_write_timeout(self.state.idle_timeout);
        }
        context.admitted = Some(
            self.state
                .admission
                .request(session.client(), context.started)?,
        );
        let parts = RequestParts::of(session.req_header())?;
        let route = match route(&self.state.table, &self.listener, parts) {
            Ok(Route::V1(route)) => return Ok(Box::pin(self.v1(session, route, context)).await?),
            Ok(Route::Token) => return Box::pin(self.token(session, &context.options)).await,
            Ok(Route::Peer(digest)) => return Box::pin(self.peer(session, context, &digest)).await,
            Ok(route) => route,
            Err(refused) => {
                return Box::pin(self.unrouted(session, &context.options, refused)).await;
            }
        };
        context.login = self.log_in(session, &route).await?;
        // The most frequent request takes the shortest path.
        if let Route::Pull(target) = route {
            context.options.namespace.clone_from(&target.namespace);
            let target = context.target.insert(target);
            let (options, login) = (&context.options, &context.login);
            return self.pull(session, options, target, login).await;
        }
        Box::pin(self.dispatch(session, route, context)).await
    }

    /// The login of a request; anonymous if its registry authenticates its own callers.
    async fn log_in(&self, session: &mut Session, route: &Route) -> Result<Login, ErrorResponse> {
        let has_login = self.authenticator().is_some() || session.certificate().is_some();
        if !has_login || self.delegates_auth(route) {
            return Ok(Login::ANONYMOUS);
        }
        let scopes = || match route {
            Route::Pull(target) => scope_of(target, Action::Pull),
            Route::PassThrough(pass) => scope_of(&pass.target, pass.action),
            Route::Catalogue(_) | Route::Search(_) => catalogue::scope(),
            Route::Ping { .. } | Route::Token | Route::Peer(_) | Route::V1(_) => Scopes::default(),
        };
        self.login(session, scopes).await
    }

    /// Answers v2 requests other than cached reads.
    async fn dispatch(
        &self,
        session: &mut Session,
        route: Route,
        context: &mut RequestContext,
    ) -> Result<(), Failure> {
        let RequestContext {
            options,
            login,
            target,
            ..
        } = context;
        match route {
            // Answered before.
            Route::Token | Route::Peer(_) | Route::V1(_) | Route::Pull(_) => Ok(()),
            Route::Ping {
                namespace,
                delegated_to,
            } => {
                options.namespace = namespace;
                match delegated_to {
                    Some(registry) => self.ping_registry(session, &registry).await?,
                    None if self.must_challenge_ping(session) => {
                        let challenge = self.challenge(session, &Scopes::default(), None);
                        let message = "log in, or get an anonymous token";
                        return Err(ErrorResponse::unauthorized(message, challenge).into());
                    }
                    None => {}
                }
                Ok(respond::ping(session, options).await?)
            }
            Route::Search(search) => {
                options.namespace.clone_from(&search.namespace);
                self.search(session, options, &search, login).await
            }
            Route::Catalogue(query) => {
                options.namespace.clone_from(&query.namespace);
                self.catalogue(session, options, &query, login).await
            }
            Route::PassThrough(pass) => {
                options.namespace.clone_from(&pass.target.namespace);
                *target = Some(pass.target.clone());
                self.pass_through(session, options, *pass, login).await
            }
        }
    }
}
