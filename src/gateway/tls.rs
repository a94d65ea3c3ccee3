//! Certificates: our own authority and what it issues, or the operator's files; chosen by SNI.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Clients refuse longer lives.
const LEAF_LIFE: Duration = Duration::from_secs(397 * 24 * 3600);
/// A leaf this near to its end is issued anew.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Clocks differ.
const BACKDATE: Duration = DAY;

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Why there is no certificate to serve with. All of it is the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("{} holds no certificate in PEM form: {reason}", path.display())]
    Certificate { path: PathBuf, reason: String },
    #[error("{} holds no private key in PEM form that fits its certificate: {reason}", path.display())]
    Key { path: PathBuf, reason: String },
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    #[error("cannot set TLS up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// Our own certificate authority. It, not the leaf, is what clients trust.
#[derive(Debug)]
pub struct Authority {
    /// The certificate to trust, in PEM form.
    pub path: PathBuf,
    /// SHA-256 of the certificate, as `AB:CD:…`.
    pub fingerprint: String,
    folder: PathBuf,
}

impl Authority {
    /// Opens the authority in `folder`, or makes one: the folder 0700, the key 0600.
    ///
    /// # Errors
    /// When the folder cannot be used or what is in it cannot be read.
    pub fn open(folder: &Path) -> Result<Self, TlsError> {
        let write_error = |path: &Path| {
            let path = path.to_owned();
            move |source| TlsError::Write { path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(write_error(folder))?;
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
            .map_err(write_error(folder))?;
        let (path, key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !path.exists() && !key_path.exists() {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            let certificate = authority_params().self_signed(&key)?;
            write_private(&key_path, key.serialize_pem().as_bytes())?;
            write(&path, certificate.pem().as_bytes())?;
        }
        let certificate = chain(&path)?.swap_remove(0);
        Ok(Self {
            fingerprint: fingerprint(&certificate),
            path,
            folder: folder.to_owned(),
        })
    }

    /// A leaf for `names` (host names and addresses): the one on disk while it fits, else a new one.
    ///
    /// # Errors
    /// When the authority's key cannot be read or the leaf cannot be written.
    pub fn leaf(
        &self,
        names: &BTreeSet<String>,
        now: SystemTime,
    ) -> Result<CertificateFiles, TlsError> {
        let files = CertificateFiles {
            certificate: self.folder.join("leaf.pem"),
            key: self.folder.join("leaf.key"),
        };
        let current = load(&files).ok().and_then(|key| key.cert.first().cloned());
        if current.is_some_and(|leaf| fits(&leaf, names, now)) {
            return Ok(files);
        }
        let key_path = self.folder.join("ca.key");
        let key_error = |reason: String| TlsError::Key {
            path: key_path.clone(),
            reason,
        };
        let key = fs::read_to_string(&key_path).map_err(|source| TlsError::Read {
            path: key_path.clone(),
            source,
        })?;
        let key = KeyPair::from_pem(&key).map_err(|error| key_error(error.to_string()))?;
        let issuer = chain(&self.path)?.swap_remove(0);
        let issuer =
            Issuer::from_ca_cert_der(&issuer, key).map_err(|error| TlsError::Certificate {
                path: self.path.clone(),
                reason: error.to_string(),
            })?;
        let leaf_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let leaf = leaf_params(names, now)?.signed_by(&leaf_key, &issuer)?;
        write_private(&files.key, leaf_key.serialize_pem().as_bytes())?;
        write(&files.certificate, leaf.pem().as_bytes())?;
        Ok(files)
    }
}

fn authority_params() -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name = name(&format!("Roadstead CA {}", crate::telemetry::host_name()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + AUTHORITY_LIFE).into();
    params
}

fn leaf_params(names: &BTreeSet<String>, now: SystemTime) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = name("Roadstead");
    for name in names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + LEAF_LIFE).into();
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// Whether a leaf is for exactly these names and lives long enough.
fn fits(leaf: &CertificateDer<'_>, names: &BTreeSet<String>, now: SystemTime) -> bool {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let Ok(Some(alternatives)) = leaf.subject_alternative_name() else {
        return false;
    };
    let known: BTreeSet<String> = alternatives
        .value
        .general_names
        .iter()
        .filter_map(san_text)
        .collect();
    let end = u64::try_from(leaf.validity().not_after.timestamp()).unwrap_or(0);
    known == *names && SystemTime::UNIX_EPOCH + Duration::from_secs(end) > now + RENEW_BEFORE
}

fn san_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
            address.ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

/// What a listener speaks TLS with: the first certificate is the default, the others are chosen by SNI.
///
/// # Errors
/// When a file cannot be read, or a key does not fit its certificate.
pub fn server_config(files: &[CertificateFiles]) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let certificates = files.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(BySni { certificates }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = Ticketer::new()?;
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct BySni {
    certificates: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let wanted = hello
            .server_name()
            .and_then(|name| rustls::pki_types::ServerName::try_from(name).ok());
        let named = wanted.and_then(|wanted| {
            self.certificates.iter().find(|candidate| {
                let leaf = candidate.cert.first();
                let leaf =
                    leaf.and_then(|leaf| rustls::server::ParsedCertificate::try_from(leaf).ok());
                leaf.is_some_and(|leaf| rustls::client::verify_server_name(&leaf, &wanted).is_ok())
            })
        });
        named.or(self.certificates.first()).cloned()
    }
}

fn load(files: &CertificateFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = chain(&files.certificate)?;
    let key_error = |reason: String| TlsError::Key {
        path: files.key.clone(),
        reason,
    };
    let pem = fs::read(&files.key).map_err(|source| TlsError::Read {
        path: files.key.clone(),
        source,
    })?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| key_error(error.to_string()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider);
    Ok(Arc::new(
        certified.map_err(|error| key_error(error.to_string()))?,
    ))
}

/// The certificates of a PEM file, at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = fs::read(path).map_err(|source| TlsError::Read {
        path: path.to_owned(),
        source,
    })?;
    let certificate_error = |reason: String| TlsError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match chain {
        Ok(chain) if chain.is_empty() => Err(certificate_error("there is none".into())),
        Ok(chain) => Ok(chain),
        Err(error) => Err(certificate_error(error.to_string())),
    }
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    use crate::spec::digest::{Algorithm, Digest};

    let hex = Digest::of(Algorithm::Sha256, certificate)
        .hex()
        .to_uppercase();
    let pairs: Vec<&str> = (0..hex.len())
        .step_by(2)
        .map(|at| &hex[at..at + 2])
        .collect();
    pairs.join(":")
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    write_with(path, bytes, 0o644)
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    write_with(path, bytes, 0o600)
}

