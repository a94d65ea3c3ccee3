//! Access rules: an action is allowed if any rule allows it.

use std::cell::LazyCell;
use std::fmt;

use super::{Action, Caller};
use oci::glob::Pattern;

/// One entry of `access.rules`: allows each of `users` each of `actions` on each of `repositories`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whom it applies to: any of them.
    pub users: Vec<Users>,
    /// Patterns of canonical names, which begin with the registry.
    pub repositories: Vec<Pattern>,
    /// What it allows them.
    pub actions: Vec<Action>,
}

/// The users that a rule applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Users {
    /// Every client, authenticated or not.
    Anonymous,
    /// `*`: every authenticated user.
    LoggedIn,
    /// The user of this name.
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
    /// Whether the rule applies to this caller.
    pub(super) fn is_about(&self, caller: &Caller) -> bool {
        self.users.iter().any(|users| users.includes(caller))
    }

    /// `name` is the repository's, which begins with the registry.
    pub(super) fn allows(
        &self,
        caller: &Caller,
        action: Action,
        name: &LazyCell<String, impl FnOnce() -> String>,
    ) -> bool {
        self.actions.contains(&action)
            && self.is_about(caller)
            && (self.repositories.iter()).any(|pattern| pattern.matches(name))
    }
}

/// As in the configuration: `{users: [alice], repositories: ["hosted/**"], actions: [pull]}`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = self.users.iter().map(|users| match users {
            Users::Anonymous => "anonymous",
            Users::LoggedIn => "\"*\"",
            Users::Named(name) => name,
        });
        let patterns = self.repositories.iter();
        let patterns = patterns.map(|pattern| format!("\"{}\"", pattern.as_str()));
        let actions = self.actions.iter().map(|action| action.as_str());
        write!(
            f,
            "{{users: [{}], repositories: [{}], actions: [{}]}}",
            users.collect::<Vec<_>>().join(", "),
            patterns.collect::<Vec<_>>().join(", "),
            actions.collect::<Vec<_>>().join(", "),
        )
    }
}
