//! The password that a request sent: whose it was, and whether it was right. For the logs.

use std::sync::Arc;

use super::session::Session;
use access::Login;
use events::claimed_user;
use oci::authorization::{self, Authorization};

/// The outcome of a password check. Tokens have none, nor has a password that this connection has already verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginAttempt {
    Accepted { user: String },
    Refused { user: String },
}

impl LoginAttempt {
    pub fn accepted(user: &str) -> Self {
        Self::Accepted {
            user: claimed_user(user),
        }
    }

    pub fn refused(user: &str) -> Self {
        Self::Refused {
            user: claimed_user(user),
        }
    }

    /// The attempt of an `Authorization` that was refused; `None` if it has no user.
    pub fn of_refused(field: &[u8]) -> Option<Self> {
        match authorization::parse(field) {
            Ok(Authorization::Basic { user, .. }) => Some(Self::refused(&user)),
            _ => None,
        }
    }

    /// The user of an accepted attempt.
    pub fn accepted_user(&self) -> Option<&str> {
        match self {
            Self::Accepted { user } => Some(user),
            Self::Refused { .. } => None,
        }
    }

    /// The user of a refused attempt.
    pub fn refused_user(&self) -> Option<&str> {
        match self {
            Self::Accepted { .. } => None,
            Self::Refused { user } => Some(user),
        }
    }
}

/// The user of a request: of its login, or of the password that it exchanged for a token.
pub fn user(session: &Session, login: &Login) -> Option<Arc<str>> {
    let attempt = || session.login_attempt.as_ref()?.accepted_user();
    login
        .account_name()
        .cloned()
        .or_else(|| attempt().map(Arc::from))
}
