//! Who asks, and what they are told who may not.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use http::header;

use super::Gateway;
use super::error_response::ErrorResponse;
use super::session::Session;
use super::target::RequestTarget;
use access::{Action, Actions, Authenticator, ChallengeError, Denied, Login, Refused, Scopes};
use oci::authorization::{self, Authorization};
use oci::error::ErrorCode;

impl Gateway {
    /// Whoever checks logins on this listener; `None` where everybody is anonymous.
    pub(super) fn authenticator(&self) -> Option<&Authenticator> {
        let authenticator = self.state.authenticator.as_ref()?;
        (authenticator.has_accounts() && !self.listener.read_only).then_some(authenticator)
    }

    /// Who asks. `wanted` is what a challenge asks for.
    ///
    /// # Errors
    /// What to answer instead, whatever was asked for.
    pub(super) async fn login(
        &self,
        session: &Session,
        wanted: &Scopes,
    ) -> Result<Login, Box<ErrorResponse>> {
        let Some(authenticator) = self.authenticator() else {
            return Ok(Login::ANONYMOUS);
        };
        let Some(authorization) = authorization(session) else {
            let message = "the Authorization header is not one that is understood here";
            let challenge = self.challenge(session, wanted, None);
            return Err(Box::new(ErrorResponse::unauthorized(message, challenge)));
        };
        let login = authenticator.login(&authorization, address(session), SystemTime::now());
        login.await.map_err(|refused| {
            Box::new(match refused {
                Refused::Password => ErrorResponse::unauthorized(
                    "the user or the password is wrong",
                    self.challenge(session, wanted, None),
                ),
                Refused::Token => ErrorResponse::unauthorized(
                    "the token is invalid or expired",
                    self.challenge(session, wanted, Some(ChallengeError::InvalidToken)),
                ),
                Refused::SlowDown { retry_after } => too_many_failures(retry_after),
            })
        })
    }

    /// What a caller is told who may not do what `wanted` says.
    pub(super) fn denial(
        &self,
        session: &Session,
        denied: Denied,
        wanted: &Scopes,
    ) -> ErrorResponse {
        match denied {
            Denied::Anonymous if self.authenticator().is_some() => ErrorResponse::unauthorized(
                "log in to do that",
                self.challenge(session, wanted, None),
            ),
            Denied::Scope => ErrorResponse::unauthorized(
                "the token is not for that",
                self.challenge(session, wanted, Some(ChallengeError::InsufficientScope)),
            ),
            // Docker with containerd's store shows a denied push as this message alone.
            Denied::Anonymous | Denied::User => ErrorResponse::new(
                ErrorCode::Denied,
                "denied by the access rules: none of them lets you do that",
            ),
        }
    }

    /// Whether a ping has to be answered with a challenge: clients learn from it alone how to log in.
    pub(super) fn must_challenge_ping(&self, session: &Session) -> bool {
        self.authenticator().is_some()
            && matches!(authorization(session), Some(Authorization::Anonymous))
    }

    pub(super) fn challenge(
        &self,
        session: &Session,
        wanted: &Scopes,
        error: Option<ChallengeError>,
    ) -> String {
        let external = self.external_url(session);
        let service = external
            .split_once("://")
            .map_or("", |(_, service)| service);
        let realm = format!("{external}/token");
        self.authenticator()
            .map_or_else(String::new, |authenticator| {
                authenticator.challenge(&realm, service, wanted, error)
            })
    }
}

/// What a request about a repository needs a token for, as a challenge says it.
pub(super) fn scope_of(target: &RequestTarget, action: Action) -> Scopes {
    let actions: Actions = match action {
        // Clients push with one token, and look first.
        Action::Push => [Action::Pull, Action::Push].into_iter().collect(),
        action => action.into(),
    };
    Scopes::repository(&target.client_name, actions)
}

/// The request's login; `None` where it cannot be read.
fn authorization(session: &Session) -> Option<Authorization> {
    let headers = &session.req_header().headers;
    let mut lines = headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = lines.next() else {
        return Some(Authorization::Anonymous);
    };
    // Lines of one field are one list (RFC 9110 §5.3).
    let all = lines.fold(first.as_bytes().to_vec(), |mut all, line| {
        all.extend_from_slice(b", ");
        all.extend_from_slice(line.as_bytes());
        all
    });
    authorization::parse(&all).ok()
}

/// Where a connection comes from; whoever uses a Unix socket is this machine.
pub(super) fn address(session: &Session) -> IpAddr {
    session.client().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The refusal of one guess too many.
pub(super) fn too_many_failures(retry_after: Duration) -> ErrorResponse {
    ErrorResponse::too_many_failures("too many failed logins; try again later", retry_after)
}
