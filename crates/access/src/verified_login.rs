//! Caches a connection's last verified login: a client sends its `Authorization` with every request, and verifying it each
//! time costs half as much as all the rest of a small answer.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oci::authorization;
use subtle::ConstantTimeEq as _;

use super::authenticator::Authenticator;
use super::htpasswd::Htpasswd;
use super::login::{Login, Refused};

/// How long a login counts before it is verified anew.
const MAX_AGE: Duration = Duration::from_secs(60);

/// The last login that was verified on a connection. It counts for a minute at most, and no longer than its token and
/// the accounts that it was verified against.
pub struct VerifiedLogin {
    authorization: Vec<u8>,
    login: Login,
    accounts: Arc<Htpasswd>,
    since: SystemTime,
    until: SystemTime,
}

/// Why a request's `Authorization` gives no login.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    /// It is malformed, or of another scheme than Basic, Bearer and Token.
    #[error("unsupported Authorization scheme; use Basic or Bearer")]
    Unsupported,
    /// It was verified, and is refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl fmt::Debug for VerifiedLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The header's value is a secret.
        let mut text = f.debug_struct("VerifiedLogin");
        text.field("login", &self.login)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl VerifiedLogin {
    /// The user whose password was verified at a time; `None` if that was another time, or for a token.
    pub fn user_at(&self, time: SystemTime) -> Option<&str> {
        let by_password = self.since == time && self.login.expires.is_none();
        self.login.user().filter(|_| by_password)
    }

    fn matches(&self, authorization: &[u8], accounts: &Arc<Htpasswd>, now: SystemTime) -> bool {
        // In constant time: a proxy may send the requests of several clients on one connection.
        now < self.until
            && Arc::ptr_eq(&self.accounts, accounts)
            && self.authorization.ct_eq(authorization).into()
    }
}

impl Authenticator {
    /// Authenticates a request by the value of its `Authorization`, as [`Authenticator::login`] does; `None` is an
    /// anonymous client. `verified` belongs to the connection.
    ///
    /// # Errors
    /// [`LoginError`], with the cause. `verified` stays as it was.
    pub async fn login_by_header(
        &self,
        field: Option<&[u8]>,
        verified: &mut Option<VerifiedLogin>,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<Login, LoginError> {
        let Some(field) = field else {
            return Ok(Login::ANONYMOUS);
        };
        let accounts = self.accounts().await;
        if let (Some(verified), Some(accounts)) = (&*verified, &accounts)
            && verified.matches(field, accounts, now)
        {
            return Ok(verified.login.clone());
        }
        let authorization = authorization::parse(field).map_err(|_| LoginError::Unsupported)?;
        let login = self.login(&authorization, address, now).await?;
        *verified = accounts.map(|accounts| VerifiedLogin {
            authorization: field.to_vec(),
            since: now,
            until: login
                .expires
                .map_or(now + MAX_AGE, |expires| expires.min(now + MAX_AGE)),
            login: login.clone(),
            accounts,
        });
        Ok(login)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::Scopes;
    use super::super::authenticator::{Scheme, Settings};
    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    /// alice:password
    const ALICE: &[u8] = b"Basic YWxpY2U6cGFzc3dvcmQ=";

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn authenticator(dir: &std::path::Path) -> Authenticator {
        let htpasswd = dir.join("htpasswd");
        let line = "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";
        std::fs::write(&htpasswd, line).expect("writable");
        let settings = Settings {
            htpasswd: Some(htpasswd),
            realm: "Roadstead".to_owned(),
            scheme: Scheme::Bearer,
            token_key: None,
            keys: dir.join("keys"),
        };
        Authenticator::open(&settings).expect("valid settings")
    }

    #[tokio::test]
    async fn login_is_found_again_until_its_minute_ends() {
        let dir = tempfile::tempdir().expect("a folder");
        let gate = authenticator(dir.path());
        let mut verified = None;
        for (seconds, until) in [(0, 60), (59, 60), (60, 120), (119, 120)] {
            let login = gate.login_by_header(Some(ALICE), &mut verified, HERE, at(seconds));
            assert_eq!(login.await.expect("right").user(), Some("alice"));
            let known = verified.as_ref().expect("a verified login");
            assert_eq!(known.until, at(until), "{seconds}");
            let user = (seconds % 60 == 0).then_some("alice");
            assert_eq!(known.user_at(at(seconds)), user, "{seconds}");
        }
    }

    #[tokio::test]
    async fn token_is_not_found_after_its_end() {
        let dir = tempfile::tempdir().expect("a folder");
        let gate = authenticator(dir.path());
        let mut verified = None;
        let login = gate.login_by_header(Some(ALICE), &mut verified, HERE, at(0));
        let login = login.await.expect("right");
        let wanted = Scopes::parse(["repository:team/app:pull"]);
        let token = gate.token(&login, &wanted, at(0)).expect("a token");
        let field = format!("Bearer {token}");
        for (seconds, valid) in [(290, true), (299, true), (300, false)] {
            let now = at(seconds);
            let login = gate.login_by_header(Some(field.as_bytes()), &mut verified, HERE, now);
            assert_eq!(login.await.is_ok(), valid, "{seconds}");
            let known = verified.as_ref().expect("a verified login");
            assert_eq!(known.user_at(now), None, "a token is no password");
        }
    }

    #[tokio::test]
    async fn only_the_same_field_finds_a_login() {
        let dir = tempfile::tempdir().expect("a folder");
        let gate = authenticator(dir.path());
        let mut verified = None;
        let first = gate.login_by_header(Some(ALICE), &mut verified, HERE, at(0));
        assert!(first.await.is_ok());
        // alice:wrong
        let wrong: &[u8] = b"Basic YWxpY2U6d3Jvbmc=";
        let second = gate.login_by_header(Some(wrong), &mut verified, HERE, at(1));
        assert_eq!(
            second.await.err(),
            Some(LoginError::Refused(Refused::Password))
        );
        let third = gate.login_by_header(Some(b"Digest x"), &mut verified, HERE, at(1));
        assert_eq!(third.await.err(), Some(LoginError::Unsupported));
        let anonymous = gate.login_by_header(None, &mut verified, HERE, at(1));
        assert_eq!(anonymous.await.expect("anonymous").user(), None);
    }

    #[tokio::test]
    async fn other_accounts_find_no_login() {
        let dir = tempfile::tempdir().expect("a folder");
        let gate = authenticator(dir.path());
        let mut verified = None;
        let login = gate.login_by_header(Some(ALICE), &mut verified, HERE, at(0));
        assert!(login.await.is_ok());
        let verified = verified.expect("a verified login");
        let read_again = authenticator(dir.path())
            .accounts()
            .await
            .expect("accounts");
        assert!(verified.matches(ALICE, &verified.accounts, at(1)));
        assert!(!verified.matches(ALICE, &read_again, at(1)));
    }
}
