//! TLS of the listeners: server certificates, and the verification of client certificates.

mod authority;
mod auto;
mod client_certificate;
mod files;
mod inspect;
mod listener;
mod validity;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

pub use authority::Authority;
pub use auto::AutoTls;
pub use client_certificate::certificate_user;
pub use files::{with_acme, with_files};
pub use inspect::{Certificate, check_authorities};
pub use listener::ListenerTls;

use runtime::keys_folder::KeysFolderError;
use runtime::reload;

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the listener's own certificate first.
    pub certificate: PathBuf,
    /// The private key of the first certificate.
    pub key: PathBuf,
}

/// Where a listener's certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSettings {
    /// The gateway's own certificate authority.
    Auto {
        /// As for files.
        client_ca: Option<PathBuf>,
    },
    /// Files of the operator.
    Files {
        /// At least one. Chosen by SNI; the first is the default.
        certificates: Vec<CertificateFiles>,
        /// PEM file of CAs; if set, clients must present a certificate of one of them.
        client_ca: Option<PathBuf>,
    },
    /// An ACME authority.
    Acme(acme::Settings),
}

/// Why TLS cannot be set up. The operator can fix each cause.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Our own CA or certificate cannot be saved.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The folder of keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysFolderError),
    /// A file of certificates has none.
    #[error("{} holds no certificate in PEM form: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key's file has none, or another certificate's.
    #[error("{} holds no private key in PEM form that fits its certificate: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The CA for client certificates cannot be used.
    #[error("{} holds no CA that clients can be checked against: {reason}", path.display())]
    ClientCa {
        /// The file of `client_ca`.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificate of an ACME authority cannot be kept.
    #[error(transparent)]
    Acme(#[from] acme::AcmeError),
    /// Our own CA failed to sign.
    #[error("cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// The TLS library refused the settings.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Loads a certificate chain and its key.
///
/// # Errors
/// [`TlsError`] if a file cannot be read or parsed, or the key does not belong to the certificate.
fn load(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = chain(&files.certificate)?;
    let key_error = |reason: String| TlsError::Key {
        path: files.key.clone(),
        reason,
    };
    let pem = read(&files.key)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| key_error(error.to_string()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider);
    Ok(Arc::new(
        certified.map_err(|error| key_error(error.to_string()))?,
    ))
}

/// Reads the certificates of a PEM file, at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificate_error = |reason: String| TlsError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(certificate_error("the file contains none".into())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(certificate_error(error.to_string())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    reload::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })
}
