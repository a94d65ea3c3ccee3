//! What a request is about.

use oci::name::RepositoryName;
use oci::query::Query;
use oci::v2::Resource;

/// A resource of a repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget {
    pub name: RepositoryName,
    pub resource: Resource,
    /// The name as the client typed it, registry prefix and all.
    pub client_name: String,
    /// Which page is asked for of a list; empty for everything else.
    pub query: Query,
    /// The value of `ns`, to be echoed.
    pub namespace: Option<String>,
}
