//! Evaluates access rules independently of the gateway.

use std::fmt;

use super::world::{REGISTRIES, is_public};
use testkit::matches;

/// What a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// A repository of a registry, by canonical name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub registry: String,
    pub name: String,
}

impl Place {
    pub fn new(registry: &str, name: &str) -> Self {
        Self {
            registry: registry.to_owned(),
            name: name.to_owned(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.name)
    }
}

/// An entry of `access.rules` for one user: a name, `*` (any account) or `anonymous` (any client).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub user: String,
    pub pattern: String,
    pub actions: Vec<Action>,
}

impl Rule {
    /// Whether it allows an action to a user (`None`: anonymous).
    pub fn allows(&self, user: Option<&str>, action: Action, place: &Place) -> bool {
        let includes = match self.user.as_str() {
            "anonymous" => true,
            "*" => user.is_some(),
            name => user == Some(name),
        };
        includes && self.actions.contains(&action) && covers(&self.pattern, &place.to_string())
    }

    /// Renders the actions: `pull,push`.
    pub fn actions(&self) -> String {
        let names: Vec<&str> = self.actions.iter().map(|action| action.as_str()).collect();
        names.join(",")
    }
}

/// All rules of a world.
#[derive(Clone, Copy)]
pub struct Rights<'a>(pub &'a [Rule]);

impl Rights<'_> {
    /// Whether the rules allow an action; on the shelf the repository must also be public.
    pub fn allow(self, user: Option<&str>, action: Action, place: &Place) -> bool {
        let is_shown =
            place.registry != "shelf" || action == Action::Pull && is_public(&place.name);
        is_shown && self.0.iter().any(|rule| rule.allows(user, action, place))
    }

    /// Whether the rules allow a user anything in a repository.
    pub fn allow_any(self, user: Option<&str>, place: &Place) -> bool {
        let mut actions = Action::ALL.into_iter();
        actions.any(|action| self.allow(user, action, place))
    }

    /// Whether the rules allow a user anything in a repository of this name, in any registry.
    pub fn allow_any_named(self, user: Option<&str>, name: &str) -> bool {
        let mut places = REGISTRIES.iter().map(|registry| Place::new(registry, name));
        places.any(|place| self.allow_any(user, &place))
    }

    /// Whether a rule covers a repository of this name, in any registry, whatever is public: another name may then
    /// be treated differently.
    pub fn cover(self, user: Option<&str>, name: &str) -> bool {
        let places = REGISTRIES.iter().map(|registry| Place::new(registry, name));
        let covers = |place: &Place| {
            let mut rules = self.0.iter();
            rules.any(|rule| {
                Action::ALL
                    .into_iter()
                    .any(|action| rule.allows(user, action, place))
            })
        };
        places.into_iter().any(|place| covers(&place))
    }
}

/// Whether a pattern matches a name: `*` within a component, `**` across any number of components.
pub fn covers(pattern: &str, name: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let name: Vec<&str> = name.split('/').collect();
    covers_components(&pattern, &name)
}

fn covers_components(pattern: &[&str], name: &[&str]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((&"**", rest)) => {
            (0..=name.len()).any(|skipped| covers_components(rest, &name[skipped..]))
        }
        Some((first, rest)) => name.split_first().is_some_and(|(component, names)| {
            matches(first, component) && covers_components(rest, names)
        }),
    }
}
