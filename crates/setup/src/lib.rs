//! What clients need to pull through a gateway: the files of Docker, containerd, Podman, CRI-O, `BuildKit` and K3s.
//!
//! A file that is the client's own is changed by insertions into its text, so that everything else in it stays as it was:
//! comments, order, unknown keys. The result is parsed again and compared with what was meant; a file for which that fails is
//! refused. [`Files`] reads and writes them, with a record of what they were before, by which they are restored. All but `disk`
//! is pure.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod client;
mod containerd;
mod disk;
mod gateway;
mod hunk;
mod json;
mod merge;
mod record;
mod toml;
mod yaml;

#[cfg(test)]
mod property_tests;

pub use client::{Client, ParseClientError};
pub use disk::{Change, Files, Plan, SetupError, Undone};
pub use gateway::{Gateway, GatewayError, registry};
pub use merge::MergeError;
