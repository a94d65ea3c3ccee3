//! A build without the feature `v1`: no path is the v1 API's, and no client is shown it.

use pingora_core::Result;

use super::Gateway;
use super::search::{Found, Search};
use super::session::Session;
use super::table::{Asked, Listener, Table};
use access::Login;
use oci::name::{Registry, Repository};

/// There is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {}

/// What of a request goes to the log.
#[derive(Debug, Default)]
pub struct Seen {
    pub user: Option<String>,
    pub registry: Option<Registry>,
    pub repository: Option<Repository>,
}

pub fn route(_: &Table, _: &Listener, _: &Asked<'_>) -> Option<Route> {
    None
}

pub fn instead_of_v2(_: &Table, _: &Listener, _: &Asked<'_>) -> Option<Route> {
    None
}

impl Gateway {
    pub(super) async fn v1(&self, _: &mut Session, route: Route, _: &mut Seen) -> Result<()> {
        match route {}
    }

    pub(crate) async fn v1_found(&self, _: &Session, _: &Search, _: &Login) -> Vec<Found> {
        Vec::new()
    }
}
