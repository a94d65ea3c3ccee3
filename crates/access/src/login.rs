//! Who came: `Authorization` headers judged, tokens issued, challenges written.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::accounts::{Accounts, AccountsError, Wrong};
use super::htpasswd::Account;
use super::scope::Scopes;
use super::token::{Kind, Token, TokenKey, v1_token, v1_value};
use super::{Action, Actions, Caller, disk};
use oci::authorization::Authorization;

/// What `access` says of logins.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `None`: there are no accounts, and everybody is anonymous.
    pub htpasswd: Option<PathBuf>,
    /// What challenges call us: printable ASCII without quotes.
    pub realm: String,
    pub scheme: Scheme,
    /// `None`: made in `keys`.
    pub token_key: Option<TokenKey>,
    /// The folder of keys.
    pub keys: PathBuf,
}

/// What v2 clients are challenged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Our `/token`.
    Bearer,
    /// User and password with every request.
    Basic,
}

/// Why nobody can log in. All of it is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    #[error("the token key in {} cannot be read or made: {source}", folder.display())]
    Key {
        folder: PathBuf,
        source: std::io::Error,
    },
}

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 401.
    #[error("the user or the password is wrong")]
    Password,
    /// 401 with [`ChallengeError::InvalidToken`].
    #[error("the token is not valid any more, or never was")]
    Token,
    /// 429 with `Retry-After`.
    #[error("too many failed logins; try again in {} seconds", retry_after.as_secs())]
    SlowDown {
        /// Whole seconds, at least one.
        retry_after: Duration,
    },
}

impl From<Wrong> for Refused {
    fn from(wrong: Wrong) -> Self {
        match wrong {
            Wrong::Password => Self::Password,
            Wrong::SlowDown(pause) => Self::SlowDown {
                // Rounded up: who comes back too early waits again.
                retry_after: Duration::from_secs(
                    pause.as_millis().div_ceil(1000).try_into().unwrap_or(60),
                ),
            },
        }
    }
}

/// Who came, and with what.
#[derive(Clone, Debug)]
pub struct Login {
    account: Option<Arc<Account>>,
    /// What the token was asked for; `None`: there was none.
    scopes: Option<Scopes>,
}

impl Login {
    /// Nobody, without a token.
    pub const ANONYMOUS: Self = Self {
        account: None,
        scopes: None,
    };

    /// `None`: anonymous.
    pub fn user(&self) -> Option<&str> {
        self.account.as_deref().map(|account| &**account.name())
    }

    /// Who asks about the repository that the client calls `name` in its path, a registry's name before it
    /// included: for [`super::Policy::decide`].
    pub fn caller(&self, name: &str) -> Caller {
        let user = self
            .account
            .as_deref()
            .map(|account| account.name().clone());
        match (&self.scopes, user) {
            (Some(scopes), user) => Caller::Narrowed {
                user,
                actions: scopes.actions(name),
            },
            (None, Some(user)) => Caller::User(user),
            (None, None) => Caller::Anonymous,
        }
    }

    /// Who asks what there is, for one decision on each name that is found; `None`: the token was asked
    /// for something else.
    pub fn catalog_caller(&self) -> Option<Caller> {
        if self.scopes.as_ref().is_some_and(|scopes| !scopes.catalog()) {
            return None;
        }
        let user = self
            .account
            .as_deref()
            .map(|account| account.name().clone());
        Some(user.map_or(Caller::Anonymous, Caller::User))
    }

    /// The repository that a token is for, if it is for one: requests for v1's images name none.
    pub fn repository(&self) -> Option<&str> {
        let mut names = self.scopes.as_ref()?.repositories();
        match (names.next(), names.next()) {
            (Some((name, _)), None) => Some(name),
            _ => None,
        }
    }
}

/// What a v1 token is for, as `X-Docker-Token` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1Access {
    Read,
    /// Pushes read what is there already.
    Write,
    Delete,
}

impl V1Access {
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

/// Why a client that came with a token is challenged again (RFC 6750 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChallengeError {
    InvalidToken,
    InsufficientScope,
}

/// Judges logins.
#[derive(Debug)]
pub struct Authenticator {
    accounts: Option<Accounts>,
    key: TokenKey,
    realm: String,
    scheme: Scheme,
}

