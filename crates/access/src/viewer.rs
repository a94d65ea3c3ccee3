//! Who asks what there is: lists of names, of which everybody sees what they may pull.

use super::{Action, Caller, Denied, ForwardedAuthorization, Login, Permit, Policy};
use oci::glob::Pattern;
use oci::name::{Registry, RepositoryName};

/// Somebody who asks for names. Only [`Policy::viewer`] makes one.
#[derive(Clone, Debug)]
pub struct Viewer<'p> {
    policy: &'p Policy,
    caller: Caller,
    /// The one registry that is asked, where it decides for each caller.
    forwarded: Option<(Registry, ForwardedAuthorization)>,
}

impl Policy {
    /// Who asks what there is.
    ///
    /// # Errors
    /// [`Denied::Scope`]: the token is for something else.
    pub fn viewer(&self, login: &Login) -> Result<Viewer<'_>, Denied> {
        let caller = login.catalog_caller().ok_or(Denied::Scope)?;
        Ok(Viewer {
            policy: self,
            caller,
            forwarded: None,
        })
    }
}

impl<'p> Viewer<'p> {
    pub(super) fn forwarding(
        policy: &'p Policy,
        forwarded: (Registry, ForwardedAuthorization),
    ) -> Self {
        Self {
            policy,
            caller: Caller::Anonymous,
            forwarded: Some(forwarded),
        }
    }

    /// What the registry is asked with, where it decides for each caller.
    pub fn forwarded(&self) -> Option<&ForwardedAuthorization> {
        self.forwarded.as_ref().map(|(_, forwarded)| forwarded)
    }

    /// What allows to pull a repository; `None`: it is not to be seen either.
    pub fn may_pull(&self, name: &RepositoryName) -> Option<Permit> {
        if let Some((asked, forwarded)) = &self.forwarded {
            let permit = self.policy.delegated_permit(forwarded, name);
            return permit.filter(|_| *asked == name.registry);
        }
        let decided = self.policy.decide(&self.caller, Action::Pull, name);
        decided.ok()
    }

    /// Whether anything of a registry could be seen: it need not be asked where nothing can.
    pub fn sees(&self, registry: &Registry) -> bool {
        if let Some((asked, _)) = &self.forwarded {
            return asked == registry;
        }
        match &self.policy.rules {
            _ if self.policy.delegates_auth(registry) => false,
            None => self.policy.public.contains(registry),
            Some(rules) => rules.iter().any(|rule| {
                rule.actions.contains(&Action::Pull)
                    && rule.is_about(&self.caller)
                    && rule
                        .repositories
                        .iter()
                        .any(|pattern| begins_with(pattern, registry))
            }),
        }
    }
}

/// Whether a pattern can be about a registry: it begins with its name, or with anything.
fn begins_with(pattern: &Pattern, registry: &Registry) -> bool {
    let text = pattern.as_str();
    let first = text.split_once('/').map_or(text, |(first, _)| first);
    first == registry.as_str() || first.contains('*')
}
