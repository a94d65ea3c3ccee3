//! The operator's certificate files as `roadstead check` sees them, without a listener.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::ServerName;
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use super::files::client_verifier;
use super::validity::{expires_at, expires_soon};
use super::{CertificateFiles, TlsError, load};

/// A certificate with its key.
#[derive(Debug)]
pub struct Certificate(Arc<CertifiedKey>);

impl Certificate {
    /// Reads a chain and its key.
    ///
    /// # Errors
    /// [`TlsError`] if a file cannot be read or parsed, or the key does not belong to the certificate.
    pub fn read(files: &CertificateFiles) -> Result<Self, TlsError> {
        load(files).map(Self)
    }

    /// Whether it names this host.
    pub fn covers(&self, host: &str) -> bool {
        let name = ServerName::try_from(host);
        let leaf = self.0.cert.first();
        let leaf = leaf.and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        match (name, leaf) {
            (Ok(name), Some(leaf)) => rustls::client::verify_server_name(&leaf, &name).is_ok(),
            _ => false,
        }
    }

    /// When it expires.
    pub fn expires_at(&self) -> Option<SystemTime> {
        expires_at(self.0.cert.first()?)
    }

    /// How long it is valid, if it should have been renewed.
    pub fn expires_soon(&self, now: SystemTime) -> Option<Duration> {
        expires_soon(self.0.cert.first()?, now)
    }
}

/// Checks a PEM file of CAs.
///
/// # Errors
/// [`TlsError`] if it cannot be read, or holds no CA.
pub fn check_authorities(path: &Path) -> Result<(), TlsError> {
    client_verifier(path).map(drop)
}
