//! Floor 1, who may do what. The only place that makes a [`Permit`].
//!
//! A decision looks at the caller, the rules and the name, never at what exists, so that a refusal
//! cannot tell anybody what there is.
//!
//! [`Authenticator::login`] says who came, from an `Authorization` header; [`Login::caller`] who asks
//! about a repository, which is less where a token was for something else; [`Policy::decide`] whether
//! they may.

mod accounts;
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

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

pub use accounts::{AccountsError, load};
pub use forwarded::ForwardedAuthorization;
pub use htpasswd::{Account, Htpasswd, HtpasswdError, LineFault, NameError, check_name};
pub use login::{
    Authenticator, ChallengeError, DockerTokenAccess, Login, OpenError, Refused, Scheme, Settings,
    token_answer,
};
pub use passwd::{Changed, PasswdError, passwd};
pub use rules::{Rule, Users};
pub use scope::Scopes;
pub use token::TokenKey;
pub use viewer::Viewer;

use oci::name::{Registry, Repository, RepositoryName};

/// Who asks about one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    Anonymous,
    /// Who gave a password.
    User(Arc<str>),
    /// Who came with a token: at most what the token was asked for.
    Narrowed {
        user: Option<Arc<str>>,
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

    /// What is not denied whatever the rules say.
    fn actions(&self) -> Actions {
        match self {
            Self::Anonymous | Self::User(_) => Actions::ALL,
            Self::Narrowed { actions, .. } => *actions,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// What a method of HTTP asks for where nothing else is known of the request; `None`: nothing that
    /// anybody may.
    pub fn of_method(method: &str) -> Option<Self> {
        match method {
            "GET" | "HEAD" => Some(Self::Pull),
            "POST" | "PUT" | "PATCH" => Some(Self::Push),
            "DELETE" => Some(Self::Delete),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
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
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(0b111);

    pub fn contains(self, action: Action) -> bool {
        self.and(action.into()) != Self::NONE
    }

    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

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

/// Proof that [`Policy::decide`] allowed an action on a repository. Every function of the mirror takes
/// one, and nobody else can make one, but for what an operator wants.
#[derive(Clone, Debug)]
pub struct Permit {
    action: Action,
    name: RepositoryName,
    /// Present where the registry decides for each caller.
    forwarded: Option<ForwardedAuthorization>,
}

impl Permit {
    /// For what an operator has the gateway fetch beforehand, through the admin address, which asks for no
    /// password: nobody is answered with it. It reads, and shows no registry a login of anybody.
    pub fn of_operator(name: RepositoryName) -> Self {
        Self {
            action: Action::Pull,
            name,
            forwarded: None,
        }
    }

    /// What was allowed.
    pub fn action(&self) -> Action {
        self.action
    }

    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    pub fn registry(&self) -> &Registry {
        &self.name.registry
    }

    pub fn repository(&self) -> &Repository {
        &self.name.repository
    }

    /// What the registry is asked with, where it decides for each caller.
    pub fn forwarded(&self) -> Option<&ForwardedAuthorization> {
        self.forwarded.as_ref()
    }
}

/// Proof that everybody may read everything of a registry, or that what is read of it is decided on name by
/// name before anybody sees it. Only [`Policy`] makes one.
#[derive(Clone, Debug)]
pub struct Open {
    registry: Registry,
}

impl Open {
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
}

/// The caller may not do that. Which it is depends on the caller and the rules alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No rule allows it to everybody; a user might. Where there are accounts, a challenge is the answer.
    #[error("anonymous access is not allowed")]
    Anonymous,
    /// No rule allows it to this user. A challenge would only make clients ask for the password again.
    #[error("this access is not allowed")]
    User,
    /// A rule allows it, but the token was asked for something else: a challenge that says
    /// `insufficient_scope` makes clients fetch another one.
    #[error("the token was not asked for this access")]
    Scope,
}

/// What decides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `access.rules`; absent means that everybody may pull what is public.
    pub rules: Option<Vec<Rule>>,
    /// Registries whose `visibility` is `public`.
    pub public: HashSet<Registry>,
    /// Registries whose `visibility` is `caller`: they decide, see [`Policy::delegated_permit`].
    pub delegated: HashSet<Registry>,
}

impl Policy {
    /// Decides. Without rules: pulls of public registries, and nothing else.
    ///
    /// # Errors
    /// [`Denied`]: no rule allows it, or the caller's token was not for it.
    pub fn decide(
        &self,
        caller: &Caller,
        action: Action,
        name: &RepositoryName,
    ) -> Result<Permit, Denied> {
        let allowed = match &self.rules {
            _ if self.delegates_auth(&name.registry) => false,
            None => action == Action::Pull && self.public.contains(&name.registry),
            Some(rules) => rules.iter().any(|rule| rule.allows(caller, action, name)),
        };
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

    /// Of the scopes that a token is asked for, what `login` may do today: it is told to the client, and
    /// is nothing the token carries. `resolve` finds what a name in a path stands for.
    pub fn granted(
        &self,
        login: &Login,
        wanted: &Scopes,
        resolve: impl Fn(&str) -> Option<RepositoryName>,
    ) -> Scopes {
        wanted.narrowed(|typed| {
            let Some(name) = resolve(typed) else {
                return Actions::NONE;
            };
            let caller = login.caller(typed);
            let may = |action: &Action| self.decide(&caller, *action, &name).is_ok();
            Action::ALL.into_iter().filter(may).collect()
        })
    }

    /// For requests that name no repository: `None` where rights differ from one to another.
    pub fn open(&self, registry: &Registry) -> Option<Open> {
        self.is_open(registry).then(|| self.search(registry))
    }

    /// For a search. Whoever asks takes it upon them to [`Policy::decide`] on every name that is found.
    pub fn search(&self, registry: &Registry) -> Open {
        Open {
            registry: registry.clone(),
        }
    }

    /// Whether answers about a registry are the same for everybody on the way, so that caches between us
    /// and the client may keep them.
    pub fn is_open(&self, registry: &Registry) -> bool {
        self.rules.is_none() && self.public.contains(registry)
    }
}
