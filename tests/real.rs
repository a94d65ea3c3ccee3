//! Real clients and real registries: pulls, pushes, rights, outages, kills.
//!
//! Each part that is not installed is named and its tests pass, unless `CI=true`; see
//! [`testkit::real::found`].

#[cfg(feature = "v1")]
mod bridge;
mod matrix;
mod one_host;
mod peer;
mod pulls;
mod recipe;
mod restarts;
mod scene;
mod schema1;
mod search;
mod stopped;
mod warm;
#[cfg(feature = "v1")]
mod warm_bridge;
