//! Floor 0: what the protocols say. Pure: no I/O, no clock, no async.
//!
//! Every value that came from a stranger becomes one of these types, or an error that names the
//! specification's code, before anything else looks at it.

pub mod addresses;
pub mod authority;
pub mod authorization;
pub mod byteranges;
pub mod cache_status;
pub mod challenge;
pub mod client;
pub mod conditional;
pub mod credential;
pub mod digest;
pub mod error;
pub mod glob;
pub mod headers;
pub mod manifest;
pub mod name;
pub mod page;
pub mod platform;
pub mod query;
pub mod range;
pub mod references;
pub mod schema1;
pub mod v1;
pub mod v1_to_v2;
pub mod v2;
pub mod v2_to_v1;