impl Authenticator {
    /// Reads the accounts and the token key, which is made where there is none. Without accounts no key is
    /// needed, and none is made.
    ///
    /// # Errors
    /// When either cannot be had.
    pub fn open(settings: &Settings) -> Result<Self, OpenError> {
        let key_error = |source| OpenError::Key {
            folder: settings.keys.clone(),
            source,
        };
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| key_error(std::io::Error::other(error)))?;
        let (accounts, key) = match &settings.htpasswd {
            None => (None, TokenKey::new(&random)),
            Some(path) => {
                let accounts = Accounts::open(path, random)?;
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

    /// Whether anybody can log in, so that a challenge makes sense.
    pub fn has_accounts(&self) -> bool {
        self.accounts.is_some()
    }

    /// Who came. `address` is the connection's. Without accounts everybody is anonymous, whatever they
    /// say: some clients send what they have saved for this host.
    ///
    /// # Errors
    /// [`Refused`].
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
            Authorization::Bearer(text) => (Kind::V2, text.as_str()),
            Authorization::Token(text) => (Kind::V1, v1_token(text).ok_or(Refused::Token)?),
        };
        let file = accounts.current().await;
        let account = |name: &str| file.account(name).cloned();
        let token = self.key.read(kind, text, now, account);
        let token = token.map_err(|_| Refused::Token)?;
        Ok(Login {
            account: token.account,
            scopes: Some(token.scopes),
        })
    }

    /// Nobody; but what a v1 token of ours is for must be known even where there are no accounts, since
    /// image requests say it nowhere else.
    fn anonymous(&self, authorization: &Authorization, now: SystemTime) -> Login {
        let token = match authorization {
            Authorization::Token(text) => {
                v1_token(text).and_then(|text| self.key.read(Kind::V1, text, now, |_| None).ok())
            }
            _ => None,
        };
        Login {
            scopes: token.map(|token| token.scopes),
            ..Login::ANONYMOUS
        }
    }

    /// Who gave this password, in a header or in the form of `POST /token`.
    ///
    /// # Errors
    /// [`Refused`], but for [`Refused::Token`].
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
            scopes: None,
        })
    }

    /// A v2 token, good for [`Self::TOKEN_LIFE`]; `None` for who came with a token, which would never end.
    /// It names what was asked for, not what is allowed: that is decided at each request.
    pub fn token(&self, login: &Login, wanted: &Scopes, now: SystemTime) -> Option<String> {
        self.mint(Kind::V2, login, wanted.clone(), now)
    }

    /// The value of `X-Docker-Token`, good for six hours, at most 1.6 kB; `None` for who came with a token,
    /// and for what is no name. `repository` is as in [`Login::caller`].
    pub fn v1_token(
        &self,
        login: &Login,
        repository: &str,
        access: V1Access,
        now: SystemTime,
    ) -> Option<String> {
        let scopes = Scopes::repository(repository, access.actions());
        if scopes.is_empty() {
            return None;
        }
        let token = self.mint(Kind::V1, login, scopes, now)?;
        Some(v1_value(&token, repository, access.as_str()))
    }

    /// How long a v2 token is good.
    pub const TOKEN_LIFE: Duration = Kind::V2.life();

    fn mint(&self, kind: Kind, login: &Login, scopes: Scopes, now: SystemTime) -> Option<String> {
        if login.scopes.is_some() {
            return None;
        }
        let account = login.account.clone();
        Some(self.key.mint(kind, &Token { account, scopes }, now))
    }

    /// The `WWW-Authenticate` of a 401 on `/v2`. `token_url` is our absolute `/token`, `service` our
    /// authority; `wanted` is empty on `/v2/` itself.
    pub fn challenge(
        &self,
        token_url: &str,
        service: &str,
        wanted: &Scopes,
        error: Option<ChallengeError>,
    ) -> String {
        if self.scheme == Scheme::Basic {
            return self.basic_challenge();
        }
        // No part of it can have them but by a fault of ours.
        let quoted = |text: &str| text.replace(['"', '\\'], "");
        let (realm, service) = (quoted(token_url), quoted(service));
        let scope = if wanted.is_empty() {
            String::new()
        } else {
            format!(",scope=\"{wanted}\"")
        };
        let error = match error {
            None => "",
            Some(ChallengeError::InvalidToken) => ",error=\"invalid_token\"",
            Some(ChallengeError::InsufficientScope) => ",error=\"insufficient_scope\"",
        };
        format!("Bearer realm=\"{realm}\",service=\"{service}\"{scope}{error}")
    }

    /// The `WWW-Authenticate` of a 401 on `/v1` and `/token`.
    pub fn basic_challenge(&self) -> String {
        format!("Basic realm=\"{}\"", self.realm)
    }
}

/// The body of `/token`'s 200: the token under both names that clients look for, its life in seconds,
/// when it was issued, and what it is good for today.
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
