//! A build without the feature `v1`: no path and no client is routed to the v1 API.

use pingora_core::Result;

use super::Gateway;
use super::context::RequestContext;
use super::search::{SearchQuery, SearchResult};
use super::session::Session;
use super::table::{Listener, RequestParts, RoutingTable};
use access::Login;

/// No route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum V1Route {}

pub fn route(_: &RoutingTable, _: &Listener, _: &RequestParts<'_>) -> Option<V1Route> {
    None
}

pub fn instead_of_v2(_: &RoutingTable, _: &Listener, _: &RequestParts<'_>) -> Option<V1Route> {
    None
}

impl Gateway {
    #[expect(clippy::unused_async, reason = "as with v1")]
    pub(super) async fn v1(
        &self,
        _: &mut Session,
        route: V1Route,
        _: &mut RequestContext,
    ) -> Result<()> {
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
