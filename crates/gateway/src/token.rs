//! `/token`: issues bearer tokens to clients of the v2 API
//! (distribution's docs/content/spec/auth/token.md and oauth.md).

use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use pingora_core::Result;
use tokio::time::{Instant, timeout_at};

use super::cache_control::CacheControl;
use super::error_response::ErrorResponse;
use super::login::{address, too_many_failures};
use super::login_attempt::LoginAttempt;
use super::request_options::RequestOptions;
use super::session::Session;
use super::{Failure, Gateway, respond, send};
use access::{Authenticator, Login, Refused, Scopes, token_answer};
use oci::cache_status::CacheStatus;
use oci::error::ErrorCode;

/// The size limit of a form, in bytes.
const MAX_FORM: usize = 64 << 10;

/// A token request, from a query or a form.
#[derive(Debug, Default, PartialEq, Eq)]
struct TokenRequest {
    scopes: Vec<String>,
    grant_type: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

/// The limit of fields in a request.
const MAX_FIELDS: usize = 32;

impl TokenRequest {
    /// Parses a query or form; `None` if it has more fields than any client sends.
    fn parse(text: &[u8]) -> Option<Self> {
        let mut request = Self::default();
        for (index, (key, value)) in url::form_urlencoded::parse(text).enumerate() {
            if index == MAX_FIELDS {
                return None;
            }
            match &*key {
                "scope" => request.scopes.push(value.into_owned()),
                "grant_type" => request.grant_type = Some(value.into_owned()),
                "username" => request.username = Some(value.into_owned()),
                "password" => request.password = Some(value.into_owned()),
                _ => {}
            }
        }
        Some(request)
    }
}

impl Gateway {
    /// Responds to a token request.
    pub(super) async fn token(
        &self,
        session: &mut Session,
        options: &RequestOptions,
    ) -> Result<(), Failure> {
        let Some(authenticator) = self.authenticator() else {
            let refused = ErrorResponse::new(
                ErrorCode::NameUnknown,
                "this listener issues no tokens: all its clients are anonymous",
            );
            return Ok(respond::error(session, options, &refused).await?);
        };
        let method = session.req_header().method.clone();
        let request = match method {
            Method::GET | Method::HEAD => {
                let query = session.req_header().uri.query().unwrap_or_default();
                TokenRequest::parse(query.as_bytes())
            }
            Method::POST => match self.read_form(session).await? {
                Form::Whole(form) => TokenRequest::parse(&form),
                Form::TooLong => {
                    return Ok(refuse(session, options, "the form is longer than 64 KiB").await?);
                }
                Form::TooLate => return Ok(too_late(session, options).await?),
            },
            _ => {
                let refused = ErrorResponse::unsupported("a token is requested with GET or POST");
                return Ok(respond::error(session, options, &refused).await?);
            }
        };
        let Some(request) = request else {
            return Ok(refuse(session, options, "a token request has at most 32 fields").await?);
        };
        let login = match request.grant_type.as_deref() {
            None => self.login(session, Scopes::default).await,
            Some("password") => {
                let user = request.username.as_deref().unwrap_or_default();
                let password = request.password.as_deref().unwrap_or_default();
                let login = authenticator.password(user, password.as_bytes(), address(session));
                let login = login.await;
                session.login_attempt = Some(match login {
                    Ok(_) => LoginAttempt::accepted(user),
                    Err(_) => LoginAttempt::refused(user),
                });
                login.map_err(denied)
            }
            // Refresh tokens are never issued: Docker would forget the password that v1 needs.
            Some(_) => {
                let message = "only grant_type=password is supported";
                return Ok(refuse(session, options, message).await?);
            }
        };
        let login = match login {
            Ok(login) => login,
            Err(mut denied) => {
                // A token is issued for a password alone.
                if denied.challenge.is_some() {
                    denied.challenge = Some(authenticator.basic_challenge());
                }
                return Err(denied.into());
            }
        };
        let scopes = Scopes::parse(request.scopes.iter().map(String::as_str));
        let issued = self.issue_token(session, options, authenticator, &login, &scopes);
        Ok(issued.await?)
    }

