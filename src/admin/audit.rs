//! What operators do, for the audit log.

use std::time::SystemTime;

use http::{HeaderMap, Method};

use super::Admin;
use super::route::Peer;
use ::events::{Event, EventAction, EventRequest};

/// The request of an operator.
#[derive(Clone, Debug)]
pub(super) struct OperatorRequest(EventRequest);

impl OperatorRequest {
    /// A request without a login.
    pub fn new(method: &Method, headers: &HeaderMap, peer: Peer) -> Self {
        Self(EventRequest {
            id: None,
            address: peer.remote().map(|address| address.to_string()),
            host: None,
            user: None,
            user_agent: ::events::user_agent(headers),
            method: method.as_str().to_owned(),
        })
    }

    /// The request with the user that it claims.
    pub fn with_user(self, user: &str) -> Self {
        Self(EventRequest {
            user: Some(::events::claimed_user(user)),
            ..self.0
        })
    }
}

impl Admin {
    /// Records what an operator did, and to what.
    pub(super) fn audit(
        &self,
        request: OperatorRequest,
        action: EventAction,
        subject: Option<&str>,
    ) {
        if let Some(audit_log) = &self.audit_log {
            audit_log.emit(Event {
                time: SystemTime::now(),
                action,
                request: request.0,
                target: None,
                detail: subject.map(str::to_owned),
            });
        }
    }
}
