//! The events of a request that has ended.

use std::borrow::Cow;
use std::time::SystemTime;

use http::{Method, StatusCode};

use super::Gateway;
use super::access_log::shown;
use super::content_event::ContentEvent;
use super::context::RequestContext;
use super::login_attempt::{LoginAttempt, user};
use super::serve::ResponseEnd;
use super::session::{SentHead, Session};
use super::target::RequestTarget;
use events::{Event, EventAction, EventRequest, EventTarget};
use oci::name::{NameScope, Reference};
use oci::v2::Resource;

impl Gateway {
    /// Emits the events of a request.
    pub(super) fn emit_events(
        &self,
        session: &Session,
        context: &RequestContext,
        end: ResponseEnd,
    ) {
        let Some(events) = &self.state.events else {
            return;
        };
        let rule = context.failure.as_ref().and_then(|reason| reason.gate_rule);
        let denied = session.sent_head().and_then(|sent| denied_by(sent, rule));
        let attempt = session.login_attempt.as_ref();
        let event = session.content_event.as_deref();
        let is_pull = || end == ResponseEnd::Complete && is_pull(session);
        let event = event.filter(|event| event.action != EventAction::Pull || is_pull());
        if attempt.is_none() && denied.is_none() && event.is_none() {
            return;
        }
        let time = SystemTime::now();
        let emit = |action, user: Option<&str>, target, detail: Option<&str>| {
            events.emit(Event {
                time,
                action,
                request: request(session, user),
                target,
                detail: detail.map(str::to_owned),
            });
        };
        match attempt {
            Some(LoginAttempt::Accepted { user }) => {
                emit(EventAction::Login, Some(user), None, None);
            }
            Some(LoginAttempt::Refused { user }) => {
                emit(EventAction::LoginFailed, Some(user), None, None);
            }
            None => {}
        }
        let user = user(session, &context.login);
        let user = user.as_deref();
        if denied.is_some() {
            emit(
                EventAction::Denied,
                user,
                target(context),
                denied.as_deref(),
            );
        }
        if let (Some(event), Some(mut target)) = (event, target(context)) {
            let named = context.target.as_ref();
            target.url = named.and_then(|named| self.content_url(session, named, event));
            for target in targets(event, &target) {
                emit(event.action, user, Some(target), None);
            }
        }
    }

    /// The URL of content at the gateway; `None` where it is deleted or not known.
    fn content_url(
        &self,
        session: &Session,
        target: &RequestTarget,
        content: &ContentEvent,
    ) -> Option<String> {
        let resource = match (&target.resource, content.digest) {
            _ if content.action == EventAction::Delete => return None,
            (Resource::Manifest(_), Some(digest)) => Resource::Manifest(Reference::Digest(digest)),
            (Resource::Manifest(reference), None) => Resource::Manifest(reference.clone()),
            (_, digest) => Resource::Blob(digest?),
        };
        let external = self.external_url(session);
        let path = resource.path_in(&target.client_name);
        (!external.is_empty()).then(|| format!("{external}{path}"))
    }
}

/// Whether the response has the whole content, and not only its fields.
fn is_pull(session: &Session) -> bool {
    let status = session.sent_head().map(|sent| sent.status);
    status == Some(StatusCode::OK) && session.req_header().method == Method::GET
}

/// Whether the access rules, a rule of the gate or the registry denied the request; `None` if none did.
fn denied_by(sent: SentHead, gate_rule: Option<&str>) -> Option<Cow<'static, str>> {
    if sent.status != StatusCode::FORBIDDEN {
        return None;
    }
    Some(match (gate_rule, sent.cache.forwarded()) {
        (Some(rule), _) => format!("by the gate rule {rule}").into(),
        (None, None) => "by the access rules".into(),
        (None, Some(_)) => "by the registry".into(),
    })
}

fn request(session: &Session, user: Option<&str>) -> EventRequest {
    let header = session.req_header();
    let host = super::host::host(header).ok().flatten();
    EventRequest {
        id: Some(session.request_id.to_string()),
        address: session.client_addr().map(shown),
        host: host.map(str::to_owned),
        user: user.map(str::to_owned),
        user_agent: events::user_agent(&header.headers),
        method: header.method.as_str().to_owned(),
    }
}

/// The repository of a request, and the content that its path names.
fn target(context: &RequestContext) -> Option<EventTarget> {
    if let Some(target) = &context.target {
        let (tag, digest) = match &target.resource {
            Resource::Manifest(Reference::Tag(tag)) => (Some(tag.clone()), None),
            Resource::Manifest(Reference::Digest(digest)) | Resource::Blob(digest) => {
                (None, Some(*digest))
            }
            _ => (None, None),
        };
        return Some(EventTarget {
            tag,
            digest,
            ..EventTarget::of(target.name.clone())
        });
    }
    let name = context.v1.as_ref().and_then(NameScope::repository)?;
    Some(EventTarget::of(name.clone()))
}

/// The content that was pulled or changed: a manifest under several tags is one for each.
fn targets(content: &ContentEvent, target: &EventTarget) -> Vec<EventTarget> {
    let with_tag = |tag| EventTarget {
        tag,
        digest: content.digest.or(target.digest),
        media_type: content.media_type.clone(),
        size: content.size,
        from: content.from.clone(),
        ..target.clone()
    };
    if content.tags.is_empty() {
        return vec![with_tag(target.tag.clone())];
    }
    let tags = content.tags.iter().cloned().map(Some);
    tags.map(with_tag).collect()
}
