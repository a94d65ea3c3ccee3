//! Authentication: verifies `Authorization` headers, issues tokens, writes challenges.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::accounts::{Accounts, AccountsError};
use super::htpasswd::Htpasswd;
use super::login::{Login, Refused};
use super::scope::Scopes;
use super::token::{Token, TokenKey, TokenKind, docker_token_value, token_in_docker_value};
use super::{Action, Actions, disk};
use oci::authorization::Authorization;

/// The settings of authentication.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `None`: there are no accounts, and every client is anonymous.
    pub htpasswd: Option<PathBuf>,
    /// The realm of Basic challenges: printable ASCII without quotes.
    pub realm: String,
    /// What v2 clients are challenged with. Both schemes are accepted.
    pub scheme: Scheme,
    /// `None`: read from `keys`, or created there.
    pub token_key: Option<TokenKey>,
    /// The folder of keys.
    pub keys: PathBuf,
}

/// The scheme that `/v2` challenges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// A token from `/token`.
    Bearer,
    /// User and password with every request.
    Basic,
}

/// Why authentication cannot be set up. Every cause is the operator's to fix.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The htpasswd file cannot be read.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// The token key can be neither read nor created.
    #[error("cannot read or create the token key in {}: {source}", folder.display())]
    Key {
        /// The folder of keys.
        folder: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// The `access` of an `X-Docker-Token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DockerTokenAccess {
    /// `read`
    Read,
    /// Includes reading: a push checks which images exist.
    Write,
    /// `delete`
    Delete,
}

impl DockerTokenAccess {
    /// The parameter's value: `read`, `write` or `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }

    fn actions(self) -> Actions {
        match self {
            Self::Read => Action::Pull.into(),
            Self::Write => [Action::Pull, Action::Push].into_iter().collect(),
            Self::Delete => Action::Delete.into(),
        }
    }
}

/// Why a client with a token is challenged again (RFC 6750 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeError {
    /// `invalid_token`: forged, expired, or of an account that has changed since.
    InvalidToken,
    /// `insufficient_scope`: its scopes do not cover the request.
    InsufficientScope,
}

/// Verifies logins and issues tokens.
#[derive(Debug)]
pub struct Authenticator {
    accounts: Option<Arc<Accounts>>,
    key: TokenKey,
    realm: String,
    scheme: Scheme,
}

