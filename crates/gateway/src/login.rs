//! Authenticates requests, and renders denials and challenges.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use http::header;

use super::Gateway;
use super::error_response::ErrorResponse;
use super::login_attempt::LoginAttempt;
use super::session::Session;
use super::target::RequestTarget;
use access::{
    Action, Actions, Authenticator, CertificateUser, ChallengeError, Denied, Login, LoginError,
    Refused, Scopes,
};
use oci::authorization::{self, Authorization};
use oci::error::ErrorCode;

impl Gateway {
    /// The authenticator of this listener; `None` if all its clients are anonymous.
    pub(super) fn authenticator(&self) -> Option<&Authenticator> {
        let authenticator = self.state.authenticator.as_ref()?;
        (authenticator.has_accounts() && !self.listener.read_only).then_some(authenticator)
    }

    /// The login of a request. `scopes` are those that a challenge asks for.
    ///
    /// # Errors
    /// 401 for a wrong or unreadable Authorization, 429 after too many failures.
    pub(super) async fn login(
        &self,
        session: &mut Session,
        scopes: impl FnOnce() -> Scopes,
    ) -> Result<Login, ErrorResponse> {
        let Some(authenticator) = self.authenticator() else {
            return Ok(Login::ANONYMOUS.with_certificate(self.certificate(session)));
        };
        let mut verified = session.verified_login.take();
        let (field, address) = (authorization_field(session), address(session));
        let now = SystemTime::now();
        let login = authenticator.login_by_header(field.as_deref(), &mut verified, address, now);
        let login = login.await;
        let attempt = match &login {
            Ok(_) => {
                let verified = verified.as_ref();
                let user = verified.and_then(|verified| verified.user_at(now));
                user.map(LoginAttempt::accepted)
            }
            Err(_) => field.as_deref().and_then(LoginAttempt::of_refused),
        };
        session.login_attempt = attempt;
        session.verified_login = verified;
        let login = login.map(|login| login.with_certificate(self.certificate(session)));
        login.map_err(|error| match error {
            LoginError::Unsupported => ErrorResponse::unauthorized(
                "unsupported Authorization scheme; use Basic or Bearer",
                self.challenge(session, &scopes(), None),
            ),
            LoginError::Refused(Refused::Password) => ErrorResponse::unauthorized(
                "the user or the password is wrong",
                self.challenge(session, &scopes(), None),
            ),
            LoginError::Refused(Refused::Token) => ErrorResponse::unauthorized(
                "the token is invalid or expired",
                self.challenge(session, &scopes(), Some(ChallengeError::InvalidToken)),
            ),
            LoginError::Refused(Refused::SlowDown { retry_after }) => {
                too_many_failures(retry_after)
            }
        })
    }

    /// The user of the client's certificate; `None` on a listener whose clients are all anonymous.
    pub(super) fn certificate<'a>(&self, session: &'a Session) -> Option<&'a CertificateUser> {
        session.certificate().filter(|_| !self.listener.read_only)
    }

    /// The response to a caller that may not do what needs `scopes`.
    pub(super) fn denied(
        &self,
        session: &Session,
        denied: Denied,
        scopes: &Scopes,
    ) -> ErrorResponse {
        match denied {
            Denied::Anonymous if self.challenges() => ErrorResponse::unauthorized(
                "log in to do that",
                self.challenge(session, scopes, None),
            ),
            Denied::Scope => ErrorResponse::unauthorized(
                "the token does not cover this request",
                self.challenge(session, scopes, Some(ChallengeError::InsufficientScope)),
            ),
            // Docker with containerd's store shows a denied push as this message alone.
            Denied::Anonymous | Denied::User => ErrorResponse::new(
                ErrorCode::Denied,
                "denied by the access rules: none of them lets you do that",
            ),
        }
    }

    /// Whether anonymous clients that are denied are asked to log in.
    pub(super) fn challenges(&self) -> bool {
        self.authenticator().is_some()
    }

    /// Whether to answer a ping with a challenge: clients learn only from it how to log in.
    pub(super) fn must_challenge_ping(&self, session: &Session) -> bool {
        // A client with a certificate has logged in already.
        self.authenticator().is_some()
            && self.certificate(session).is_none()
            && authorization_field(session).is_none_or(|field| {
                matches!(authorization::parse(&field), Ok(Authorization::Anonymous))
            })
    }

    /// The `WWW-Authenticate` of this listener; empty without an authenticator.
    pub(super) fn challenge(
        &self,
        session: &Session,
        scopes: &Scopes,
        error: Option<ChallengeError>,
    ) -> String {
        let external = self.external_url(session);
        let service = external
            .split_once("://")
            .map_or("", |(_, service)| service);
        let realm = format!("{external}/token");
        self.authenticator()
            .map_or_else(String::new, |authenticator| {
                authenticator.challenge(&realm, service, scopes, error)
            })
    }
}

/// The token scope that an action on a target needs.
pub(super) fn scope_of(target: &RequestTarget, action: Action) -> Scopes {
    let actions: Actions = match action {
        // Clients use one token to push, and pull with it first.
        Action::Push => [Action::Pull, Action::Push].into_iter().collect(),
        action => action.into(),
    };
    Scopes::repository(&target.client_name, actions)
}

/// The value of a request's Authorization. Lines of one field are one list (RFC 9110 §5.3).
fn authorization_field(session: &Session) -> Option<Cow<'_, [u8]>> {
    let headers = &session.req_header().headers;
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let first = Cow::Borrowed(lines.next()?.as_bytes());
    Some(lines.fold(first, |mut all, line| {
        all.to_mut().extend_from_slice(b", ");
        all.to_mut().extend_from_slice(line.as_bytes());
        all
    }))
}

/// The address that failed logins are counted by: the client's, or loopback for a Unix socket.
pub(super) fn address(session: &Session) -> IpAddr {
    session.client().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// 429: too many failed logins.
pub(super) fn too_many_failures(retry_after: Duration) -> ErrorResponse {
    ErrorResponse::too_many_requests("too many failed logins; try again later", retry_after)
}
