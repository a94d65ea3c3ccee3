//! What the fuzz targets test: Roadstead's pure floor, the very same files. Each target says what must hold
//! of whatever is accepted; that nothing panics goes without saying.

#![forbid(unsafe_code)]

#[path = "../../src/spec/mod.rs"]
pub mod spec;
