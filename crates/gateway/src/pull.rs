//! Cached reads: authorised, looked up, answered.

use http::{HeaderMap, header};

use super::cache_control::CacheControl;
use super::content_event::ContentEvent;
use super::context::RequestContext;
use super::error_response::ErrorResponse;
use super::login::scope_of;
use super::request_options::RequestOptions;
use super::session::Session;
use super::target::RequestTarget;
use super::{AppState, Failure, Gateway, respond};
use access::{Action, Denied, Login, Permit};
use events::Events;
use mirror::{MirrorError, ReadMethod, Requester};
use oci::byteranges::PART_TYPE;
use oci::client::Generation;
use oci::error::ErrorCode;
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

    /// The failure of a read as its client gets it: a HEAD that may be one of a push gets a 404 for what the gate does not
    /// serve.
    pub(super) fn told(&self, context: &RequestContext, failure: Failure) -> Failure {
        match (&failure, &context.target) {
            (Failure::Mirror(MirrorError::Gate(_)), Some(target))
                if context.options.head && self.may_be_pusher(&context.login, target) =>
            {
                unknown(&target.resource).into()
            }
            _ => failure,
        }
    }

    /// Whether a HEAD may be one of a push, to learn what need not be uploaded: by a user who may push, or by a client that
    /// has not logged in yet. Pushers take any answer but 200 and 404 for a failure: what the gate does not serve is to
    /// be uploaded.
    fn may_be_pusher(&self, login: &Login, target: &RequestTarget) -> bool {
        let name = &target.name;
        let mut entries = self.state.table.resolver.entries.iter();
        let takes_pushes = entries.any(|entry| entry.registry == name.registry && entry.push);
        let caller = login.caller(&target.client_name);
        let may_push = || {
            self.state
                .policy
                .decide(&caller, Action::Push, name)
                .is_ok()
        };
        takes_pushes && !self.listener.read_only && (login.user().is_none() || may_push())
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

/// The answer to a HEAD of what the gate does not serve.
fn unknown(resource: &Resource) -> ErrorResponse {
    let code = match resource {
        Resource::Blob(_) => ErrorCode::BlobUnknown,
        _ => ErrorCode::ManifestUnknown,
    };
    ErrorResponse::new(code, "the gate does not serve this")
}

/// Which manifests the client of a request reads.
pub fn accept_class(headers: &HeaderMap) -> AcceptClass {
    let agent = headers.get(header::USER_AGENT);
    let client = Generation::of(agent.and_then(|agent| agent.to_str().ok()).unwrap_or(""));
    let lines = headers.get_all(header::ACCEPT).iter();
    AcceptClass::of(lines.filter_map(|line| line.to_str().ok()), client)
}
