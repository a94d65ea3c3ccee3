//! Authenticates v1 requests, and renders denials and challenges.

use std::time::SystemTime;

use http::header;

use super::super::Gateway;
use super::super::error_response::ErrorResponse;
use super::super::login::address;
use super::super::login_attempt::LoginAttempt;
use super::super::session::Session;
use access::{Action, Caller, Denied, Login, Permit, Refused};
use oci::authorization::{self, Authorization};
use oci::error::ErrorCode;
use oci::name::RepositoryName;

/// The repository that a token of the v1 API names: `signature=…,repository="<name>",access=read`.
fn repository_of(token: &str) -> Option<&str> {
    let (_, rest) = token.split_once("repository=")?;
    let rest = rest.trim_start_matches('"');
    let end = rest.find(['"', ',', ' ']).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

impl Gateway {
    pub(super) fn v1_has_accounts(&self) -> bool {
        let authenticator = self.state.authenticator.as_ref();
        authenticator.is_some_and(access::Authenticator::has_accounts)
    }

    /// The login of a request. On a listener that only reads, all clients are anonymous.
    ///
    /// # Errors
    /// 401 for a wrong or unreadable Authorization, 429 after too many failures.
    pub(super) async fn v1_login(&self, session: &mut Session) -> Result<Login, ErrorResponse> {
        if self.listener.read_only {
            return Ok(Login::ANONYMOUS);
        }
        let certificate = session.certificate().cloned();
        let Some(authenticator) = &self.state.authenticator else {
            return Ok(Login::ANONYMOUS.with_certificate(certificate.as_ref()));
        };
        let lines = session.req_header().headers.get_all(header::AUTHORIZATION);
        let lines: Vec<&[u8]> = lines.iter().map(http::HeaderValue::as_bytes).collect();
        let authorization = authorization::parse(&lines.join(&b", "[..]));
        let authorization = authorization.map_err(|malformed| {
            tracing::debug!(error = %malformed, "cannot parse an Authorization header");
            self.v1_unauthorized("the Authorization header cannot be read")
        })?;
        let login = authenticator.login(&authorization, address(session), SystemTime::now());
        let login = login.await;
        session.login_attempt = match (&login, &authorization) {
            (Ok(login), Authorization::Basic { .. }) => login.user().map(LoginAttempt::accepted),
            (Err(_), Authorization::Basic { user, .. }) => Some(LoginAttempt::refused(user)),
            _ => None,
        };
        let login = login.map(|login| login.with_certificate(certificate.as_ref()));
        login.map_err(|refused| match refused {
            Refused::Password => self.v1_unauthorized("the user or the password is wrong"),
            Refused::Token => self.v1_without_token("the token is invalid or expired"),
            Refused::SlowDown { retry_after } => {
                ErrorResponse::too_many_requests(refused.to_string(), retry_after)
            }
        })
    }

    /// The repository of a token issued by the gateway, which requests for images do not name otherwise. On a listener
    /// that only reads it gives no right, but tells which repository's image is meant.
    pub(super) async fn v1_token_repository(
        &self,
        session: &Session,
        login: &Login,
    ) -> Option<String> {
        if !self.listener.read_only {
            return login.repository().map(str::to_owned);
        }
        let authenticator = self.state.authenticator.as_ref()?;
        let line = session.req_header().headers.get(header::AUTHORIZATION)?;
        let token = authorization::parse(line.as_bytes()).ok()?;
        if !matches!(token, Authorization::Token(_)) {
            return None;
        }
        let login = authenticator.login(&token, address(session), SystemTime::now());
        Some(login.await.ok()?.repository()?.to_owned())
    }

    /// The repository that a foreign token names: no right, but what Docker with `--registry-mirror` requests. Only on
    /// listeners that only read.
    pub(super) fn v1_foreign_name(&self, session: &Session) -> Option<String> {
        let line = session.req_header().headers.get(header::AUTHORIZATION)?;
        let Ok(Authorization::Token(text)) = authorization::parse(line.as_bytes()) else {
            return None;
        };
        let name = repository_of(&text).filter(|_| self.listener.read_only);
        name.map(str::to_owned)
    }

    /// A permit for an action on a repository, decided before anything is looked up.
    ///
    /// # Errors
    /// The response to a caller that may not do it.
    pub(super) fn v1_decide(
        &self,
        caller: &Caller,
        action: Action,
        name: &RepositoryName,
    ) -> Result<Permit, ErrorResponse> {
        let decided = self.state.policy.decide(caller, action, name);
        decided.map_err(|denied| match denied {
            Denied::Anonymous if self.challenges() => {
                self.v1_unauthorized("you have to log in for that")
            }
            Denied::Scope if !self.listener.read_only => {
                self.v1_without_token("the token does not cover this request")
            }
            Denied::Anonymous | Denied::User | Denied::Scope => {
                ErrorResponse::new(ErrorCode::Denied, "you may not do that to this repository")
            }
        })
    }

    /// 401, the only status after which old Docker logs in.
    pub(super) fn v1_unauthorized(&self, message: &'static str) -> ErrorResponse {
        let authenticator = self.state.authenticator.as_ref();
        let authenticator = authenticator.filter(|authenticator| authenticator.has_accounts());
        ErrorResponse {
            challenge: authenticator.map(access::Authenticator::basic_challenge),
            ..ErrorResponse::new(ErrorCode::Unauthorized, message)
        }
    }

    /// 401, which asks for a token of a repository.
    pub(super) fn v1_without_token(&self, message: &'static str) -> ErrorResponse {
        let authenticator = self.state.authenticator.as_ref();
        ErrorResponse {
            challenge: authenticator.map(|_| "Token".to_owned()),
            ..ErrorResponse::new(ErrorCode::Unauthorized, message)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_of_tokens() {
        for (token, name) in [
            (
                "signature=X,repository=\"library/ubuntu\",access=read",
                Some("library/ubuntu"),
            ),
            (
                "signature=X, repository=\"team/app\", access=read",
                Some("team/app"),
            ),
            ("signature=X,repository=app,access=read", Some("app")),
            ("repository=\"app", Some("app")),
            ("signature=X,repository=\"\"", None),
            ("signature=X", None),
            ("", None),
        ] {
            assert_eq!(repository_of(token), name, "{token}");
        }
    }
}
