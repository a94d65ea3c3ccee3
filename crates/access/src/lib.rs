//! Authentication and authorisation. The only crate that makes a [`Permit`].
//!
//! A decision depends on the caller, the rules and the name, never on what exists, so that a refusal discloses nothing.
//!
//! [`Authenticator::login`] authenticates an `Authorization` header, [`Login::caller`] narrows the user to the scopes of a
//! token, [`Policy::decide`] authorises.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod accounts;
mod authenticator;
mod disk;
mod failures;
mod forwarded;
mod hash;
mod htpasswd;
mod login;
mod passwd;
mod rules;
mod scope;
mod token;
mod verified_login;
mod viewer;

#[cfg(test)]
mod accounts_tests;
#[cfg(test)]
mod htpasswd_tests;
#[cfg(test)]
mod login_tests;
#[cfg(test)]
mod policy_tests;
#[cfg(test)]
mod token_tests;

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use accounts::{AccountsError, load};
pub use authenticator::{
    Authenticator, ChallengeError, DockerTokenAccess, OpenError, Scheme, Settings, token_answer,
};
pub use forwarded::ForwardedAuthorization;
pub use htpasswd::{Account, Htpasswd, HtpasswdError, LineFault, NameError, check_name};
pub use login::{CertificateUser, Login, Refused};
pub use passwd::{Changed, PasswdError, delete as delete_account, passwd};
pub use rules::{Rule, Users};
pub use scope::Scopes;
pub use token::TokenKey;
pub use verified_login::{LoginError, VerifiedLogin};
pub use viewer::Viewer;

use oci::name::{Registry, Repository, RepositoryName};

/// The principal of a request for one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Without a login, or on a listener that ignores logins.
    Anonymous,
    /// Authenticated by password.
    User(Arc<str>),
    /// Authenticated by a token, and limited to its scopes.
    Narrowed {
        /// The user that the token was issued to; `None`: anonymous.
        user: Option<Arc<str>>,
        /// What the token's scopes allow on this repository. The rules must allow it too.
        actions: Actions,
    },
}

impl Caller {
    /// `None`: anonymous.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::User(user) => Some(user),
            Self::Narrowed { user, .. } => user.as_deref(),
        }
    }

    /// The name for the log.
    pub fn as_str(&self) -> &str {
        self.user().unwrap_or("anonymous")
    }

    /// The actions that the token, if any, does not rule out.
    fn actions(&self) -> Actions {
        match self {
            Self::Anonymous | Self::User(_) => Actions::ALL,
            Self::Narrowed { actions, .. } => *actions,
        }
    }
}

/// An action on a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read manifests, blobs, tags and referrers.
    Pull,
    /// Upload or mount blobs, and put manifests.
    Push,
    /// Delete manifests, tags and blobs.
    Delete,
}

impl Action {
    const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// `pull`, `push` or `delete`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// A set of actions. Displays as in a scope: `pull,push`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actions(u8);

impl Actions {
    /// No action.
    pub const NONE: Self = Self(0);
    /// Pull, push and delete.
    pub const ALL: Self = Self(0b111);

    /// Whether the action is one of the set.
    pub fn contains(self, action: Action) -> bool {
        self.and(action.into()) != Self::NONE
    }

    /// The actions of both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The actions of either set.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl From<Action> for Actions {
    fn from(action: Action) -> Self {
        Self(1 << action as u8)
    }
}

impl FromIterator<Action> for Actions {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        let none = Self::NONE;
        actions
            .into_iter()
            .fold(none, |all, one| all.or(one.into()))
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let contained = Action::ALL
            .into_iter()
            .filter(|action| self.contains(*action));
        let names: Vec<&str> = contained.map(Action::as_str).collect();
        f.write_str(&names.join(","))
    }
}

/// Proof that [`Policy::decide`] allowed an action on a repository. Every function of the mirror takes one. Only this crate
/// makes them, for clients and for the operator.
#[derive(Clone, Debug)]
pub struct Permit {
    action: Action,
    name: RepositoryName,
    /// Present where the registry authorises each caller.
    forwarded: Option<ForwardedAuthorization>,
}

impl Permit {
    /// A permit to pull for the operator, who warms the cache through the admin address without a password. No client is
    /// served with it, and it forwards no client's login.
    pub fn of_operator(name: RepositoryName) -> Self {
        Self {
            action: Action::Pull,
            name,
            forwarded: None,
        }
    }

    /// The allowed action.
    pub fn action(&self) -> Action {
        self.action
    }

    /// The repository that the action is allowed on.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Its registry.
    pub fn registry(&self) -> &Registry {
        &self.name.registry
    }

    /// Its name within the registry.
    pub fn repository(&self) -> &Repository {
        &self.name.repository
    }

