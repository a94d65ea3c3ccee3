//! A build without the feature `v1`: no path is the v1 API's, and no client is shown it.

use pingora_core::Result;

use super::Gateway;
use super::search::{SearchQuery, SearchResult};
use super::session::Session;
use super::table::{Listener, RequestParts, RoutingTable};
use access::Login;
use oci::name::{Registry, Repository};

/// There is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum V1Route {}

/// What of a request goes to the log.
#[derive(Debug, Default)]
pub struct Seen {
    pub user: Option<String>,
    pub registry: Option<Registry>,
    pub repository: Option<Repository>,
}

pub fn route(_: &RoutingTable, _: &Listener, _: &RequestParts<'_>) -> Option<V1Route> {
    None
}

pub fn instead_of_v2(_: &RoutingTable, _: &Listener, _: &RequestParts<'_>) -> Option<V1Route> {
    None
}

impl Gateway {
    pub(super) async fn v1(&self, _: &mut Session, route: V1Route, _: &mut Seen) -> Result<()> {
        match route {}
    }

    pub(crate) async fn v1_found(
        &self,
        _: &Session,
        _: &SearchQuery,
        _: &Login,
    ) -> Vec<SearchResult> {
        Vec::new()
    }
}
