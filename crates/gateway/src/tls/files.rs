//! The TLS configuration of one listener, reloaded when its files change: the certificate is selected by SNI, and
//! with `client_ca` clients must present one of their own.
//!
//! A change applies to new connections; open ones are unaffected. Session tickets belong to a configuration, so no
//! session from before a change can be resumed.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;

use acme::Challenges;

use super::authority::{Authority, is_usable};
use super::validity::expires_soon;
use super::{CertificateFiles, TlsError, chain, load};
use runtime::reload::{self, Reloaded};
use telemetry::alerts::{self, AlertKind};

/// The configuration for the handshakes of new connections.
pub type CurrentTls = watch::Receiver<HandshakeConfig>;

/// How new connections do their handshakes.
#[derive(Clone, Debug)]
pub struct HandshakeConfig {
    /// With all of the listener's certificates.
    pub config: Arc<ServerConfig>,
    /// What verifies the clients' certificates; `None`: they need none.
    pub client_ca: Option<Arc<dyn ClientCertVerifier>>,
}

/// The interval between attempts to renew our certificate.
const RETRY_INTERVAL: Duration = Duration::from_secs(3600);

/// The interval between checks whether the operator's certificates expire soon.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// TLS with the operator's files, at least one pair: the first is the default, the others are selected by SNI. With
/// `client_ca`, a client certificate of one of its CAs is required. All files are reloaded when they change.
///
/// # Errors
/// [`TlsError`] if a file cannot be read, or a key does not belong to its certificate.
///
/// # Panics
/// Outside a Tokio runtime.
pub fn with_files(
    certificates: &[CertificateFiles],
    client_ca: Option<&Path>,
) -> Result<CurrentTls, TlsError> {
    keep(ListenerFiles::open(certificates, client_ca)?, certificates)
}

/// TLS with the certificate of an ACME authority, which is reloaded when it was renewed. The authority's own connections get
/// the certificates of `challenges`.
///
/// # Errors
/// [`TlsError`] if the file cannot be read.
///
/// # Panics
/// Outside a Tokio runtime.
pub fn with_acme(file: &Path, challenges: Challenges) -> Result<CurrentTls, TlsError> {
    // One file, so that a renewed certificate never meets the key of another.
    let certificates = [CertificateFiles {
        certificate: file.to_owned(),
        key: file.to_owned(),
    }];
    let listener = ListenerFiles {
        challenges: Some(challenges),
        ..ListenerFiles::open(&certificates, None)?
    };
    keep(listener, &certificates)
}

/// Reloads the files when they change, and alerts of certificates that expire soon.
fn keep(
    mut listener: ListenerFiles,
    certificates: &[CertificateFiles],
) -> Result<CurrentTls, TlsError> {
    let (sender, current) = watch::channel(listener.config()?);
    let files: Vec<PathBuf> = certificates
        .iter()
        .map(|pair| pair.certificate.clone())
        .collect();
    let mut check_at = Instant::now();
    reload::keep_looking(move || {
        if sender.is_closed() {
            return ControlFlow::Break(());
        }
        listener.look(&sender);
        if Instant::now() >= check_at {
            check_at = Instant::now() + CHECK_INTERVAL;
            listener.alert_of_expiry(&files, SystemTime::now());
        }
        ControlFlow::Continue(())
    });
    Ok(current)
}

/// TLS with a certificate of `authority` for `names`, which is renewed 30 days before it expires, until it is retired. Returns
/// its files as well.
///
/// # Errors
/// [`TlsError`] if there is no certificate and none can be issued.
///
/// # Panics
/// Outside a Tokio runtime.
pub(super) fn with_authority(
    authority: Authority,
    names: BTreeSet<String>,
    retired: Arc<AtomicBool>,
) -> Result<(CertificateFiles, CurrentTls), TlsError> {
    let files = authority.leaf(&names, SystemTime::now())?;
    let mut listener = ListenerFiles::open(std::slice::from_ref(&files), None)?;
    let (sender, current) = watch::channel(listener.config()?);
    let mut failed: Option<Instant> = None;
    reload::keep_looking(move || {
        if sender.is_closed() || retired.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        listener.look(&sender);
        let now = SystemTime::now();
        let wait = failed.is_some_and(|at| at.elapsed() < RETRY_INTERVAL);
        if wait
            || listener
                .leaf()
                .is_some_and(|leaf| is_usable(leaf, &names, now))
        {
            return ControlFlow::Continue(());
        }
        // The next look reloads the files that this writes.
        failed = authority.leaf(&names, now).err().map(|error| {
            tracing::error!(%error, "cannot renew our certificate; retrying in an hour");
            Instant::now()
        });
        ControlFlow::Continue(())
    });
    Ok((files, current))
}

/// The files of one listener.
struct ListenerFiles {
    certificates: Vec<Reloaded<Arc<CertifiedKey>, TlsError>>,
    client_ca: Option<Reloaded<Arc<dyn ClientCertVerifier>, TlsError>>,
    /// The challenges of the ACME authority that issues the certificate.
    challenges: Option<Challenges>,
}

impl ListenerFiles {
    fn open(certificates: &[CertificateFiles], client_ca: Option<&Path>) -> Result<Self, TlsError> {
        let pair = |files: &CertificateFiles| {
            let mut paths = vec![files.certificate.clone(), files.key.clone()];
            paths.dedup();
            let files = files.clone();
            // Each pair by itself, so that a broken one does not prevent the others from being reloaded.
            Reloaded::open(paths, move || load(&files))
        };
        let authorities = |path: &Path| {
            let path = path.to_owned();
            Reloaded::open(vec![path.clone()], move || client_verifier(&path))
        };
        Ok(Self {
            certificates: certificates.iter().map(pair).collect::<Result<_, _>>()?,
            client_ca: client_ca.map(authorities).transpose()?,
            challenges: None,
        })
    }

