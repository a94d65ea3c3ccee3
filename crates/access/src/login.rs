//! The outcome of authentication: who a client is, or why its login is refused.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Caller;
use super::accounts::Wrong;
use super::htpasswd::Account;
use super::scope::Scopes;

/// Why a login is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// 401.
    #[error("the user or the password is wrong")]
    Password,
    /// 401 with [`super::ChallengeError::InvalidToken`].
    #[error("the token is invalid or expired")]
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
                // Rounded up: a client that retries too early would wait again.
                retry_after: Duration::from_secs(
                    pause.as_millis().div_ceil(1000).try_into().unwrap_or(60),
                ),
            },
        }
    }
}

/// The user of a verified client certificate: `cert:` and the common name of its subject. No account has such a name, since
/// the names of an htpasswd file hold no colon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateUser(Arc<CertificateName>);

/// Behind a thin pointer, since every login and connection carries one.
#[derive(Debug, PartialEq, Eq)]
struct CertificateName(Arc<str>);

impl CertificateUser {
    /// What the user names of certificates begin with.
    pub const PREFIX: &str = "cert:";
    /// The longest common name, in characters, as X.509 has it (RFC 5280, appendix A.1).
    const MAX_NAME: usize = 64;

    /// The user of a common name; `None` for one that no rule can name: empty, longer than 64 characters, or with control
    /// characters or `*`.
    pub fn of_common_name(name: &str) -> Option<Self> {
        let is_good = |c: char| !c.is_control() && c != '*';
        let length = name.chars().take(Self::MAX_NAME + 1).count();
        ((1..=Self::MAX_NAME).contains(&length) && name.chars().all(is_good)).then(|| {
            let name = format!("{}{name}", Self::PREFIX);
            Self(Arc::new(CertificateName(name.into())))
        })
    }

    /// The user of a name in a rule; `None` if it is none of a certificate.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::of_common_name(name.strip_prefix(Self::PREFIX)?)
    }
}

/// An authenticated client, or an anonymous one.
#[derive(Clone, Debug)]
pub struct Login {
    pub(super) account: Option<Arc<Account>>,
    /// The user of the connection's client certificate; `None` with an account.
    pub(super) certificate: Option<CertificateUser>,
    /// The scopes that the token was requested for; `None`: no token was sent.
    pub(super) scopes: Option<Arc<Scopes>>,
    /// The end of the token's validity; `None`: no token was sent.
    pub(super) expires: Option<SystemTime>,
}

impl Login {
    /// The anonymous client, without a token.
    pub const ANONYMOUS: Self = Self {
        account: None,
        certificate: None,
        scopes: None,
        expires: None,
    };

    /// This login on a connection with a client certificate, whose user it is unless it has an account. The scopes of a token
    /// still limit it.
    #[must_use]
    pub fn with_certificate(self, certificate: Option<&CertificateUser>) -> Self {
        let certificate = certificate.filter(|_| self.account.is_none()).cloned();
        Self {
            certificate,
            ..self
        }
    }

    /// `None`: anonymous.
    pub fn user(&self) -> Option<&str> {
        self.account_name().map(|name| &**name)
    }

    /// [`Self::user`], shared.
    pub fn account_name(&self) -> Option<&Arc<str>> {
        let account = self.account.as_deref().map(Account::name);
        account.or(self.certificate.as_ref().map(|user| &user.0.0))
    }

    /// The caller of [`super::Policy::decide`] for the repository `name`, as the client's path has it: with the
    /// registry's name where that precedes it.
    pub fn caller(&self, name: &str) -> Caller {
        let user = self.account_name().cloned();
        match (&self.scopes, user) {
            (Some(scopes), user) => Caller::Narrowed {
                user,
                actions: scopes.actions(name),
            },
            (None, Some(user)) => Caller::User(user),
            (None, None) => Caller::Anonymous,
        }
    }

    /// The caller of [`super::Policy::decide`] for each name of a catalogue; `None`: the token is for something else.
    pub fn catalog_caller(&self) -> Option<Caller> {
        if self.scopes.as_ref().is_some_and(|scopes| !scopes.catalog()) {
            return None;
        }
        let user = self.account_name().cloned();
        Some(user.map_or(Caller::Anonymous, Caller::User))
    }

    /// The repository of a token that is for exactly one, for requests whose path names none.
    pub fn repository(&self) -> Option<&str> {
        let mut names = self.scopes.as_ref()?.repositories();
        match (names.next(), names.next()) {
            (Some((name, _)), None) => Some(name),
            _ => None,
        }
    }
}
