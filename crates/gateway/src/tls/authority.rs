//! The gateway's own certificate authority, which issues the certificates of `tls: auto`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::validity::end_of;
use super::{CertificateFiles, TlsError, chain, load, read};
use runtime::keys_folder;

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Clients reject certificates with a longer validity.
pub(super) const LEAF_VALIDITY: Duration = Duration::from_secs(397 * 24 * 3600);
/// A leaf is renewed this long before it expires.
pub(super) const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Tolerates clients whose clocks are slow.
const BACKDATE: Duration = DAY;

/// The gateway's certificate authority. Clients trust it, not the leaf.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The PEM file of the certificate to trust.
    pub path: PathBuf,
    /// SHA-256 of the certificate, as `AB:CD:…`.
    pub fingerprint: String,
    /// Whether this start made it, so that no client trusts it yet.
    pub is_new: bool,
    folder: PathBuf,
}

impl Authority {
    /// Opens the authority in `folder`, or creates one: the folder with mode 0700, the key with 0600.
    ///
    /// # Errors
    /// [`TlsError`] if the folder or its files cannot be created, read or parsed.
    pub fn open(folder: &Path) -> Result<Self, TlsError> {
        keys_folder::open(folder)?;
        let (path, key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
        let is_new = !path.exists() && !key_path.exists();
        if is_new {
            let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
            let certificate = authority_params().self_signed(&key)?;
            write_private(&key_path, key.serialize_pem().as_bytes())?;
            write(&path, certificate.pem().as_bytes())?;
        }
        let certificate = chain(&path)?.swap_remove(0);
        Ok(Self {
            fingerprint: fingerprint(&certificate),
            path,
            is_new,
            folder: folder.to_owned(),
        })
    }

    /// The leaf for `names` (host names and addresses): the one on disk while it is usable, else a new one.
    ///
    /// # Errors
    /// [`TlsError`] if the authority's key cannot be read or the leaf cannot be written.
    pub fn leaf(
        &self,
        names: &BTreeSet<String>,
        now: SystemTime,
    ) -> Result<CertificateFiles, TlsError> {
        let files = CertificateFiles {
            certificate: self.folder.join("leaf.pem"),
            key: self.folder.join("leaf.key"),
        };
        if let Ok(current) = load(&files)
            && let [leaf, _, ..] = &current.cert[..]
            && is_usable(leaf, names, now)
        {
            return Ok(files);
        }
        let (leaf, leaf_key) = self.sign(names, now)?;
        write_private(&files.key, leaf_key.serialize_pem().as_bytes())?;
        // A client that has the CA's fingerprint gets the CA in the handshake.
        let chain = [leaf.pem().into_bytes(), read(&self.path)?].concat();
        write(&files.certificate, &chain)?;
        tracing::info!(certificate = %files.certificate.display(), "issued our certificate");
        Ok(files)
    }

    /// Issues a leaf for `names` that is not written to disk.
    ///
    /// # Errors
    /// [`TlsError`] if the authority's key cannot be read.
    pub(super) fn issue(
        &self,
        names: &BTreeSet<String>,
        now: SystemTime,
    ) -> Result<Arc<CertifiedKey>, TlsError> {
        let (leaf, key) = self.sign(names, now)?;
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let chain = vec![leaf.der().clone(), chain(&self.path)?.swap_remove(0)];
        let certified = CertifiedKey::from_der(chain, key, &provider)?;
        Ok(Arc::new(certified))
    }

    fn sign(
        &self,
        names: &BTreeSet<String>,
        now: SystemTime,
    ) -> Result<(Certificate, KeyPair), TlsError> {
        let key_path = self.folder.join("ca.key");
        let key_error = |reason: String| TlsError::Key {
            path: key_path.clone(),
            reason,
        };
        let key = String::from_utf8_lossy(&read(&key_path)?).into_owned();
        let key = KeyPair::from_pem(&key).map_err(|error| key_error(error.to_string()))?;
        let issuer = chain(&self.path)?.swap_remove(0);
        let issuer =
            Issuer::from_ca_cert_der(&issuer, key).map_err(|error| TlsError::Certificate {
                path: self.path.clone(),
                reason: error.to_string(),
            })?;
        let leaf_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let leaf = leaf_params(names, now)?.signed_by(&leaf_key, &issuer)?;
        Ok((leaf, leaf_key))
    }
}

fn authority_params() -> CertificateParams {
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.distinguished_name =
        distinguished_name(&format!("Roadstead CA {}", telemetry::host_name()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + AUTHORITY_VALIDITY).into();
    params
}

fn leaf_params(names: &BTreeSet<String>, now: SystemTime) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("Roadstead");
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
    params.not_after = (now + LEAF_VALIDITY).into();
    Ok(params)
}

fn distinguished_name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// Whether a leaf is for exactly these names and not due for renewal.
pub(super) fn is_usable(
    leaf: &CertificateDer<'_>,
    names: &BTreeSet<String>,
    now: SystemTime,
) -> bool {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else {
        return false;
    };
    let Ok(Some(alternatives)) = leaf.subject_alternative_name() else {
        return false;
    };
    let leaf_names: BTreeSet<String> = alternatives
        .value
        .general_names
        .iter()
        .filter_map(san_text)
        .collect();
    leaf_names == *names && end_of(&leaf) > now + RENEW_BEFORE
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

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    use oci::digest::{Algorithm, Digest};

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
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn leaf_is_reused_until_renewal() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let keys = folder.path().join("keys");
        let authority = Authority::open(&keys).expect("an authority");
        let all_names = names(&["localhost", "127.0.0.1", "::1"]);
        let now = SystemTime::now();
        let leaf = |names: &BTreeSet<String>, now| {
            let files = authority.leaf(names, now).expect("a leaf");
            fs::read(files.certificate).expect("readable")
        };
        let first = leaf(&all_names, now);
        assert_eq!(leaf(&all_names, now), first);
        assert_eq!(leaf(&all_names, now + 366 * DAY), first);
        let renewed = leaf(&all_names, now + 368 * DAY);
        assert_ne!(renewed, first);
        assert_ne!(leaf(&names(&["localhost"]), now + 368 * DAY), renewed);

        let mode = |name: &str| {
            fs::metadata(keys.join(name))
                .expect("metadata")
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
}
