//! Registries that decide for each caller: what is theirs on the way through.

use http::header;
use pingora_core::Result;

use super::respond::{self, Wanted};
use super::route::Route;
use super::session::Session;
use super::{Gateway, failure};
use access::ForwardedAuthorization;
use mirror::MirrorError;
use oci::name::Registry;

impl Gateway {
    /// What a request shows to a registry that decides for each caller. A listener that only reads knows
    /// nobody.
    pub(super) fn forwarded(&self, session: &Session) -> ForwardedAuthorization {
        if self.listener.read_only {
            return ForwardedAuthorization::NOTHING;
        }
        let headers = &session.req_header().headers;
        ForwardedAuthorization::new(headers.get_all(header::AUTHORIZATION))
    }

    /// Whether a request is for such a registry: a login there is none of ours.
    pub(super) fn leaves(&self, route: &Route) -> bool {
        let policy = &self.state.policy;
        match route {
            Route::Ping { of, .. } => of.is_some(),
            Route::Pull(target) => policy.delegates_auth(&target.name.registry),
            Route::Pass(pass) => policy.delegates_auth(&pass.target.name.registry),
            Route::Catalogue(listing) => {
                let mut registries = listing.registries.iter();
                registries.any(|registry| policy.delegates_auth(registry))
            }
            Route::Search(search) => {
                let mut registries = search.registries.iter();
                registries.any(|registry| policy.delegates_auth(registry))
            }
            Route::Token | Route::V1(_) => false,
        }
    }

    /// Answers a ping as the registry does.
    pub(super) async fn ping_for_caller(
        &self,
        session: &mut Session,
        wanted: &Wanted,
        registry: &Registry,
    ) -> Result<()> {
        let forwarded = self.forwarded(session);
        match self.state.mirror.ping(registry, &forwarded).await {
            Ok(()) => respond::ping(session, wanted).await,
            Err(error) => self.failure(session, wanted, error).await,
        }
    }

    /// Answers with why there is nothing. A listener that only reads challenges nobody.
    pub(super) async fn failure(
        &self,
        session: &mut Session,
        wanted: &Wanted,
        error: MirrorError,
    ) -> Result<()> {
        let error = match error {
            MirrorError::Challenged(_) if self.listener.read_only => MirrorError::CallerDenied,
            error => error,
        };
        failure::respond(session, wanted, &error).await
    }
}
