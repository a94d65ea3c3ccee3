//! The target of a v2 request.

use std::sync::Arc;

use oci::name::RepositoryName;
use oci::query::Query;
use oci::v2::Resource;

/// A resource of a repository of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestTarget {
    pub name: RepositoryName,
    pub resource: Resource,
    /// The name as the client wrote it, with its registry prefix.
    pub client_name: String,
    /// The page of a list; empty for other resources.
    pub query: Query,
    /// The value of `ns`, which is echoed.
    pub namespace: Option<Arc<str>>,
}
