//! The TLS of a listener: which configuration the handshake of a connection gets.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

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
            Self::Files(current) => current.borrow().config.clone(),
            Self::Auto(auto) => auto.config(local, peer).await,
        }
    }
    /// Does the handshake of a connection to a server that speaks only HTTP/1.1.
    ///
    /// # Errors
    /// The handshake or the connection failed.
    pub async fn accept_http1(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let (local, peer) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
        let config = self.config(Some(local.to_canonical()), Some(peer.to_canonical()));
        let mut config = ServerConfig::clone(&*config.await);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config)).accept(stream).await
    }
}
