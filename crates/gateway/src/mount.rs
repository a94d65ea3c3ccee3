//! Mounts: the right to read the source is decided before the registry hears of it.

use super::Gateway;
use super::pass::{Mount, Pass, Source};
use super::session::Session;
use access::{Action, Login};
use oci::name::{Repository, RepositoryName};

impl Gateway {
    /// The repository that a mount comes from: the named one, or any that is known to have the blob, if the
    /// caller may pull from there. Without one a mount begins a plain upload (distribution-spec 1.1, "Mounting
    /// a blob from another repository").
    pub(super) async fn source_of(
        &self,
        session: &Session,
        login: &Login,
        pass: &Pass,
        mount: &Mount,
    ) -> Option<Repository> {
        let (policy, mirror) = (&self.state.policy, &self.state.mirror);
        let (registry, digest) = (&pass.target.name.registry, &mount.digest);
        match &mount.source {
            Source::Named { repository, typed } => {
                let caller = login.caller(typed);
                let name = RepositoryName::new(registry, repository);
                let permit = policy.decide(&caller, Action::Pull, &name);
                let mountable = mirror.may_be_mounted(&permit.ok()?, digest).await;
                mountable.then(|| repository.clone())
            }
            Source::Any => {
                let place = self.place(session, pass.target.namespace.as_deref());
                let may_pull = |repository: &Repository| {
                    let name = RepositoryName::new(registry, repository);
                    let typed = self.state.table.resolver.typed(place, &name)?;
                    let decided = policy.decide(&login.caller(&typed), Action::Pull, &name);
                    decided.ok()
                };
                mirror.mountable_from(registry, digest, may_pull).await
            }
        }
    }
}
