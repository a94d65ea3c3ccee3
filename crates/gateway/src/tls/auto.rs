//! TLS with certificates of the gateway's own authority.
//!
//! One certificate contains the configured names. A client that connects to another address of this machine, as on
//! a listener on all addresses, gets one that contains that address as well: it reveals no address but the one that
//! the client used.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use tokio::sync::Mutex;

use super::authority::{Authority, LEAF_VALIDITY, RENEW_BEFORE};
use super::files::{CurrentTls, HandshakeConfig, server_config, with_authority, with_files};
use super::{CertificateFiles, TlsError};
use oci::addresses::is_global;
use telemetry::LogThrottle;

/// The limit of addresses with a certificate of their own. A machine has fewer.
const MAX_ADDRESSES: usize = 64;

/// The TLS configurations of listeners with `tls: auto`.
#[derive(Debug)]
pub struct AutoTls {
    authority: Authority,
    names: BTreeSet<String>,
    files: CertificateFiles,
    current: CurrentTls,
    retired: Arc<AtomicBool>,
    issued: Mutex<HashMap<IpAddr, IssuedConfig>>,
}

/// The configuration for one address.
#[derive(Debug)]
struct IssuedConfig {
    config: HandshakeConfig,
    until: SystemTime,
}

impl IssuedConfig {
    /// Whether the certificate is not due for renewal, and clients are verified as in `current`.
    fn is_usable(&self, current: &HandshakeConfig, now: SystemTime) -> bool {
        let is_same = match (&self.config.client_ca, &current.client_ca) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        is_same && self.until > now
    }
}

impl AutoTls {
    /// Opens TLS with a certificate for `names`, which is renewed 30 days before it expires.
    ///
    /// # Errors
    /// [`TlsError`] if there is no certificate and none can be issued.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn open(authority: Authority, names: BTreeSet<String>) -> Result<Self, TlsError> {
        let retired = Arc::<AtomicBool>::default();
        let (files, current) = with_authority(authority.clone(), names.clone(), retired.clone())?;
        Ok(Self {
            retired,
            authority,
            names,
            files,
            current,
            issued: Mutex::default(),
        })
    }

    /// The same certificate for a listener whose clients must present one of these CAs.
    ///
    /// # Errors
    /// [`TlsError::ClientCa`] if the file holds no CA, and others if it cannot be read.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn with_client_ca(&self, client_ca: &Path) -> Result<Self, TlsError> {
        let files = std::slice::from_ref(&self.files);
        Ok(Self {
            authority: self.authority.clone(),
            names: self.names.clone(),
            files: self.files.clone(),
            current: with_files(files, Some(client_ca))?,
            retired: self.retired.clone(),
            issued: Mutex::default(),
        })
    }

    /// The names in the certificate.
    pub fn names(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// Ends the renewal, since another certificate takes this one's place.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// The configuration for a client at `peer` that connected to `local`.
    pub(super) async fn config(
        &self,
        local: Option<IpAddr>,
        peer: Option<IpAddr>,
    ) -> Arc<ServerConfig> {
        let current = self.current.borrow().clone();
        let is_configured = |local: &IpAddr| self.names.contains(&local.to_string());
        match local {
            Some(local) if !is_configured(&local) && may_show(peer, local) => {
                let issued = self.for_address(local, &current).await;
                issued.unwrap_or(current.config)
            }
            _ => current.config,
        }
    }

    /// The configuration whose certificate contains `address` as well; `None` if none can be issued.
    async fn for_address(
        &self,
        address: IpAddr,
        current: &HandshakeConfig,
    ) -> Option<Arc<ServerConfig>> {
        static FAILED: LogThrottle = LogThrottle::new();

        let now = SystemTime::now();
        let mut issued = self.issued.lock().await;
        let known = issued.get(&address);
        if let Some(known) = known.filter(|known| known.is_usable(current, now)) {
            return Some(known.config.config.clone());
        }
        let (authority, mut names) = (self.authority.clone(), self.names.clone());
        names.insert(address.to_string());
        let client_ca = current.client_ca.clone();
        let verifier = client_ca.clone();
        let issuing = tokio::task::spawn_blocking(move || {
            server_config(vec![authority.issue(&names, now)?], verifier, None)
        });
        let config = match issuing.await.ok()? {
            Ok(config) => config,
            Err(error) => {
                if FAILED.now() {
                    tracing::error!(%error, %address, "cannot issue a certificate for an address");
                }
                return None;
            }
        };
        if issued.len() >= MAX_ADDRESSES {
            issued.clear();
        }
        tracing::info!(%address, "issued our certificate for an address that a client connected to");
        let until = now + LEAF_VALIDITY.saturating_sub(RENEW_BEFORE + Duration::from_secs(1));
        let entry = IssuedConfig {
            config: HandshakeConfig {
                config: config.clone(),
                client_ca,
            },
            until,
        };
        issued.insert(address, entry);
        Some(config)
    }
}

/// Whether a certificate may show a client the address that it connected to. A client on the internet did not
/// connect to a private address: a proxy in between did, and did not reveal that address.
fn may_show(peer: Option<IpAddr>, local: IpAddr) -> bool {
    is_global(local) || !peer.is_some_and(is_global)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_addresses_are_not_shown_to_global_clients() {
        let ip = |text: &str| -> IpAddr { text.parse().expect("an address") };
        for (peer, local, shown) in [
            ("192.168.1.7", "192.168.1.2", true),
            ("10.8.0.3", "192.168.1.2", true),
            ("fd00::7", "fd00::2", true),
            ("8.8.8.8", "9.9.9.9", true),
            ("10.0.0.1", "9.9.9.9", true),
            ("8.8.8.8", "192.168.1.2", false),
            ("2606:4700::1", "fd00::2", false),
            ("2606:4700::1", "2606:4700::2", true),
        ] {
            assert_eq!(may_show(Some(ip(peer)), ip(local)), shown, "{peer} {local}");
        }
        assert!(may_show(None, ip("10.0.0.1")));
    }
}
