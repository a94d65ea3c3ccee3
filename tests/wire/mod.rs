//! Protocols by hand, below what the harness's clients can say: shared by `front.rs` and `bad_input.rs`.

#![allow(
    dead_code,
    unused_imports,
    reason = "each test binary uses a part of it"
)]

pub mod h2;
mod hpack;
