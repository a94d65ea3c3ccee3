//! Registries that authenticate their own callers: the client's Authorization is forwarded to them.

use http::header;

use super::Gateway;
use super::route::Route;
use super::session::Session;
use access::ForwardedAuthorization;
use mirror::MirrorError;
use oci::name::Registry;

impl Gateway {
    /// The Authorization to forward; none on a listener that only reads.
    pub(super) fn forwarded_authorization(&self, session: &Session) -> ForwardedAuthorization {
        if self.listener.read_only {
            return ForwardedAuthorization::NOTHING;
        }
        let headers = &session.req_header().headers;
        ForwardedAuthorization::new(headers.get_all(header::AUTHORIZATION))
    }

    /// Whether a request is for such a registry: its login is not checked by the gateway.
    pub(super) fn delegates_auth(&self, route: &Route) -> bool {
        let policy = &self.state.policy;
        match route {
            Route::Ping { delegated_to, .. } => delegated_to.is_some(),
            Route::Pull(target) => policy.delegates_auth(&target.name.registry),
            Route::PassThrough(pass) => policy.delegates_auth(&pass.target.name.registry),
            Route::Catalogue(query) => {
                let mut registries = query.registries.iter();
                registries.any(|registry| policy.delegates_auth(registry))
            }
            Route::Search(search) => {
                let mut registries = search.registries.iter();
                registries.any(|registry| policy.delegates_auth(registry))
            }
            Route::Token | Route::Peer(_) | Route::V1(_) => false,
        }
    }

    /// Pings a registry with the caller's own Authorization.
    ///
    /// # Errors
    /// The registry's answer, such as its challenge.
    pub(super) async fn ping_registry(
        &self,
        session: &Session,
        registry: &Registry,
    ) -> Result<(), MirrorError> {
        let authorization = self.forwarded_authorization(session);
        self.state.mirror.ping(registry, &authorization).await
    }
}
