//! The files of certificates and accounts, below the folder of keys: a folder for each authority, with its account, and a
//! certificate for each set of hosts.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::placeholder;
use super::renewal::{interim, value_for};
use super::{AcmeError, Settings, write};
use oci::digest::{Algorithm, Digest};
use runtime::keys_folder;

/// The folder below that of the keys.
const FOLDER: &str = "acme";

/// The files of one certificate.
#[derive(Clone, Debug)]
pub struct Files {
    /// The certificate, those of its issuers, and its key.
    pub certificate: PathBuf,
    /// The account at the authority.
    pub account: PathBuf,
}

/// The file with the certificate of these settings, those of its issuers, and the key.
pub fn certificate_file(settings: &Settings, keys: &Path) -> PathBuf {
    let hosts: Vec<&str> = settings.hosts.iter().map(String::as_str).collect();
    let first = hosts.first().copied().unwrap_or_default();
    folder(settings, keys).join(name(first, &hosts.join(",")) + ".pem")
}

fn folder(settings: &Settings, keys: &Path) -> PathBuf {
    let rest = settings.directory.split_once("://").map(|(_, rest)| rest);
    let host = rest.and_then(|rest| rest.split('/').next());
    let name = name(host.unwrap_or_default(), &settings.directory);
    keys.join(FOLDER).join(name)
}

/// A file name for any text: what operators know it by, and the first digits of its hash.
fn name(label: &str, text: &str) -> String {
    let plain = |letter: char| match letter {
        '.' | '0'..='9' | 'a'..='z' | 'A'..='Z' => letter,
        _ => '-',
    };
    let mut name: String = label.chars().map(plain).take(64).collect();
    name.push('-');
    name.push_str(&Digest::of(Algorithm::Sha256, text.as_bytes()).hex()[..16]);
    name
}

impl Files {
    /// Opens the files. Where there is no certificate yet, the saved one of other settings that has most of these hosts is taken
    /// until there is, else a self-signed one. Blocks on the disk.
    ///
    /// # Errors
    /// [`AcmeError::Keys`] and [`AcmeError::Write`]: the folder cannot be used; [`AcmeError::Make`].
    pub fn open(settings: &Settings, keys: &Path, now: SystemTime) -> Result<Self, AcmeError> {
        keys_folder::open(keys)?;
        let folder = folder(settings, keys);
        let made = fs::create_dir_all(&folder);
        made.map_err(|source| AcmeError::Write {
            path: folder.clone(),
            source,
        })?;
        let files = Self {
            certificate: certificate_file(settings, keys),
            account: folder.join("account.json"),
        };
        if !is_usable(&files.certificate) {
            let pem = match best_of(&keys.join(FOLDER), &settings.hosts, now) {
                Some(pem) => interim(&pem),
                None => placeholder(&settings.hosts)?.into_bytes(),
            };
            write(&files.certificate, &pem)?;
        }
        Ok(files)
    }
}

/// Whether a file has a certificate and its key.
fn is_usable(path: &Path) -> bool {
    let Ok(pem) = fs::read(path) else {
        return false;
    };
    let usable = certified(&pem).is_some();
    if !usable {
        let file = path.display();
        tracing::warn!(%file, "this file has no certificate with its key any more; another is ordered");
    }
    usable
}

/// The certificate of a PEM file that has its key as well.
fn certified(pem: &[u8]) -> Option<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.ok().filter(|chain| !chain.is_empty())?;
    let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).ok()
}

/// The saved certificate that has most of these hosts, and of those the one that expires last.
fn best_of(folder: &Path, hosts: &BTreeSet<String>, now: SystemTime) -> Option<Vec<u8>> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let files = entries(folder).into_iter().flat_map(|of| entries(&of));
    let saved = files.filter_map(|path| fs::read(path).ok());
    let usable = saved.filter(|pem| certified(pem).is_some());
    let valued = usable.filter_map(|pem| Some((value_for(&pem, hosts, now)?, pem)));
    valued.max_by_key(|(value, _)| *value).map(|(_, pem)| pem)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::super::renewal::due_at;
    use super::super::renewal::tests::{at, hosts, issued};
    use super::*;

    fn settings(directory: &str, names: &[&str]) -> Settings {
        Settings {
            directory: directory.to_owned(),
            email: None,
            hosts: hosts(names),
        }
    }

    #[test]
    fn certificate_of_other_hosts_is_taken_until_there_is_one() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let dir = tempfile::tempdir().expect("a folder");
        let keys = dir.path().join("keys");
        let now = at(1000);
        let open = |settings: &Settings| {
            let files = Files::open(settings, &keys, now).expect("opened");
            let path = files.certificate;
            assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
            (fs::read(&path).expect("readable"), path)
        };
        let one = settings("https://a/dir", &["a.example"]);
        let (pem, path) = open(&one);
        let parts: Vec<&str> = path
            .iter()
            .rev()
            .take(2)
            .map(|part| part.to_str().expect("text"))
            .collect();
        assert!(
            parts[0].starts_with("a.example-") && parts[1].starts_with("a-"),
            "{parts:?}"
        );
        // A self-signed one, which another start keeps.
        assert_eq!(value_for(&pem, &one.hosts, now), None);
        assert_eq!(open(&one).0, pem);
        let saved = issued(&["a.example"], at(0), at(90));
        fs::write(&path, &saved).expect("writable");
        assert_eq!(open(&one).0, saved.as_bytes());
        fs::write(&path, "damaged").expect("writable");
        assert_eq!(value_for(&open(&one).0, &one.hosts, now), None);

        fs::write(&path, issued(&["a.example"], at(0), at(9000))).expect("writable");
        let two = settings("https://a/dir", &["a.example", "b.example"]);
        let (taken, path) = open(&two);
        assert!(value_for(&taken, &two.hosts, now).is_some());
        assert_eq!(due_at(&taken, &two.hosts), None, "another is ordered");
        fs::write(&path, issued(&["a.example", "b.example"], at(0), at(8000))).expect("writable");
        // The one with both hosts, though it expires earlier, and though it is of another authority.
        let other = settings("https://b/dir", &["a.example", "b.example"]);
        let (taken, _) = open(&other);
        assert_eq!(value_for(&taken, &other.hosts, now), Some((2, at(8000))));
        assert_eq!(due_at(&taken, &other.hosts), None, "another is ordered");
        let foreign = settings("https://a/dir", &["c.example"]);
        assert_eq!(value_for(&open(&foreign).0, &foreign.hosts, now), None);
    }
}
