//! Mechanisms that several crates share, without a policy of their own.

pub mod generation;
pub mod listen;
pub mod per_thread;
pub mod recent;
pub mod reload;
pub mod share;
pub mod single_flight;
mod socket_file;
pub mod workers;