    /// The default certificate.
    fn leaf(&self) -> Option<&rustls::pki_types::CertificateDer<'static>> {
        self.certificates.first()?.value().cert.first()
    }

    /// Alerts the operator of certificates that expire soon. `files` are their files.
    fn alert_of_expiry(&self, files: &[PathBuf], now: SystemTime) {
        for (pair, file) in self.certificates.iter().zip(files) {
            let leaf = pair.value().cert.first();
            if let Some(left) = leaf.and_then(|leaf| expires_soon(leaf, now)) {
                let (file, hours) = (file.display().to_string(), left.as_secs() / 3600);
                tracing::warn!(file, hours, "a certificate expires soon");
                let message = format!("the certificate expires in {hours} hours");
                alerts::raise(AlertKind::CertificateExpires, file, message);
            }
        }
    }

    /// Reloads changed files and publishes the new configuration.
    fn look(&mut self, current: &watch::Sender<HandshakeConfig>) {
        let certificates = self.certificates.iter_mut().filter_map(Reloaded::look);
        let mut changed: Vec<String> = certificates.collect();
        changed.extend(self.client_ca.as_mut().and_then(Reloaded::look));
        if changed.is_empty() {
            return;
        }
        match self.config() {
            Ok(config) => {
                current.send_replace(config);
                for files in changed {
                    reload::announce(&files);
                }
            }
            Err(error) => tracing::error!(%error, "cannot use the changed certificates"),
        }
    }

    fn config(&self) -> Result<HandshakeConfig, TlsError> {
        let certificates = self.certificates.iter().map(|pair| pair.value().clone());
        let client_ca = self.client_ca.as_ref();
        let client_ca = client_ca.map(|verifier| verifier.value().clone());
        Ok(HandshakeConfig {
            config: server_config(
                certificates.collect(),
                client_ca.clone(),
                self.challenges.clone(),
            )?,
            client_ca,
        })
    }
}

/// A configuration with these certificates, the first of which is the default. With `client_ca`, clients must present
/// a certificate too.
pub(super) fn server_config(
    certificates: Vec<Arc<CertifiedKey>>,
    client_ca: Option<Arc<dyn ClientCertVerifier>>,
    challenges: Option<Challenges>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder();
    let builder = match client_ca {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if challenges.is_some() {
        protocols.push(acme::ALPN.to_vec());
    }
    let mut config = builder.with_cert_resolver(Arc::new(BySni {
        certificates,
        challenges,
    }));
    config.alpn_protocols = protocols;
    // Its keys are its own: tickets from before a change or of another listener are rejected.
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

/// Checks client certificates against the CAs of a PEM file.
pub(super) fn client_verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let unusable = |reason: String| TlsError::ClientCa {
        path: path.to_owned(),
        reason,
    };
    let mut roots = RootCertStore::empty();
    for certificate in chain(path)? {
        let added = roots.add(certificate);
        added.map_err(|error| unusable(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
    verifier.map_err(|error| unusable(error.to_string()))
}

#[derive(Debug)]
struct BySni {
    certificates: Vec<Arc<CertifiedKey>>,
    challenges: Option<Challenges>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut protocols = hello.alpn().into_iter().flatten();
        if let Some(challenges) = &self.challenges
            && protocols.any(|protocol| protocol == acme::ALPN)
        {
            // Without a challenge the handshake fails.
            return challenges.certificate(hello.server_name()?);
        }
        let server_name = hello
            .server_name()
            .and_then(|name| rustls::pki_types::ServerName::try_from(name).ok());
        let matching = server_name.and_then(|server_name| {
            self.certificates.iter().find(|candidate| {
                let leaf = candidate.cert.first();
                let leaf =
                    leaf.and_then(|leaf| rustls::server::ParsedCertificate::try_from(leaf).ok());
                leaf.is_some_and(|leaf| {
                    rustls::client::verify_server_name(&leaf, &server_name).is_ok()
                })
            })
        });
        matching.or(self.certificates.first()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn errors_name_the_unusable_file() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(folder.path()).expect("an authority");
        let good = authority
            .leaf(&BTreeSet::from(["localhost".to_owned()]), SystemTime::now())
            .expect("a leaf");
        let at = |name: &str| folder.path().join(name);
        let file = |name: &str, text: &str| {
            fs::write(at(name), text).expect("writable");
            at(name)
        };
        let broken = file("broken.pem", "no pem");
        let invalid = file(
            "invalid.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        let with = |certificate: &Path, key: &Path, client_ca: Option<&PathBuf>| {
            let files = CertificateFiles {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            };
            let listener = ListenerFiles::open(&[files], client_ca.map(PathBuf::as_path));
            listener.and_then(|listener| listener.config()).map(drop)
        };
        let (chain, key) = (&good.certificate, &good.key);
        assert!(with(chain, key, None).is_ok());
        assert!(with(chain, key, Some(&authority.path)).is_ok());
        for (chain, key, client_ca, words) in [
            (&broken, key, None, "broken.pem holds no certificate"),
            (chain, &broken, None, "broken.pem holds no private key"),
            (chain, &at("ca.key"), None, "ca.key holds no private key"),
            (&at("none"), key, None, "cannot read"),
            (chain, key, Some(&at("none")), "cannot read"),
            (chain, key, Some(&broken), "broken.pem holds no certificate"),
            (chain, key, Some(key), "leaf.key holds no certificate"),
            (chain, key, Some(&invalid), "invalid.pem holds no CA"),
        ] {
            let error = with(chain, key, client_ca).expect_err("an unusable file");
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
