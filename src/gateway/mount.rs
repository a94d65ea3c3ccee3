//! Mounts: the right to read the source is decided before the registry hears of it.

use super::Gateway;
use super::pass::{Mount, Pass, Source};
use crate::access::{Action, Login};
use crate::spec::name::Repository;

impl Gateway {
    /// The repository that a mount comes from: the named one, if the caller may pull from there. Without one a mount begins a plain upload (distribution-spec 1.1, "Mounting
    /// a blob from another repository").
    pub(super) async fn source_of(
        &self,
        login: &Login,
        pass: &Pass,
        mount: &Mount,
    ) -> Option<Repository> {
        let (policy, mirror) = (&self.house.policy, &self.house.mirror);
        let (registry, digest) = (&pass.target.registry, &mount.digest);
        match &mount.source {
            Source::Named { repository, typed } => {
                let caller = login.caller(typed);
                let permit = policy.decide(&caller, Action::Pull, registry, repository);
                let mountable = mirror.may_be_mounted(&permit.ok()?, digest).await;
                mountable.then(|| repository.clone())
            }
            Source::Any => None,
        }
    }
}
