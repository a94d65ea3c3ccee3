//! Cached reads: decided, looked up, and answered.

use http::header;
use pingora_core::Result;
use pingora_http::RequestHeader;

use super::login::scope_of;
use super::respond::{self, CacheControl, RequestOptions};
use super::session::Session;
use super::target::RequestTarget;
use super::{AppState, Failure, Gateway};
use access::{Action, Denied, Login, Permit};
use mirror::ReadMethod;
use oci::client::Generation;
use oci::manifest::AcceptClass;
use oci::name::Reference;
use oci::v2::Resource;

impl Gateway {
    /// Decides, then looks.
    pub(super) async fn pull(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        target: &RequestTarget,
        login: &Login,
    ) -> Result<()> {
        let permit = match self.decide(session, login, target, Action::Pull) {
            Ok(permit) => permit,
            Err(denied) => {
                let denial = self.denial(session, denied, &scope_of(target, Action::Pull));
                return respond::refuse(session, options, &denial).await;
            }
        };
        match self.read(session, options, target, &permit).await {
            Ok(()) => Ok(()),
            Err(Failure::Mirror(error)) => self.failure(session, options, error).await,
            Err(Failure::Connection(error)) => Err(error),
        }
    }

    async fn read(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        target: &RequestTarget,
        permit: &Permit,
    ) -> Result<(), Failure> {
        let AppState { policy, mirror, .. } = &*self.state;
        let open = policy.is_open(permit.registry());
        let immutable = if open {
            CacheControl::PublicImmutable
        } else {
            CacheControl::Private
        };
        match &target.resource {
            Resource::Blob(digest) if options.head => {
                let answer = mirror.blob_head(permit, digest).await?;
                respond::blob_head(session, options, digest, answer, immutable).await?;
            }
            Resource::Blob(digest) => {
                let answer = mirror.blob(permit, digest).await?;
                respond::blob(session, options, digest, answer, immutable).await?;
            }
            Resource::Manifest(reference) => {
                let class = accept_class(session.req_header());
                let method = if options.head {
                    ReadMethod::Head
                } else {
                    ReadMethod::Get
                };
                let answer = mirror.manifest(permit, reference, class, method).await?;
                let by_digest = matches!(reference, Reference::Digest(_));
                let cache_control = if by_digest {
                    immutable
                } else {
                    CacheControl::Private
                };
                respond::manifest(session, options, answer, cache_control).await?;
            }
            resource => {
                let answer = mirror.list(permit, resource, &target.query).await?;
                let external = self.external_url(session);
                respond::page(session, options, target, answer, &external).await?;
            }
        }
        Ok(())
    }

    /// Whether a login may do this to a target.
    pub(super) fn decide(
        &self,
        session: &Session,
        login: &Login,
        target: &RequestTarget,
        action: Action,
    ) -> Result<Permit, Denied> {
        let (policy, name) = (&self.state.policy, &target.name);
        if policy.delegates_auth(&name.registry) && action == Action::Pull {
            let permit = policy.delegated_permit(&self.forwarded_authorization(session), name);
            return permit.ok_or(Denied::User);
        }
        policy.decide(&login.caller(&target.client_name), action, name)
    }
}

fn accept_class(request: &RequestHeader) -> AcceptClass {
    let agent = request.headers.get(header::USER_AGENT);
    let client = Generation::of(agent.and_then(|agent| agent.to_str().ok()).unwrap_or(""));
    let lines = request.headers.get_all(header::ACCEPT).iter();
    AcceptClass::of(lines.filter_map(|line| line.to_str().ok()), client)
}
