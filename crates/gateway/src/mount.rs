//! Cross-repository mounts: the right to pull from the source is decided before the registry is asked.

use super::Gateway;
use super::pass_through::{Mount, MountSource, PassThrough};
use super::session::Session;
use access::{Action, Login};
use oci::name::{Repository, RepositoryName};

impl Gateway {
    /// The source repository of a mount: the one in `from`, or any that is known to have the blob, if the caller may
    /// pull from it. With `None` the request begins an upload (distribution-spec 1.1, "Mounting a blob from another repository").
    pub(super) async fn mount_source(
        &self,
        session: &Session,
        login: &Login,
        pass: &PassThrough,
        mount: &Mount,
    ) -> Option<Repository> {
        let (policy, mirror) = (&self.state.policy, &self.state.mirror);
        let (registry, digest) = (&pass.target.name.registry, &mount.digest);
        match &mount.source {
            MountSource::Named {
                repository,
                client_name,
            } => {
                let caller = login.caller(client_name);
                let name = RepositoryName::new(registry, repository);
                let permit = policy.decide(&caller, Action::Pull, &name);
                let mountable = mirror.may_be_mounted(&permit.ok()?, digest).await;
                mountable.then(|| repository.clone())
            }
            MountSource::Any => {
                let name_context = self.name_context(session, pass.target.namespace.as_deref());
                let may_pull = |repository: &Repository| {
                    let name = RepositoryName::new(registry, repository);
                    let client_name = self.state.table.resolver.client_name(name_context, &name)?;
                    let decided = policy.decide(&login.caller(&client_name), Action::Pull, &name);
                    decided.ok()
                };
                mirror.mountable_from(registry, digest, may_pull).await
            }
        }
    }
}
