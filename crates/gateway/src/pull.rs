//! Cached reads: authorised, looked up, answered.

use http::{HeaderMap, header};

use super::cache_control::CacheControl;
use super::content_event::ContentEvent;
use super::error_response::ErrorResponse;
use super::login::scope_of;
use super::request_options::RequestOptions;
use super::session::Session;
use super::target::RequestTarget;
use super::{AppState, Failure, Gateway, respond};
use access::{Action, Denied, Login, Permit};
use events::Events;
use mirror::{ReadMethod, Requester};
use oci::byteranges::PART_TYPE;
use oci::client::Generation;
use oci::manifest::AcceptClass;
use oci::name::Reference;
use oci::v2::Resource;

impl Gateway {
    /// Authorises a cached read, looks it up and answers it.
    pub(super) async fn pull(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        target: &RequestTarget,
        login: &Login,
    ) -> Result<(), Failure> {
        let permit = &self.authorise(session, login, target, Action::Pull)?;
        let AppState { policy, mirror, .. } = &*self.state;
        let immutable = if policy.is_open(permit.registry()) {
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
                let client = requester(session, login);
                let answer = mirror.blob(permit, digest, client).await?;
                self.note_pull(session, || {
                    ContentEvent::pull(*digest, PART_TYPE, answer.size)
                });
                respond::blob(session, options, digest, answer, immutable).await?;
            }
            Resource::Manifest(reference) => {
                let class = accept_class(&session.req_header().headers);
                let method = if options.head {
                    ReadMethod::Head
                } else {
                    ReadMethod::Get
                };
                let answer = mirror.manifest(permit, reference, class, method).await?;
                self.note_pull(session, || {
                    ContentEvent::pull(answer.digest, &answer.media_type, Some(answer.size))
                });
                let cache_control = match reference {
                    Reference::Digest(_) => immutable,
                    Reference::Tag(_) => CacheControl::Private,
                };
                respond::manifest(session, options, answer, cache_control).await?;
            }
            resource => {
                let answer = Box::pin(mirror.list(permit, resource, &target.query)).await?;
                let external = self.external_url(session);
                respond::page(session, options, target, answer, &external).await?;
            }
        }
        Ok(())
    }

    /// Notes what is pulled, if a webhook wants to know.
    fn note_pull(&self, session: &mut Session, content: impl FnOnce() -> ContentEvent) {
        if self.state.events.as_ref().is_some_and(Events::wants_pulls) {
            session.content_event = Some(Box::new(content()));
        }
    }

    /// A permit for an action on a target.
    ///
    /// # Errors
    /// The response to a login that may not do it.
    pub(super) fn authorise(
        &self,
        session: &Session,
        login: &Login,
        target: &RequestTarget,
        action: Action,
    ) -> Result<Permit, ErrorResponse> {
        let (policy, name) = (&self.state.policy, &target.name);
        let decided = if policy.delegates_auth(&name.registry) && action == Action::Pull {
            let permit = policy.delegated_permit(&self.forwarded_authorization(session), name);
            permit.ok_or(Denied::User)
        } else {
            policy.decide(&login.caller(&target.client_name), action, name)
        };
        decided.map_err(|denied| self.denied(session, denied, &scope_of(target, action)))
    }
}

/// The client of a request, for operators.
pub fn requester<'a>(session: &Session, login: &'a Login) -> Requester<'a> {
    Requester::Client {
        address: session.client(),
        user: login.account_name(),
    }
}

/// Which manifests the client of a request reads.
pub fn accept_class(headers: &HeaderMap) -> AcceptClass {
    let agent = headers.get(header::USER_AGENT);
    let client = Generation::of(agent.and_then(|agent| agent.to_str().ok()).unwrap_or(""));
    let lines = headers.get_all(header::ACCEPT).iter();
    AcceptClass::of(lines.filter_map(|line| line.to_str().ok()), client)
}
