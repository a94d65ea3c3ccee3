//! Protocols by hand, beyond what the harness's clients can send: shared by `front.rs` and `bad_input.rs`.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

pub mod h2;
mod hpack;
