//! A build without the feature `v1`: no path and no client is routed to the v1 API.

use std::time::SystemTime;

use pingora_core::Result as Answered;

use super::context::RequestContext;
use super::explain::{ExplainedPull, PullQuestion, Routed, SpokenBecause};
use super::resolver::ResolveError;
use super::search::{SearchQuery, SearchResult};
use super::session::Session;
use super::table::{Listener, RequestParts, RoutingTable};
use super::{AppState, Gateway};
use access::{Login, Permit};
use mirror::{DryRun, MirrorError, PlannedRequest};
use oci::name::Reference;

/// No route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum V1Route {}

pub fn route(_: &RoutingTable, _: &Listener, _: &RequestParts<'_>) -> Option<V1Route> {
    None
}

pub fn instead_of_v2(_: &RoutingTable, _: &Listener, _: &RequestParts<'_>) -> Option<V1Route> {
    None
}

pub fn routed(
    _: &Gateway,
    _: RequestParts<'_>,
    _: &str,
    _: &Reference,
    _: SpokenBecause,
) -> Result<Routed, ResolveError> {
    // No client is routed there.
    Err(ResolveError::Unclaimed)
}

pub fn explained(
    _: &AppState,
    _: Result<&mut DryRun, &mut MirrorError>,
    _: &Permit,
    _: &PullQuestion,
    _: SystemTime,
) -> (Result<ExplainedPull, MirrorError>, Vec<PlannedRequest>) {
    (Err(MirrorError::NotServed), Vec::new())
}

impl Gateway {
    #[expect(clippy::unused_async, reason = "as with v1")]
    pub(super) async fn v1(
        &self,
        _: &mut Session,
        route: V1Route,
        _: &mut RequestContext,
    ) -> Answered<()> {
        match route {}
    }

    #[expect(clippy::unused_async, reason = "as with v1")]
    pub(crate) async fn v1_found(
        &self,
        _: &Session,
        _: &SearchQuery,
        _: &Login,
    ) -> Vec<SearchResult> {
        Vec::new()
    }
}
