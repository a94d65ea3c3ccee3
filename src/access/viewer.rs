//! Who asks what there is: lists of names, of which everybody sees what they may pull.

use super::{Action, Caller, Denied, Login, Permit, Policy};
use crate::spec::name::{Registry, Repository};

/// Somebody who asks for names. Only [`Policy::viewer`] makes one.
#[derive(Clone, Debug)]
pub struct Viewer<'p> {
    policy: &'p Policy,
    caller: Caller,
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
            }),
        }
    }
}

impl Viewer<'_> {
    /// What allows to pull a repository; `None`: it is not to be seen either.
    pub fn may_pull(&self, registry: &Registry, repository: &Repository) -> Option<Permit> {
        let decided = self
            .policy
            .decide(&self.caller, Action::Pull, registry, repository);
        decided.ok()
    }

    /// Whether anything of a registry could be seen: it need not be asked where nothing can.
    pub fn sees(&self, registry: &Registry) -> bool {
        self.policy.rules.is_some() || self.policy.public.contains(registry)
    }
}
