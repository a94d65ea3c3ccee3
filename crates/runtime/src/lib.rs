//! Mechanisms that several crates share, without a policy of their own.

pub mod flight;
pub mod generation;
pub mod listen;
pub mod reload;
pub mod share;
mod socket_file;