    /// The `Authorization` to forward, where the registry authorises each caller.
    pub fn forwarded(&self) -> Option<&ForwardedAuthorization> {
        self.forwarded.as_ref()
    }
}

/// Proof that a registry is public as a whole, or that each name read from it is authorised before a client sees it. Only
/// [`Policy`] makes one.
#[derive(Clone, Debug)]
pub struct Open {
    registry: Registry,
}

impl Open {
    /// The registry whose content is open.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// A denied action. The variant depends on the caller and the rules alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No rule allows it to anonymous clients; a user might be allowed. Where there are accounts, challenge the client.
    #[error("anonymous access is not allowed")]
    Anonymous,
    /// No rule allows it to this user. A challenge would only make clients prompt for the password again.
    #[error("this access is not allowed")]
    User,
    /// A rule allows it, but the token was asked for something else: a challenge that says
    /// `insufficient_scope` makes clients fetch another one.
    #[error("the token was not asked for this access")]
    Scope,
}

/// What an action is allowed or denied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grounds {
    /// The registry authorises its own callers: [`Policy::delegated_permit`].
    Delegated,
    /// There are no rules, and the registry is public: pulls are allowed.
    Public,
    /// There are no rules, and it is no pull from a public registry.
    NotPublic,
    /// The first rule that allows it, by its index.
    Rule(usize),
    /// No rule allows it.
    NoRule,
}

impl Grounds {
    /// Whether the gateway allows the action.
    pub const fn allows(self) -> bool {
        matches!(self, Self::Public | Self::Rule(_))
    }
}

/// The authorisation rules.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `access.rules`; `None`: every client may pull from public registries.
    pub rules: Option<Vec<Rule>>,
    /// Registries whose `visibility` is `public`.
    pub public: BTreeSet<Registry>,
    /// Registries whose `visibility` is `caller`: they authorise, see [`Policy::delegated_permit`].
    pub delegated: BTreeSet<Registry>,
}

impl Policy {
    /// Authorises an action. Without rules, pulls from public registries are allowed, and nothing else.
    ///
    /// # Errors
    /// [`Denied`]: no rule allows it, or the caller's token was requested for something else.
    pub fn decide(
        &self,
        caller: &Caller,
        action: Action,
        name: &RepositoryName,
    ) -> Result<Permit, Denied> {
        let allowed = self.grounds(caller, action, name).allows();
        match caller.user() {
            None if !allowed => Err(Denied::Anonymous),
            Some(_) if !allowed => Err(Denied::User),
            _ if !caller.actions().contains(action) => Err(Denied::Scope),
            _ => Ok(Permit {
                action,
                name: name.clone(),
                forwarded: None,
            }),
        }
    }

    /// What [`Policy::decide`] decides by, apart from a token's scopes.
    pub fn grounds(&self, caller: &Caller, action: Action, name: &RepositoryName) -> Grounds {
        match &self.rules {
            _ if self.delegates_auth(&name.registry) => Grounds::Delegated,
            None if action == Action::Pull && self.public.contains(&name.registry) => {
                Grounds::Public
            }
            None => Grounds::NotPublic,
            Some(rules) => {
                let name = LazyCell::new(|| name.to_string());
                let allows = |rule: &Rule| rule.allows(caller, action, &name);
                let first = rules.iter().position(allows);
                first.map_or(Grounds::NoRule, Grounds::Rule)
            }
        }
    }

    /// The requested scopes, narrowed to what `login` may do at present. It is information for the client; the token does not
    /// carry it. `resolve` maps a name in a path to its repository.
    pub fn granted(
        &self,
        login: &Login,
        requested: &Scopes,
        resolve: impl Fn(&str) -> Option<RepositoryName>,
    ) -> Scopes {
        requested.narrowed(|typed| {
            let Some(name) = resolve(typed) else {
                return Actions::NONE;
            };
            let caller = login.caller(typed);
            let may = |action: &Action| self.decide(&caller, *action, &name).is_ok();
            Action::ALL.into_iter().filter(may).collect()
        })
    }

    /// The proof for requests that name no repository; `None` where rights differ between repositories.
    pub fn open(&self, registry: &Registry) -> Option<Open> {
        self.is_open(registry).then(|| self.search(registry))
    }

    /// The proof for a search. The caller of this function must [`Policy::decide`] on every name that is found.
    pub fn search(&self, registry: &Registry) -> Open {
        Open {
            registry: registry.clone(),
        }
    }

    /// Whether responses about a registry are the same for all clients, so that shared caches may store them.
    pub fn is_open(&self, registry: &Registry) -> bool {
        self.rules.is_none() && self.public.contains(registry)
    }
}
