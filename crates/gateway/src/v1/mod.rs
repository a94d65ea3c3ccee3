//! The v1 API, for old Docker and for search: pings and logins are answered here, everything else passes
//! through to the registry, once its rights are clear.
//!
//! Requests for images name no repository, so where there are rules the right to one hangs on a token of
//! ours, which answers about the repository carry (`X-Docker-Token`), and the ping says that this is no
//! standalone registry, which is what makes clients send it. An image that is not linked to the token's
//! repository is 404, whether there is one or not.

mod bridge;
mod bridge_layer;
mod layer;
mod login;
mod mirrored;
mod pass_through;
mod respond;
mod route;
mod search;

use pingora_core::Result;

pub use route::{V1Route, instead_of_v2, route};

use super::error_response::ErrorResponse;
use super::session::Session;
use super::{Failure, Gateway, request_body};
use ::v1::Claim;
use access::{Action, Permit};
use mirror::MirrorError;
use oci::name::{Registry, Repository};
use route::{ImageRequest, RepositoryRequest};

/// What of a request goes to the log.
#[derive(Debug, Default)]
pub struct Seen {
    pub user: Option<String>,
    pub registry: Option<Registry>,
    pub repository: Option<Repository>,
}

/// Why a v1 request has no answer yet.
enum Failed {
    Refused(ErrorResponse),
    Mirror(MirrorError),
    /// The connection is of no more use.
    Connection(Box<pingora_core::Error>),
}

impl From<ErrorResponse> for Failed {
    fn from(refusal: ErrorResponse) -> Self {
        Self::Refused(refusal)
    }
}

impl From<MirrorError> for Failed {
    fn from(error: MirrorError) -> Self {
        Self::Mirror(error)
    }
}

impl From<Box<pingora_core::Error>> for Failed {
    fn from(error: Box<pingora_core::Error>) -> Self {
        Self::Connection(error)
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Mirror(error) => Self::Mirror(error),
            Failure::Connection(error) => Self::Connection(error),
        }
    }
}

impl Gateway {
    /// Answers a v1 request.
    pub(super) async fn v1(
        &self,
        session: &mut Session,
        route: V1Route,
        seen: &mut Seen,
    ) -> Result<()> {
        let head = session.req_header().method == http::Method::HEAD;
        let failed = match self.v1_answer(session, head, route, seen).await {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        match failed {
            Failed::Connection(error) => return Err(error),
            Failed::Mirror(error) => respond::failure(session, head, &error).await?,
            Failed::Refused(refusal) => {
                // A short body is read first, so that the connection can go on.
                request_body::read_short_body(session).await;
                respond::refusal(session, head, &refusal).await?;
            }
        }
        request_body::drain(session).await;
        Ok(())
    }

    async fn v1_answer(
        &self,
        session: &mut Session,
        head: bool,
        route: V1Route,
        seen: &mut Seen,
    ) -> Result<(), Failed> {
        match route {
            V1Route::Refused(refusal) => Err(refusal.into()),
            V1Route::Ping => {
                let standalone = self.state.authenticator.is_none();
                Ok(respond::ping(session, head, standalone).await?)
            }
            V1Route::Users => self.v1_users(session, head, seen).await,
            V1Route::Named(named) => self.v1_named(session, &named, seen).await,
            V1Route::Image(image) => self.v1_image(session, image, seen).await,
        }
    }

    /// A login: accounts are made by the operator, never by a client, so that creating one is refused in the
    /// way after which clients try to log in.
    async fn v1_users(
        &self,
        session: &mut Session,
        head: bool,
        seen: &mut Seen,
    ) -> Result<(), Failed> {
        let creates = session.req_header().method == http::Method::POST;
        let login = self.v1_login(session).await?;
        seen.user = login.user().map(str::to_owned);
        let must = self.v1_has_accounts() && !self.listener.read_only;
        if creates || (must && login.user().is_none()) {
            return Err(self
                .v1_unauthorized("log in with your user and password")
                .into());
        }
        Ok(respond::welcome(session, head).await?)
    }

    async fn v1_named(
        &self,
        session: &mut Session,
        named: &RepositoryRequest,
        seen: &mut Seen,
    ) -> Result<(), Failed> {
        seen.registry = Some(named.name.registry.clone());
        seen.repository = Some(named.name.repository.clone());
        let login = self.v1_login(session).await?;
        seen.user = login.user().map(str::to_owned);
        let caller = login.caller(&named.client_name);
        let permit = self.v1_decide(&caller, named.action, &named.name)?;
        self.v1_either(session, named, &login, &permit).await
    }

    async fn v1_image(
        &self,
        session: &mut Session,
        image: ImageRequest,
        seen: &mut Seen,
    ) -> Result<(), Failed> {
        let login = self.v1_login(session).await?;
        seen.user = login.user().map(str::to_owned);
        let Some(name) = self.v1_token_repository(session, &login).await else {
            if self.v1_bridged_by_id(session, &image).await? {
                return Ok(());
            }
            let open = image.registry.as_ref();
            let open = open.and_then(|registry| self.state.policy.open(registry));
            let foreign = self.v1_foreign_name(session);
            if let (None, Some(name)) = (&open, &foreign) {
                let permit = self.v1_permit(session, &login, name, image.action)?;
                seen.registry = Some(permit.registry().clone());
                seen.repository = Some(permit.repository().clone());
                let claim = Claim::Repository(&permit);
                return self.v1_pass_image(session, &image, claim).await;
            }
            let open = open.ok_or_else(|| {
                self.v1_without_token("an image is asked for with the token of its repository")
            })?;
            seen.registry = Some(open.registry().clone());
            if let Some(name) = foreign {
                let name_context = self.name_context(session, None);
                if let Ok((_, name)) =
                    route::resolve(&self.state.table.resolver, name_context, &name)
                    && name.registry == *open.registry()
                {
                    let v1 = &self.state.v1;
                    v1.v1_hint_repository(&name.registry, &image.id, &name.repository);
                }
            }
            let claim = Claim::OpenRegistry(&open);
            return self.v1_pass_image(session, &image, claim).await;
        };
        let permit = self.v1_permit(session, &login, &name, image.action)?;
        seen.registry = Some(permit.registry().clone());
        seen.repository = Some(permit.repository().clone());
        if self.v1_bridged(session, &image, &permit).await? {
            return Ok(());
        }
        let claim = Claim::Repository(&permit);
        self.v1_pass_image(session, &image, claim).await
    }

    /// What a token is good for at this moment.
    fn v1_permit(
        &self,
        session: &Session,
        login: &access::Login,
        client_name: &str,
        action: Action,
    ) -> Result<Permit, Failed> {
        let name_context = self.name_context(session, None);
        let (entry, name) = route::resolve(&self.state.table.resolver, name_context, client_name)?;
        if action != Action::Pull && !entry.push {
            return Err(route::no_pushes(&entry.registry).into());
        }
        Ok(self.v1_decide(&login.caller(client_name), action, &name)?)
    }
}
