//! Rules: allowed if any rule allows it.

use super::{Action, Caller};
use crate::spec::glob::Pattern;
use crate::spec::name::{Registry, Repository};

/// One entry of `access.rules`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whether everybody is meant, logged in or not.
    pub anonymous: bool,
    /// Of canonical names that begin with the registry.
    pub repositories: Vec<Pattern>,
    pub actions: Vec<Action>,
}

impl Rule {
    pub(super) fn allows(
        &self,
        caller: &Caller,
        action: Action,
        registry: &Registry,
        repository: &Repository,
    ) -> bool {
        let meant = match caller {
            Caller::Anonymous => self.anonymous,
        };
        meant && self.actions.contains(&action) && {
            let name = format!("{registry}/{repository}");
            self.repositories
                .iter()
                .any(|pattern| pattern.matches(&name))
        }
    }
}
