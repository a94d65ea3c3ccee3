//! Who may see which names in lists: each client sees what it may pull.

use super::{Action, Caller, Denied, ForwardedAuthorization, Login, Permit, Policy};
use oci::glob::Pattern;
use oci::name::{Registry, RepositoryName};

/// A client that lists names. Only [`Policy::viewer`] makes one.
#[derive(Clone, Debug)]
pub struct Viewer<'p> {
    policy: &'p Policy,
    caller: Caller,
    /// The only registry to list, where it authorises each caller.
    forwarded: Option<(Registry, ForwardedAuthorization)>,
}

impl Policy {
    /// The viewer of a login.
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

    /// The `Authorization` to forward, where the registry authorises each caller.
    pub fn forwarded(&self) -> Option<&ForwardedAuthorization> {
        self.forwarded.as_ref().map(|(_, forwarded)| forwarded)
    }

    /// The permit to pull a repository; `None`: its name is hidden as well.
    pub fn may_pull(&self, name: &RepositoryName) -> Option<Permit> {
        if let Some((asked, forwarded)) = &self.forwarded {
            let permit = self.policy.delegated_permit(forwarded, name);
            return permit.filter(|_| *asked == name.registry);
        }
        let decided = self.policy.decide(&self.caller, Action::Pull, name);
        decided.ok()
    }

    /// Whether any name of a registry could be visible; otherwise it need not be asked.
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

/// Whether a pattern can match names of a registry: it begins with its name or with a wildcard.
fn begins_with(pattern: &Pattern, registry: &Registry) -> bool {
    let text = pattern.as_str();
    let first = text.split_once('/').map_or(text, |(first, _)| first);
    first == registry.as_str() || first.contains('*')
}