impl Authenticator {
    /// Reads the accounts and the token key, which is created where there is none. Without accounts no key is
    /// needed, and none is created.
    ///
    /// # Errors
    /// [`OpenError::Accounts`] for an unusable htpasswd file, [`OpenError::Key`] for an unusable folder of keys.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        Self::reopen(settings, None)
    }

    /// As [`Authenticator::open`], in place of another one: if the file of the accounts is the same, what was learnt of its
    /// passwords and of failed logins remains. A changed file is read at once. Blocks on the disk.
    ///
    /// # Errors
    /// As [`Authenticator::open`].
    pub fn reopen(settings: &Settings, before: Option<&Self>) -> Result<Self, OpenError> {
        let key_error = |source| OpenError::Key {
            folder: settings.keys.clone(),
            source,
        };
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| key_error(std::io::Error::other(error)))?;
        let (accounts, key) = match &settings.htpasswd {
            None => (None, TokenKey::new(&random)),
            Some(path) => {
                let accounts = reopen_accounts(path, before, random)?;
                let key = match &settings.token_key {
                    Some(key) => key.clone(),
                    None => TokenKey::new(&disk::token_key(&settings.keys).map_err(key_error)?),
                };
                (Some(accounts), key)
            }
        };
        Ok(Self {
            accounts,
            key,
            realm: settings.realm.clone(),
            scheme: settings.scheme,
        })
    }

    /// Reads the accounts of operators, who only log in by password: no token is issued or accepted. `before` is as in
    /// [`Authenticator::reopen`].
    ///
    /// # Errors
    /// [`OpenError::Accounts`] for an unusable htpasswd file.
    pub fn of_operators(htpasswd: &Path, before: Option<&Self>) -> Result<Self, OpenError> {
        let random = || {
            let mut bytes = [0; 32];
            let filled = getrandom::fill(&mut bytes);
            let failed = |error| AccountsError::Read {
                path: htpasswd.to_owned(),
                source: std::io::Error::other(error),
            };
            filled.map(|()| bytes).map_err(failed)
        };
        Ok(Self {
            accounts: Some(reopen_accounts(htpasswd, before, random()?)?),
            // It is never used, and nobody knows it.
            key: TokenKey::new(&random()?),
            realm: "Roadstead operators".to_owned(),
            scheme: Scheme::Basic,
        })
    }

    /// The accounts of the file, at most a second old; `None` without a file.
    pub(super) async fn accounts(&self) -> Option<Arc<Htpasswd>> {
        Some(self.accounts.as_ref()?.current().await)
    }

    /// Whether there is an account of this name; false without accounts.
    pub async fn has_account(&self, user: &str) -> bool {
        let accounts = self.accounts().await;
        accounts.is_some_and(|accounts| accounts.account(user).is_some())
    }

    /// Whether there are accounts, so that a challenge makes sense.
    pub fn has_accounts(&self) -> bool {
        self.accounts.is_some()
    }

    /// Authenticates a request. `address` is the connection's. Without accounts every client is anonymous, whatever it
    /// sends: some clients send the credentials that they saved for this host.
    ///
    /// # Errors
    /// [`Refused`], with the cause.
    pub async fn login(
        &self,
        authorization: &Authorization,
        address: IpAddr,
        now: SystemTime,
    ) -> Result<Login, Refused> {
        let Some(accounts) = &self.accounts else {
            return Ok(self.anonymous(authorization, now));
        };
        let (kind, text) = match authorization {
            Authorization::Anonymous => return Ok(Login::ANONYMOUS),
            Authorization::Basic { user, password } => {
                return self.password(user, password, address).await;
            }
            Authorization::Bearer(text) => (TokenKind::Bearer, text.as_str()),
            Authorization::Token(text) => (
                TokenKind::Docker,
                token_in_docker_value(text).ok_or(Refused::Token)?,
            ),
        };
        let file = accounts.current().await;
        let account = |name: &str| file.account(name).cloned();
        let token = self.key.read(kind, text, now, account);
        let (token, expires) = token.map_err(|_| Refused::Token)?;
        Ok(Login {
            account: token.account,
            scopes: Some(Arc::new(token.scopes)),
            expires: Some(expires),
            ..Login::ANONYMOUS
        })
    }

    /// An anonymous client. The repository of a Docker token counts even without accounts: image requests name it nowhere
    /// else.
    fn anonymous(&self, authorization: &Authorization, now: SystemTime) -> Login {
        let token = match authorization {
            Authorization::Token(text) => token_in_docker_value(text)
                .and_then(|text| self.key.read(TokenKind::Docker, text, now, |_| None).ok()),
            _ => None,
        };
        Login {
            scopes: token.map(|(token, _)| Arc::new(token.scopes)),
            ..Login::ANONYMOUS
        }
    }

    /// Authenticates a user by password, from a header or the form of `POST /token`.
    ///
    /// # Errors
    /// [`Refused::Password`] or [`Refused::SlowDown`].
    pub async fn password(
        &self,
        user: &str,
        password: &[u8],
        address: IpAddr,
    ) -> Result<Login, Refused> {
        let Some(accounts) = &self.accounts else {
            return Ok(Login::ANONYMOUS);
        };
        let account = accounts.verify(user, password, address).await?;
        Ok(Login {
            account: Some(account),
            ..Login::ANONYMOUS
        })
    }

    /// Issues a bearer token, valid for [`Self::TOKEN_LIFE`]; `None` for a login by token, which could be prolonged
    /// for ever. It carries the requested scopes, not rights: those are decided at each request.
    pub fn token(&self, login: &Login, requested: &Scopes, now: SystemTime) -> Option<String> {
        self.mint(TokenKind::Bearer, login, requested.clone(), now)
    }

    /// Issues the value of an `X-Docker-Token`, valid for six hours, at most 1.6 kB; `None` for a login by token, and for an
    /// invalid name. `repository` is as in [`Login::caller`].
    pub fn docker_token(
        &self,
        login: &Login,
        repository: &str,
        access: DockerTokenAccess,
        now: SystemTime,
    ) -> Option<String> {
        let scopes = Scopes::repository(repository, access.actions());
        if scopes.is_empty() {
            return None;
        }
        let token = self.mint(TokenKind::Docker, login, scopes, now)?;
        Some(docker_token_value(&token, repository, access.as_str()))
    }

    /// How long a bearer token is valid.
    pub const TOKEN_LIFE: Duration = TokenKind::Bearer.life();

    fn mint(
        &self,
        kind: TokenKind,
        login: &Login,
        scopes: Scopes,
        now: SystemTime,
    ) -> Option<String> {
        if login.scopes.is_some() {
            return None;
        }
        let account = login.account.clone();
        Some(self.key.mint(kind, &Token { account, scopes }, now))
    }

    /// The `WWW-Authenticate` of a 401 on `/v2`. `token_url` is the absolute URL of `/token`, `service` the gateway's
    /// authority; `requested` is empty on `/v2/` itself.
    pub fn challenge(
        &self,
        token_url: &str,
        service: &str,
        requested: &Scopes,
        error: Option<ChallengeError>,
    ) -> String {
        if self.scheme == Scheme::Basic {
            return self.basic_challenge();
        }
        // Only a defect of the gateway could put one there.
        let quoted = |text: &str| text.replace(['"', '\\'], "");
        let (realm, service) = (quoted(token_url), quoted(service));
        let scope = if requested.is_empty() {
            String::new()
        } else {
            format!(",scope=\"{requested}\"")
        };
        let error = match error {
            None => "",
            Some(ChallengeError::InvalidToken) => ",error=\"invalid_token\"",
            Some(ChallengeError::InsufficientScope) => ",error=\"insufficient_scope\"",
        };
        format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}{error}")
    }

    /// The Basic challenge: the `WWW-Authenticate` of a 401 outside of `/v2`.
    pub fn basic_challenge(&self) -> String {
        format!("Basic realm=\"{}\"", self.realm)
    }
}

/// The accounts of a file: those of `before` if that is their file, as it is now.
fn reopen_accounts(
    path: &Path,
    before: Option<&Authenticator>,
    key: [u8; 32],
) -> Result<Arc<Accounts>, AccountsError> {
    let accounts = before.and_then(|before| before.accounts.as_ref());
    match accounts.filter(|accounts| accounts.path() == path) {
        Some(accounts) => accounts.reload().map(|()| accounts.clone()),
        None => Ok(Arc::new(Accounts::open(path, key)?)),
    }
}

/// The JSON that `/token` responds with: the token under both names that clients look for, its life in seconds,
/// when it was issued, and the scopes that are granted at present.
pub fn token_answer(token: &str, granted: &Scopes, now: SystemTime) -> String {
    let issued_at = time::OffsetDateTime::from(now)
        .truncate_to_second()
        .format(&time::format_description::well_known::Rfc3339)
        .unwrap_or_default();
    let answer = serde_json::json!({
        "token": token,
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": Authenticator::TOKEN_LIFE.as_secs(),
        "issued_at": issued_at,
        "scope": granted.to_string(),
    });
    answer.to_string()
}
