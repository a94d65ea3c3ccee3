//! The certificates of all listeners, and the names in the gateway's own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::client_url::machine_name;
use crate::config::{Config, ListenAddress, Tls};
use acme::ManagedCertificates;
use gateway::{Authority, AutoTls, ListenerTls, TlsError, TlsSettings, with_acme, with_files};

/// The certificates of the listeners.
pub struct Certificates {
    /// Present where a listener has `tls: auto`.
    pub authority: Option<Authority>,
    /// The certificate of that authority, shared by these listeners.
    auto: Option<Arc<AutoTls>>,
    /// The certificates of ACME authorities.
    managed: ManagedCertificates,
    keys: PathBuf,
}

impl Certificates {
    /// `before` are those of the configuration that this one replaces. Blocks on the disk.
    pub fn open(config: &Config, before: Option<&Self>) -> Result<Self, TlsError> {
        let (authority, auto) = Self::own(config, before)?;
        let ordered = config.all_tls().filter_map(Tls::acme);
        let before = before.map(|before| &before.managed);
        Ok(Self {
            authority,
            auto,
            managed: ManagedCertificates::open(ordered, &config.keys, before)?,
            keys: config.keys.clone(),
        })
    }

    /// The gateway's own authority and its certificate, where a listener has it.
    fn own(
        config: &Config,
        before: Option<&Self>,
    ) -> Result<(Option<Authority>, Option<Arc<AutoTls>>), TlsError> {
        if !config.all_tls().any(Tls::is_auto) {
            return Ok((None, None));
        }
        let names = names(config);
        if let Some(Self {
            authority: Some(authority),
            auto: Some(auto),
            ..
        }) = before
            && *auto.names() == names
        {
            return Ok((Some(authority.clone()), Some(auto.clone())));
        }
        let authority = Authority::open(&config.keys)?;
        let auto = AutoTls::open(authority.clone(), names)?;
        Ok((Some(authority), Some(Arc::new(auto))))
    }

    /// Ends the renewal of a certificate that `after` does not use.
    pub fn make_way(&self, after: &Self) {
        if let Some(auto) = &self.auto
            && !after
                .auto
                .as_ref()
                .is_some_and(|after| Arc::ptr_eq(auto, after))
        {
            auto.retire();
        }
    }

    /// What ACME authorities are about to verify.
    pub fn challenges(&self) -> acme::Challenges {
        self.managed.challenges().clone()
    }

    /// Has ACME authorities issue what is due from now on: the listeners that they verify are open.
    pub fn keep(&self) {
        self.managed.keep();
    }

    /// Ends the renewal of the gateway's own certificate, which another process has begun.
    pub fn leave(&self) {
        if let Some(auto) = &self.auto {
            auto.retire();
        }
    }

    /// The certificate of one listener; `None` for plain HTTP.
    pub fn of(&self, tls: &Tls) -> Result<Option<ListenerTls>, TlsError> {
        match tls.settings() {
            None => Ok(None),
            Some(TlsSettings::Auto { client_ca }) => {
                let auto = match (&self.auto, client_ca) {
                    (Some(auto), Some(path)) => Some(Arc::new(auto.with_client_ca(&path)?)),
                    (auto, _) => auto.clone(),
                };
                Ok(auto.map(ListenerTls::Auto))
            }
            Some(TlsSettings::Acme(settings)) => {
                let file = acme::certificate_file(&settings, &self.keys);
                let current = with_acme(&file, self.challenges())?;
                Ok(Some(ListenerTls::Files(current)))
            }
            Some(TlsSettings::Files {
                certificates,
                client_ca,
            }) => {
                let current = with_files(&certificates, client_ca.as_deref())?;
                Ok(Some(ListenerTls::Files(current)))
            }
        }
    }
}

/// The names in the gateway's own certificate: localhost, the machine's name, every `hosts` and `public_url`, and
/// the listen addresses. Other addresses of the machine are not disclosed to clients.
fn names(config: &Config) -> BTreeSet<String> {
    let mut names = config.certificate_names();
    names.extend([
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "::1".to_owned(),
    ]);
    names.insert(machine_name());
    let listened = config.listen.iter().map(|listen| &listen.address);
    let listened = listened.filter_map(host_of);
    names.extend(listened.filter(|host| host.parse().is_ok_and(|ip: IpAddr| !ip.is_unspecified())));
    if config.admin.tls.is_auto() {
        let host = config.admin.address.as_ref().and_then(host_of);
        let is_unspecified = |ip: IpAddr| ip.is_unspecified();
        names.extend(host.filter(|host| !host.parse().is_ok_and(is_unspecified)));
    }
    names
}

/// The host of an address; `None` for all addresses, and for a socket file.
fn host_of(address: &ListenAddress) -> Option<String> {
    match address {
        ListenAddress::Tcp { host, .. } => host.clone(),
        ListenAddress::Unix(_) => None,
    }
}
