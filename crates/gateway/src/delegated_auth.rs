//! Registries that decide for each caller: what is theirs on the way through.

use http::header;
use pingora_core::Result;

use super::respond::{self, RequestOptions};
use super::route::Route;
use super::session::Session;
use super::{Gateway, failure};
use access::ForwardedAuthorization;
use mirror::MirrorError;
use oci::name::Registry;

impl Gateway {
    /// What a request shows to a registry that decides for each caller. A listener that only reads knows
    /// nobody.
    pub(super) fn forwarded_authorization(&self, session: &Session) -> ForwardedAuthorization {
        if self.listener.read_only {
            return ForwardedAuthorization::NOTHING;
        }
        let headers = &session.req_header().headers;
        ForwardedAuthorization::new(headers.get_all(header::AUTHORIZATION))
    }

    /// Whether a request is for such a registry: a login there is none of ours.
    pub(super) fn delegates_auth(&self, route: &Route) -> bool {
        let policy = &self.state.policy;
        match route {
            Route::Ping { of, .. } => of.is_some(),
            Route::Pull(target) => policy.delegates_auth(&target.name.registry),
            Route::PassThrough(pass) => policy.delegates_auth(&pass.target.name.registry),
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
    pub(super) async fn ping_registry(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        registry: &Registry,
    ) -> Result<()> {
        let forwarded = self.forwarded_authorization(session);
        match self.state.mirror.ping(registry, &forwarded).await {
            Ok(()) => respond::ping(session, options).await,
            Err(error) => self.failure(session, options, error).await,
        }
    }

    /// Answers with why there is nothing. A listener that only reads challenges nobody.
    pub(super) async fn failure(
        &self,
        session: &mut Session,
        options: &RequestOptions,
        error: MirrorError,
    ) -> Result<()> {
        let error = match error {
            MirrorError::Challenged(_) if self.listener.read_only => MirrorError::CallerDenied,
            error => error,
        };
        failure::respond(session, options, &error).await
    }
}
