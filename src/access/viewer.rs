//! Who asks what there is: lists of names, of which everybody sees what they may pull.

use super::{Action, Caller, Denied, Login, Permit, Policy, Presented};
use crate::spec::name::{Registry, Repository};

/// Somebody who asks for names. Only [`Policy::viewer`] makes one.
#[derive(Clone, Debug)]
pub struct Viewer<'p> {
    policy: &'p Policy,
    caller: Caller,
    /// The one registry that is asked, where it decides for each caller.
    presented: Option<(Registry, Presented)>,
}

impl Policy {
    /// Who asks what there is.
    ///
    /// # Errors
    /// [`Denied`]: the token is for something else, or no rule lets this caller pull anything at all.
    pub fn viewer(&self, login: &Login) -> Result<Viewer<'_>, Denied> {
        let caller = login.catalog_caller().ok_or(Denied::Scope)?;
        let pulls_something = match &self.rules {
            None => true,
            Some(rules) => rules
                .iter()
                .any(|rule| rule.actions.contains(&Action::Pull) && rule.is_about(&caller)),
        };
        match caller.user() {
            None if !pulls_something => Err(Denied::Anonymous),
            Some(_) if !pulls_something => Err(Denied::User),
            _ => Ok(Viewer {
                policy: self,
                caller,
                presented: None,
            }),
        }
    }
}

impl<'p> Viewer<'p> {
    pub(super) fn presenting(policy: &'p Policy, presented: (Registry, Presented)) -> Self {
        Self {
            policy,
            caller: Caller::Anonymous,
            presented: Some(presented),
        }
    }

    /// What the registry is asked with, where it decides for each caller.
    pub fn presented(&self) -> Option<&Presented> {
        self.presented.as_ref().map(|(_, presented)| presented)
    }

    /// What allows to pull a repository; `None`: it is not to be seen either.
    pub fn may_pull(&self, registry: &Registry, repository: &Repository) -> Option<Permit> {
        if let Some((asked, presented)) = &self.presented {
            let permit = self.policy.pass_on(presented, registry, repository);
            return permit.filter(|_| asked == registry);
        }
        let decided = self
            .policy
            .decide(&self.caller, Action::Pull, registry, repository);
        decided.ok()
    }

    /// Whether anything of a registry could be seen: it need not be asked where nothing can.
    pub fn sees(&self, registry: &Registry) -> bool {
        if let Some((asked, _)) = &self.presented {
            return asked == registry;
        }
        self.policy.rules.is_some() || self.policy.public.contains(registry)
    }
}
