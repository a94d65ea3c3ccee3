//! Floor 1, who may do what. The only place that makes a [`Permit`].
//!
//! A decision looks at the caller, the rules and the name, never at what exists, so that a refusal
//! cannot tell anybody what there is.

mod rules;

use std::collections::HashSet;

pub use rules::Rule;

use crate::spec::name::{Registry, Repository};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    Anonymous,
}

impl Caller {
    /// The name for the log.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Anonymous => "anonymous",
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

/// Proof that [`Policy::decide`] allowed an action on a repository. Every function of the mirror takes
/// one, and nobody else can make one.
#[derive(Clone, Debug)]
pub struct Permit {
    action: Action,
    registry: Registry,
    repository: Repository,
}

impl Permit {
    /// What was allowed.
    pub fn action(&self) -> Action {
        self.action
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}

/// The caller may not do that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this access is not allowed")]
pub struct Denied;

/// What decides.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// `access.rules`; absent means that everybody may pull what is public.
    pub rules: Option<Vec<Rule>>,
    /// Registries whose `visibility` is `public`.
    pub public: HashSet<Registry>,
}

impl Policy {
    /// Decides. Without rules: anonymous pulls of public registries, and nothing else.
    ///
    /// # Errors
    /// [`Denied`], always for the same reason: no rule allows it.
    pub fn decide(
        &self,
        caller: &Caller,
        action: Action,
        registry: &Registry,
        repository: &Repository,
    ) -> Result<Permit, Denied> {
        let allowed = match &self.rules {
            None => action == Action::Pull && self.public.contains(registry),
            Some(rules) => rules
                .iter()
                .any(|rule| rule.allows(caller, action, registry, repository)),
        };
        if !allowed {
            return Err(Denied);
        }
        Ok(Permit {
            action,
            registry: registry.clone(),
            repository: repository.clone(),
        })
    }

    /// Whether answers about a registry are the same for everybody on the way, so that caches between us
    /// and the client may keep them.
    pub fn is_open(&self, registry: &Registry) -> bool {
        self.rules.is_none() && self.public.contains(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::glob::Pattern;

    #[test]
    fn without_rules_only_anonymous_pulls_of_public_registries() {
        let (hub, hosted) = (Registry::new("docker.io"), Registry::new("hosted"));
        let policy = Policy {
            rules: None,
            public: HashSet::from([hub.clone()]),
        };
        let repository: Repository = "library/alpine".parse().expect("valid");
        let allowed = |action, registry: &Registry| {
            policy
                .decide(&Caller::Anonymous, action, registry, &repository)
                .is_ok()
        };
        assert!(allowed(Action::Pull, &hub));
        assert!(!allowed(Action::Push, &hub));
        assert!(!allowed(Action::Delete, &hub));
        assert!(!allowed(Action::Pull, &hosted));
        assert!(policy.is_open(&hub) && !policy.is_open(&hosted));
    }

    #[test]
    fn with_rules_only_what_a_rule_allows() {
        let hub = Registry::new("docker.io");
        let rule = Rule {
            anonymous: true,
            repositories: vec![Pattern::parse("docker.io/library/*").expect("a pattern")],
            actions: vec![Action::Pull],
        };
        let policy = Policy {
            rules: Some(vec![rule]),
            public: HashSet::from([hub.clone()]),
        };
        for (name, action, allowed) in [
            ("library/alpine", Action::Pull, true),
            ("library/alpine", Action::Push, false),
            ("team/app", Action::Pull, false),
        ] {
            let repository: Repository = name.parse().expect("valid");
            let decision = policy.decide(&Caller::Anonymous, action, &hub, &repository);
            assert_eq!(decision.is_ok(), allowed, "{name} {action:?}");
        }
        assert!(!policy.is_open(&hub));
    }
}
