//! The v1 API, for old Docker and for search: pings and logins are answered by the gateway, other requests are
//! authorised and forwarded to the registry.
//!
//! Requests for images name no repository. Where there are rules, the right to an image depends on a token of the
//! gateway, which responses about its repository carry (`X-Docker-Token`); the ping reports no standalone registry,
//! which makes clients send the token. An image that is not linked to the token's repository is 404, whether it
//! exists or not.

mod bridge;
mod bridge_layer;
mod explain;
mod forwarded_headers;
mod layer;
mod layer_range;
mod login;
mod mirrored;
mod pass_through;
mod respond;
mod route;
mod search;

use pingora_core::Result;

pub use explain::{explained, routed};
pub use route::{V1Route, instead_of_v2, route};

use super::context::RequestContext;
use super::serve::note_failure;
use super::session::Session;
use super::{Failure, Gateway, request_body};
use ::v1::Claim;
use access::{Action, Login, Permit};
use respond::ClientLogins;
use route::{ImageRequest, RepositoryRequest};

/// A request about a repository, and the permit that its login has for it.
#[derive(Clone, Copy, Debug)]
struct PermittedRequest<'a> {
    named: &'a RepositoryRequest,
    login: &'a Login,
    permit: &'a Permit,
}

impl Gateway {
    /// Answers a v1 request.
    ///
    /// # Errors
    /// The connection cannot be used any more.
    pub(super) async fn v1(
        &self,
        session: &mut Session,
        route: V1Route,
        context: &mut RequestContext,
    ) -> Result<()> {
        let Err(failure) = self.v1_answer(session, route, context).await else {
            return Ok(());
        };
        note_failure(session, context, &failure);
        match failure {
            Failure::Connection(error) => return Err(error),
            Failure::Mirror(error) => respond::mirror_error(session, &error).await?,
            Failure::Response(error) => {
                // A short body is read first, so that the connection can be reused.
                request_body::read_short_body(session).await;
                respond::error(session, &error).await?;
            }
        }
        request_body::drain(session).await;
        Ok(())
    }

    async fn v1_answer(
        &self,
        session: &mut Session,
        route: V1Route,
        context: &mut RequestContext,
    ) -> Result<(), Failure> {
        match route {
            V1Route::Refused(refusal) => Err(refusal.into()),
            V1Route::Ping => {
                let logins = match self.state.authenticator {
                    None => ClientLogins::None,
                    Some(_) => ClientLogins::Accepted,
                };
                Ok(respond::ping(session, logins).await?)
            }
            V1Route::Users => self.v1_users(session, context).await,
            V1Route::Named(named) => self.v1_named(session, &named, context).await,
            V1Route::Image(image) => self.v1_image(session, image, context).await,
        }
    }

    /// Answers a login. Accounts are created by the operator only: creating one is refused with a 401, after which
    /// clients try to log in.
    async fn v1_users(
        &self,
        session: &mut Session,
        context: &mut RequestContext,
    ) -> Result<(), Failure> {
        let creates = session.req_header().method == http::Method::POST;
        let login = &self.v1_login(session).await?;
        context.login = login.clone();
        let must = self.v1_has_accounts() && !self.listener.read_only;
        if creates || (must && login.user().is_none()) {
            return Err(self
                .v1_unauthorized("log in with your user and password")
                .into());
        }
        Ok(respond::logged_in(session).await?)
    }

    async fn v1_named(
        &self,
        session: &mut Session,
        named: &RepositoryRequest,
        context: &mut RequestContext,
    ) -> Result<(), Failure> {
        context.v1 = Some((&named.name).into());
        let login = &self.v1_login(session).await?;
        context.login = login.clone();
        let caller = login.caller(&named.client_name);
        let permit = self.v1_decide(&caller, named.action, &named.name)?;
        let request = PermittedRequest {
            named,
            login,
            permit: &permit,
        };
        self.v1_respond_named(session, request).await
    }

    async fn v1_image(
        &self,
        session: &mut Session,
        image: ImageRequest,
        context: &mut RequestContext,
    ) -> Result<(), Failure> {
        let login = &self.v1_login(session).await?;
        context.login = login.clone();
        let Some(name) = self.v1_token_repository(session, login).await else {
            if self.v1_bridged_by_id(session, &image).await? {
                return Ok(());
            }
            let open = image.registry.as_ref();
            let open = open.and_then(|registry| self.state.policy.open(registry));
            let foreign = self.v1_foreign_name(session);
            if let (None, Some(name)) = (&open, &foreign) {
                let permit = self.v1_permit(session, login, name, image.action)?;
                context.v1 = Some(permit.name().into());
                let claim = Claim::Repository(&permit);
                return self.v1_pass_image(session, &image, claim, login).await;
            }
            let open = open.ok_or_else(|| {
                self.v1_without_token("an image is asked for with the token of its repository")
            })?;
            context.v1 = Some(open.registry().into());
            if let Some(name) = foreign {
                let name_context = self.name_context(session, None);
                if let Ok((_, name)) =
                    route::resolve(&self.state.table.resolver, name_context, &name)
                    && name.registry == *open.registry()
                {
                    let v1 = &self.state.v1;
                    v1.v1_hint_repository(&name, &image.id);
                }
            }
            let claim = Claim::OpenRegistry(&open);
            return self.v1_pass_image(session, &image, claim, login).await;
        };
        let permit = self.v1_permit(session, login, &name, image.action)?;
        context.v1 = Some(permit.name().into());
        if self.v1_bridged(session, &image, &permit).await? {
            return Ok(());
        }
        let claim = Claim::Repository(&permit);
        self.v1_pass_image(session, &image, claim, login).await
    }

    /// A permit for an action on the repository that a token names, by the rules of now.
    fn v1_permit(
        &self,
        session: &Session,
        login: &access::Login,
        client_name: &str,
        action: Action,
    ) -> Result<Permit, Failure> {
        let name_context = self.name_context(session, None);
        let (entry, name) = route::resolve(&self.state.table.resolver, name_context, client_name)?;
        if action != Action::Pull && !entry.push {
            return Err(route::no_pushes(&entry.registry).into());
        }
        Ok(self.v1_decide(&login.caller(client_name), action, &name)?)
    }
}
