//! The registry protocols' types and grammars. Pure: no I/O, no clock, no async.
//!
//! Every untrusted value is parsed into one of these types, or into an error that names the specification's
//! code, before anything else reads it.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

pub mod addresses;
pub mod authority;
pub mod authorization;
pub mod byteranges;
pub mod cache_status;
pub mod challenge;
pub mod client;
mod companion;
pub mod conditional;
pub mod content;
pub mod cosign;
pub mod credential;
pub mod digest;
pub mod error;
pub mod forwarded;
pub mod glob;
pub mod headers;
pub mod manifest;
pub mod name;
pub mod network;
pub mod page;
pub mod platform;
pub mod proxy_protocol;
pub mod query;
pub mod range;
pub mod rate_limit;
pub mod references;
pub mod retry_after;
pub mod schema1;
pub mod storage;
pub mod v1;
pub mod v1_to_v2;
pub mod v2;
pub mod v2_to_v1;
