//! Certificates and keys that the gateway makes itself: for the time until there is one, and for requests of one.

use std::collections::BTreeSet;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// A self-signed certificate of these hosts, and its key, as PEM.
pub fn placeholder(hosts: &BTreeSet<String>) -> Result<String, rcgen::Error> {
    let mut params = params(hosts)?;
    params
        .distinguished_name
        .push(DnType::CommonName, "Roadstead, waiting for ACME");
    let key = key()?;
    let certificate = params.self_signed(&key)?;
    Ok(certificate.pem() + &key.serialize_pem())
}

/// A request of a certificate of these hosts, in DER, and its new key.
pub fn request(hosts: &BTreeSet<String>) -> Result<(Vec<u8>, KeyPair), rcgen::Error> {
    let key = key()?;
    let request = params(hosts)?.serialize_request(&key)?;
    Ok((request.der().to_vec(), key))
}

/// Whether the first certificate of a PEM file is of this key.
pub fn is_of_key(pem: &str, key: &KeyPair) -> bool {
    let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else {
        return false;
    };
    let leaf = X509Certificate::from_der(&der);
    leaf.is_ok_and(|(_, leaf)| leaf.public_key().raw == key.subject_public_key_info())
}

fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}

fn params(hosts: &BTreeSet<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(hosts.iter().cloned().collect::<Vec<_>>())?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_of_their_keys() {
        let pem = placeholder(&BTreeSet::from(["a.example".to_owned()])).expect("a certificate");
        let its = KeyPair::from_pem(&pem[pem.find("-----BEGIN PRIVATE").expect("a key")..]);
        assert!(is_of_key(&pem, &its.expect("a key")));
        let other = key().expect("a key");
        assert!(!is_of_key(&pem, &other));
        assert!(!is_of_key("no certificate", &other));
    }
}
