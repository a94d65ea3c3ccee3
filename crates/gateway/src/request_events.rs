//! The events of a request that has ended.

use std::time::SystemTime;

use http::{StatusCode, header};

use super::Gateway;
use super::content_event::ContentEvent;
use super::context::RequestContext;
use super::login_attempt::{LoginAttempt, user};
use super::session::{SentHead, Session};
use events::{Event, EventAction, EventRequest, EventTarget};
use oci::name::NameScope;

impl Gateway {
    /// Emits the events of a request.
    pub(super) fn emit_events(&self, session: &Session, context: &RequestContext) {
        let Some(events) = &self.state.events else {
            return;
        };
        let denied = session.sent_head().and_then(denied_by);
        let attempt = session.login_attempt.as_ref();
        let event = session.content_event.as_deref();
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
            emit(EventAction::Denied, user, target(context), denied);
        }
        if let (Some(event), Some(target)) = (event, target(context)) {
            for target in targets(event, &target) {
                emit(event.action, user, Some(target), None);
            }
        }
    }
}

/// Who denied a request; `None`: nobody.
fn denied_by(sent: SentHead) -> Option<&'static str> {
    let by = match sent.cache.forwarded() {
        None => "by the access rules",
        Some(_) => "by the registry",
    };
    (sent.status == StatusCode::FORBIDDEN).then_some(by)
}

fn request(session: &Session, user: Option<&str>) -> EventRequest {
    let header = session.req_header();
    let user_agent = header.headers.get(header::USER_AGENT).map(|agent| {
        let agent = String::from_utf8_lossy(agent.as_bytes());
        agent.chars().take(events::USER_AGENT).collect()
    });
    EventRequest {
        id: Some(session.request_id.to_string()),
        address: session.client_addr().map(|client| client.to_string()),
        user: user.map(str::to_owned),
        user_agent,
        method: header.method.as_str().to_owned(),
    }
}

/// The repository of a request, and the content that its path names.
fn target(context: &RequestContext) -> Option<EventTarget> {
    use oci::name::Reference::{Digest, Tag};
    use oci::v2::Resource::{Blob, Manifest};

    if let Some(target) = &context.target {
        let (tag, digest) = match &target.resource {
            Manifest(Tag(tag)) => (Some(tag.clone()), None),
            Manifest(Digest(digest)) | Blob(digest) => (None, Some(*digest)),
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

/// The content that changed: a manifest under several tags is one for each.
fn targets(content: &ContentEvent, target: &EventTarget) -> Vec<EventTarget> {
    let with_tag = |tag| EventTarget {
        tag,
        digest: content.digest.or(target.digest),
        from: content.from.clone(),
        ..target.clone()
    };
    if content.tags.is_empty() {
        return vec![with_tag(target.tag.clone())];
    }
    content
        .tags
        .iter()
        .cloned()
        .map(Some)
        .map(with_tag)
        .collect()
}
