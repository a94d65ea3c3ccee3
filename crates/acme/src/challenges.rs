//! The challenges that the authority is about to verify: what listeners answer it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::order::OrderError;

/// The protocol of TLS-ALPN-01 (RFC 8737 §6.2), which no other client speaks.
pub const ALPN: &[u8] = b"acme-tls/1";

/// The challenges of all orders that are in progress. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Challenges(Arc<Mutex<Published>>);

#[derive(Debug, Default)]
struct Published {
    /// Key authorizations by token.
    tokens: HashMap<String, String>,
    /// Certificates by host.
    certificates: HashMap<String, Arc<CertifiedKey>>,
}

/// What one order has published; withdrawn when it is dropped.
#[derive(Debug)]
pub(super) struct Publication {
    challenges: Challenges,
    tokens: Vec<String>,
    hosts: Vec<String>,
}

impl Challenges {
    /// The key authorization of a token of HTTP-01 (RFC 8555 §8.3).
    pub fn key_authorization(&self, token: &str) -> Option<String> {
        self.published().tokens.get(token).cloned()
    }

    /// The certificate of a host for TLS-ALPN-01 (RFC 8737 §3).
    pub fn certificate(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        let host = host.to_ascii_lowercase();
        self.published().certificates.get(&host).cloned()
    }

    pub(super) fn publication(&self) -> Publication {
        Publication {
            challenges: self.clone(),
            tokens: Vec::new(),
            hosts: Vec::new(),
        }
    }

    fn published(&self) -> MutexGuard<'_, Published> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publication {
    pub fn token(&mut self, token: &str, key_authorization: &str) {
        let mut published = self.challenges.published();
        published
            .tokens
            .insert(token.to_owned(), key_authorization.to_owned());
        self.tokens.push(token.to_owned());
    }

    /// # Errors
    /// [`OrderError::Make`] and [`OrderError::Tls`]: no certificate can be made.
    pub fn certificate(&mut self, host: &str, digest: &[u8]) -> Result<(), OrderError> {
        let certificate = certificate(host, digest)?;
        let mut published = self.challenges.published();
        published.certificates.insert(host.to_owned(), certificate);
        self.hosts.push(host.to_owned());
        Ok(())
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let mut published = self.challenges.published();
        for token in &self.tokens {
            published.tokens.remove(token);
        }
        for host in &self.hosts {
            published.certificates.remove(host);
        }
    }
}

/// The self-signed certificate that proves a host by the digest of the key authorization.
fn certificate(host: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, OrderError> {
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    let chain = vec![certificate.der().clone()];
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    // The check of `from_der` refuses the extension, which it does not know and which has to be critical.
    let key = provider.key_provider.load_private_key(key)?;
    Ok(Arc::new(CertifiedKey::new(chain, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_published_until_their_order_ends() {
        let challenges = Challenges::default();
        let mut publication = challenges.publication();
        publication.token("token", "token.thumbprint");
        let made = publication.certificate("registry.example.com", &[7; 32]);
        made.expect("a certificate");
        let answer = challenges.key_authorization("token");
        assert_eq!(answer.as_deref(), Some("token.thumbprint"));
        assert_eq!(challenges.key_authorization("other"), None);
        assert!(challenges.certificate("Registry.example.com").is_some());
        assert!(challenges.certificate("example.com").is_none());
        drop(publication);
        assert_eq!(challenges.key_authorization("token"), None);
        assert!(challenges.certificate("registry.example.com").is_none());
    }
}
