//! Tells a service manager such as systemd what the process does, as `sd_notify(3)` does: `Type=notify` and
//! `Type=notify-reload` wait for it.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::time::{ClockId, clock_gettime};

/// Names the socket of the manager: a path, or `@` and an abstract name.
const SOCKET: &str = "NOTIFY_SOCKET";

/// The manager that started the process, if one wants to be told.
#[derive(Debug)]
pub struct ServiceManager(Option<(UnixDatagram, SocketAddr)>);

impl ServiceManager {
    /// The manager that the environment names.
    pub fn of_environment() -> Self {
        let Some(name) = std::env::var_os(SOCKET) else {
            return Self(None);
        };
        let socket = address(&name).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
        Self(
            socket
                .inspect_err(|error| tracing::warn!(%error, "{SOCKET} cannot be used"))
                .ok(),
        )
    }

    /// The process serves.
    pub fn ready(&self) {
        self.send("READY=1");
    }

    /// The configuration is being reloaded; [`ServiceManager::ready`] ends that.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// Another process takes the place of this one.
    pub fn main_process(&self, process: u32) {
        self.send(&format!("MAINPID={process}"));
    }

    /// The process drains.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    fn send(&self, state: &str) {
        let Some((socket, address)) = &self.0 else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, state, "cannot notify the service manager");
        }
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}