fn write_with(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let temporary = path.with_extension("new");
    let written = fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(mode)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| TlsError::Write {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_leaf_is_kept_while_it_fits() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = folder.path().join("keys");
        let authority = Authority::open(&keys).expect("an authority");
        let wanted = names(&["localhost", "127.0.0.1", "::1"]);
        let now = SystemTime::now();
        let leaf = |names: &BTreeSet<String>, now| {
            let files = authority.leaf(names, now).expect("a leaf");
            fs::read(files.certificate).expect("readable")
        };
        let first = leaf(&wanted, now);
        assert_eq!(leaf(&wanted, now), first);
        assert_eq!(leaf(&wanted, now + 366 * DAY), first);
        let renewed = leaf(&wanted, now + 368 * DAY);
        assert_ne!(renewed, first);
        assert_ne!(leaf(&names(&["localhost"]), now + 368 * DAY), renewed);

        let mode = |name: &str| {
            fs::metadata(keys.join(name))
                .expect("there")
                .permissions()
                .mode()
                & 0o777
        };
        assert_eq!(
            (mode("ca.key"), mode("leaf.key"), mode("")),
            (0o600, 0o600, 0o700)
        );
        let again = Authority::open(&keys).expect("the same authority");
        assert_eq!(again.fingerprint, authority.fingerprint);
        assert_eq!(again.fingerprint.len(), 95);
    }

    #[test]
    fn unreadable_certificates_are_named() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let authority = Authority::open(folder.path()).expect("an authority");
        let good = authority
            .leaf(&names(&["localhost"]), SystemTime::now())
            .expect("a leaf");
        let broken = folder.path().join("broken.pem");
        fs::write(&broken, "no pem").expect("writable");
        let with = |certificate: &Path, key: &Path| {
            let files = CertificateFiles {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            };
            server_config(&[files]).map(drop)
        };
        assert!(with(&good.certificate, &good.key).is_ok());
        for (certificate, key, words) in [
            (&broken, &good.key, "broken.pem holds no certificate"),
            (
                &good.certificate,
                &broken,
                "broken.pem holds no private key",
            ),
            (
                &good.certificate,
                &folder.path().join("ca.key"),
                "ca.key holds no private key",
            ),
            (&folder.path().join("none"), &good.key, "cannot read"),
        ] {
            let error = with(certificate, key)
                .expect_err("it is not usable")
                .to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
