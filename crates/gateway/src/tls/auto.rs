//! TLS with certificates of our own authority.
//!
//! One certificate names what the configuration names. A client that reaches us at another address of this
//! machine, as on a listener on all addresses, is shown one that names that address as well: it learns the
//! address that it knows, and no other.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use tokio::sync::Mutex;

use super::TlsError;
use super::authority::{Authority, LEAF_LIFE, RENEW_BEFORE};
use super::listener::{CurrentTls, server_config, with_authority};
use oci::addresses::is_global;
use telemetry::LogThrottle;

/// How many addresses have a certificate at once. A machine has fewer.
const ADDRESSES: usize = 64;

/// What listeners with `tls: auto` speak TLS with.
#[derive(Debug)]
pub struct AutoTls {
    authority: Authority,
    names: BTreeSet<String>,
    current: CurrentTls,
    issued: Mutex<HashMap<IpAddr, Issued>>,
}

/// For one address.
#[derive(Debug)]
struct Issued {
    config: Arc<ServerConfig>,
    until: SystemTime,
}

impl AutoTls {
    /// With a certificate for `names`, which is issued anew 30 days before its end.
    ///
    /// # Errors
    /// When there is no certificate and none can be issued.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn open(authority: Authority, names: BTreeSet<String>) -> Result<Self, TlsError> {
        Ok(Self {
            current: with_authority(authority.clone(), names.clone())?,
            authority,
            names,
            issued: Mutex::default(),
        })
    }

    /// What to speak TLS with to a client at `peer` that connected to `local`.
    pub(super) async fn config(
        &self,
        local: Option<IpAddr>,
        peer: Option<IpAddr>,
    ) -> Arc<ServerConfig> {
        let current = || self.current.borrow().clone();
        let named = |local: &IpAddr| self.names.contains(&local.to_string());
        match local {
            Some(local) if !named(&local) && may_see(peer, local) => {
                self.for_address(local).await.unwrap_or_else(current)
            }
            _ => current(),
        }
    }

    /// With a certificate for an address, too; `None` when none can be issued.
    async fn for_address(&self, address: IpAddr) -> Option<Arc<ServerConfig>> {
        static FAILED: LogThrottle = LogThrottle::new();

        let now = SystemTime::now();
        let mut issued = self.issued.lock().await;
        if let Some(known) = issued.get(&address).filter(|known| known.until > now) {
            return Some(known.config.clone());
        }
        let (authority, mut names) = (self.authority.clone(), self.names.clone());
        names.insert(address.to_string());
        let made = tokio::task::spawn_blocking(move || {
            server_config(vec![authority.issue(&names, now)?], None)
        });
        let config = match made.await.ok()? {
            Ok(config) => config,
            Err(error) => {
                if FAILED.now() {
                    tracing::error!(%error, %address, "no certificate can be issued for an address");
                }
                return None;
            }
        };
        if issued.len() >= ADDRESSES {
            issued.clear();
        }
        tracing::info!(%address, "our certificate was issued for an address that a client connected to");
        let until = now + LEAF_LIFE.saturating_sub(RENEW_BEFORE + Duration::from_secs(1));
        let config_of_it = config.clone();
        issued.insert(address, Issued { config, until });
        Some(config_of_it)
    }
}

/// Whether a client may be told an address of ours that it connected to. One on the internet did not connect
/// to an address inside of a network: something in between did, and kept that address to itself.
fn may_see(peer: Option<IpAddr>, local: IpAddr) -> bool {
    is_global(local) || !peer.is_some_and(is_global)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_not_shown_outside() {
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
            assert_eq!(may_see(Some(ip(peer)), ip(local)), shown, "{peer} {local}");
        }
        assert!(may_see(None, ip("10.0.0.1")));
    }
}
