//! Certificates from an ACME authority such as Let's Encrypt (RFC 8555): ordered, proven, saved and renewed.
//!
//! A certificate and its key are one file below the folder of keys, which the listener reads like any other and reloads when it
//! changes. Until the first one is there, the file has the certificate of other settings or a self-signed one.

mod account;
mod certificate;
mod challenges;
mod client;
mod files;
mod managed;
mod order;
mod renewal;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use challenges::{ALPN, Challenges};
pub use files::certificate_file;
pub use managed::{ManagedCertificate, ManagedCertificates};

use runtime::keys_folder;
use runtime::replace::replace;

/// The mode of files with a key.
const PRIVATE: u32 = 0o600;

/// `listen[].tls.acme` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The URL of the authority's directory.
    pub directory: String,
    /// Where the authority writes to about the account.
    pub email: Option<String>,
    /// The host names of the certificate, at least one.
    pub hosts: BTreeSet<String>,
}

/// Why there can be no certificate. The operator can fix each cause.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    /// The folder of keys cannot be used.
    #[error(transparent)]
    Keys(#[from] keys_folder::KeysFolderError),
    /// A file below the folder of keys cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// No certificate can be made for the time until there is one.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The HTTP client cannot be set up.
    #[error("cannot set up the client of the ACME authority: {0}")]
    Client(#[from] reqwest::Error),
}

/// Replaces a file that only its owner may read. Blocks on the disk.
fn write(path: &Path, bytes: &[u8]) -> Result<(), AcmeError> {
    replace(path, bytes, PRIVATE).map_err(|source| AcmeError::Write {
        path: path.to_owned(),
        source,
    })
}