    /// Responds with a new token of a login.
    async fn issue_token(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        authenticator: &Authenticator,
        login: &Login,
        scopes: &Scopes,
    ) -> Result<()> {
        let now = SystemTime::now();
        let Some(token) = authenticator.token(login, scopes, now) else {
            return refuse(
                session,
                options,
                "a token cannot be exchanged for another token",
            )
            .await;
        };
        let granted = self.granted(session, login, scopes);
        let body = token_answer(&token, &granted, now);
        let mut response = respond::response(StatusCode::OK, options, CacheStatus::own("token"))?;
        response.set_json(CacheControl::NoStore)?;
        send::whole(session, response, body.into()).await
    }

    /// Reads the form of a login, within its limits of size and time.
    async fn read_form(&self, session: &mut Session) -> Result<Form> {
        let deadline = Instant::now() + self.state.form_timeout;
        let mut form = BytesMut::new();
        loop {
            let piece = session.read_body();
            match timeout_at(deadline, piece).await {
                Err(_) => return Ok(Form::TooLate),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) => return Ok(Form::Whole(form.freeze())),
                Ok(Ok(Some(piece))) if form.len() + piece.len() > MAX_FORM => {
                    return Ok(Form::TooLong);
                }
                Ok(Ok(Some(piece))) => form.extend_from_slice(&piece),
            }
        }
    }

    /// The scopes that the login may use now: reported to the client, not carried by the token.
    fn granted(&self, session: &Session, login: &Login, scopes: &Scopes) -> Scopes {
        let name_context = self.name_context(session, None);
        let resolve = |name: &str| {
            let resolved = self.state.table.resolver.resolve(name_context, name);
            Some(resolved.ok()?.1)
        };
        self.state.policy.granted(login, scopes, resolve)
    }
}

fn denied(refused: Refused) -> ErrorResponse {
    match refused {
        Refused::Password | Refused::Token => ErrorResponse::unauthorized(
            "the user or the password is wrong",
            // The caller sets the challenge.
            String::new(),
        ),
        Refused::SlowDown { retry_after } => too_many_failures(retry_after),
    }
}

async fn refuse(
    session: &mut Session,
    options: &RequestOptions,
    message: &'static str,
) -> Result<()> {
    let refused =
        ErrorResponse::with_status(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message);
    respond::refuse(session, options, &refused).await
}

/// The form of a login.
enum Form {
    Whole(Bytes),
    TooLong,
    TooLate,
}

/// Responds to a form that did not arrive in time, and closes the connection.
async fn too_late(session: &mut Session, options: &RequestOptions) -> Result<()> {
    session.close_afterwards();
    let refused = ErrorResponse::with_status(
        StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Unsupported,
        "the form did not arrive in time",
    );
    respond::error(session, options, &refused).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_requests_from_queries_and_forms() {
        let request = TokenRequest::parse(
            b"service=x&scope=repository%3Aa%2Fb%3Apull&scope=registry:catalog:*&account=me&offline_token=true",
        )
        .expect("few fields");
        let scopes = ["repository:a/b:pull", "registry:catalog:*"].map(str::to_owned);
        assert_eq!(request.scopes, scopes);
        assert_eq!(request.grant_type, None);
        let request = TokenRequest::parse(
            b"grant_type=password&username=me&password=a%26b+c&scope=repository:a:pull+repository:b:push",
        )
        .expect("few fields");
        assert_eq!(request.password.as_deref(), Some("a&b c"));
        assert_eq!(request.scopes, ["repository:a:pull repository:b:push"]);
        assert_eq!(
            TokenRequest::parse(b"%ff&&=&scope"),
            Some(TokenRequest {
                scopes: vec![String::new()],
                ..TokenRequest::default()
            })
        );
        let scopes = |n: usize| TokenRequest::parse("scope=a&".repeat(n).as_bytes());
        assert_eq!(scopes(32).map(|request| request.scopes.len()), Some(32));
        assert_eq!(scopes(33), None);
    }
}
