//! Mounts: the right to read the source is decided before the registry hears of it.

use pingora::proxy::Session;

use super::Gateway;
use super::catalogue::typed_name;
use super::pass::{Mount, Pass, Source};
use access::{Action, Login};
use oci::name::Repository;

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
        let (registry, digest) = (&pass.target.registry, &mount.digest);
        match &mount.source {
            Source::Named { repository, typed } => {
                let caller = login.caller(typed);
                let permit = policy.decide(&caller, Action::Pull, registry, repository);
                let mountable = mirror.may_be_mounted(&permit.ok()?, digest).await;
                mountable.then(|| repository.clone())
            }
            Source::Any => {
                let host = super::host(session.req_header()).ok().flatten();
                let namespace = pass.target.namespace.as_deref();
                let (table, listener) = (&self.state.table, &self.listener);
                let may_pull = |repository: &Repository| {
                    let of = (registry, repository);
                    let typed = typed_name(table, listener, namespace, host, of)?;
                    let caller = login.caller(&typed);
                    let decided = policy.decide(&caller, Action::Pull, registry, repository);
                    decided.ok()
                };
                mirror.mountable_from(registry, digest, may_pull).await
            }
        }
    }
}
