//! The TLS of a listener: which configuration the handshake of a connection gets.

use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;

use super::auto::AutoTls;
use super::files::CurrentTls;

/// The TLS of a listener.
#[derive(Clone, Debug)]
pub enum ListenerTls {
    /// The operator's certificates.
    Files(CurrentTls),
    /// Certificates of the gateway's own authority.
    Auto(Arc<AutoTls>),
}

impl ListenerTls {
    /// The configuration for a client at `peer` that connected to `local`.
    pub async fn config(&self, local: Option<IpAddr>, peer: Option<IpAddr>) -> Arc<ServerConfig> {
        match self {
            Self::Files(current) => current.borrow().clone(),
            Self::Auto(auto) => auto.config(local, peer).await,
        }
    }
}
