//! Rules: allowed if any rule allows it.

use super::{Action, Caller};
use oci::glob::Pattern;
use oci::name::RepositoryName;

/// One entry of `access.rules`: allows every one of `users` every one of `actions` on every one of
/// `repositories`.
#[derive(Clone, Debug)]
pub struct Rule {
    pub users: Vec<Users>,
    /// Of canonical names that begin with the registry.
    pub repositories: Vec<Pattern>,
    pub actions: Vec<Action>,
}

/// Whom a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// Everybody, logged in or not.
    Anonymous,
    /// `*`: every logged-in user.
    LoggedIn,
    /// The one of this name.
    Named(String),
}

impl Users {
    fn includes(&self, caller: &Caller) -> bool {
        match self {
            Self::Anonymous => true,
            Self::LoggedIn => caller.user().is_some(),
            Self::Named(name) => caller.user() == Some(name),
        }
    }
}

impl Rule {
    /// Whether it says anything of this caller.
    pub(super) fn is_about(&self, caller: &Caller) -> bool {
        self.users.iter().any(|users| users.includes(caller))
    }

    pub(super) fn allows(&self, caller: &Caller, action: Action, name: &RepositoryName) -> bool {
        self.actions.contains(&action) && self.is_about(caller) && {
            let name = name.to_string();
            self.repositories
                .iter()
                .any(|pattern| pattern.matches(&name))
        }
    }
}
