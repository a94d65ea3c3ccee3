//! Real clients and real registries: pulls, pushes, rights, outages, kills.
//!
//! Each part that is not installed is named and its tests pass, unless `CI=true`; see
//! [`support::real::found`].

mod support;

#[path = "real/bridge.rs"]
mod bridge;
#[path = "synthesis/image.rs"]
#[expect(
    dead_code,
    reason = "what pushes to a scripted registry is for another test"
)]
mod image;
#[path = "real/matrix.rs"]
mod matrix;
#[path = "real/one_host.rs"]
mod one_host;
#[path = "real/peer.rs"]
mod peer;
#[path = "real/pulls.rs"]
mod pulls;
#[path = "real/recipe.rs"]
mod recipe;
#[path = "real/restarts.rs"]
mod restarts;
#[path = "real/scene.rs"]
mod scene;
#[path = "real/schema1.rs"]
mod schema1;
#[path = "real/search.rs"]
mod search;
#[path = "real/stopped.rs"]
mod stopped;
#[path = "real/warm.rs"]
mod warm;
#[path = "real/warm_bridge.rs"]
mod warm_bridge;
