//! The integration tests: one binary, a module per concern.

#![expect(
    clippy::too_many_lines,
    reason = "a test is a script or a table, which reads best in one piece"
)]

use std::sync::{Mutex, MutexGuard, PoisonError};

mod admin;
mod audit;
mod bad_input;
mod bodies;
mod bucket;
mod budget;
mod cache;
mod caller;
mod catalogue;
mod classes;
mod command_line;
mod compose;
mod disk;
mod documents;
mod faults;
mod fill;
mod fleet;
mod front;
mod gate;
mod harness;
mod kill;
mod kubernetes;
mod limits;
mod login;
mod memory;
mod model;
mod move_in;
mod outage;
mod package;
mod partials;
mod passwd;
mod public;
mod push;
mod ranges;
mod real;
mod records;
mod redirects;
mod reload;
mod request_ids;
mod search;
mod segments;
mod service_manager;
mod setup;
mod soak;
mod stall;
mod trust;
mod upgrade;
mod uploads;
mod users;
#[cfg(feature = "v1")]
mod v1;
#[cfg(feature = "v1")]
mod v1_to_v2;
#[cfg(feature = "v1")]
mod v2_to_v1;
mod webhooks;
mod wire;

/// Held by tests that use much memory or disk, so that they run one at a time.
static HEAVY: Mutex<()> = Mutex::new(());

/// Waits for the other heavy tests.
fn heavy_test() -> MutexGuard<'static, ()> {
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}
