//! Mechanisms that several crates share, without a policy of their own.

mod bind_error;
pub mod folder;
pub mod generation;
pub mod keys_folder;
pub mod listen;
pub mod message_socket;
pub mod passed;
pub mod per_thread;
pub mod rate;
pub mod recent;
pub mod reload;
pub mod replace;
pub mod share;
pub mod single_flight;
pub mod slots;
mod socket_file;
pub mod workers;

pub use bind_error::BindError;
pub use socket_file::SocketPermissions;
