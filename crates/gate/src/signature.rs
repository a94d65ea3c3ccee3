//! The public keys that sign images, and what they signed.
//!
//! Signatures are ECDSA on P-256 with SHA-256, in ASN.1; a public key is a `SubjectPublicKeyInfo` in PEM, as
//! `cosign generate-key-pair` writes it.

use std::fmt;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;

use oci::cosign::{SignatureLayer, vouched};
use oci::digest::{Algorithm, Digest};

/// How a `SubjectPublicKeyInfo` of P-256 begins: its algorithm and curve (RFC 5480), then an uncompressed point.
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// The digest of a public key in DER.
pub type Fingerprint = Digest;

/// A public key that signs images.
#[derive(Clone)]
pub struct PublicKey {
    key: ParsedPublicKey,
    fingerprint: Fingerprint,
}

/// Why a file is no public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No `PUBLIC KEY` in PEM.
    #[error(
        "has no PEM block PUBLIC KEY; write the file that cosign generate-key-pair calls cosign.pub"
    )]
    NoKey,
    /// Another algorithm or curve.
    #[error("is not a key of ECDSA on P-256, which is the only kind that is supported")]
    Unsupported,
}

impl PublicKey {
    /// Parses a key in PEM.
    ///
    /// # Errors
    /// [`KeyError`]
    pub fn parse(pem: &[u8]) -> Result<Self, KeyError> {
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| KeyError::NoKey)?;
        if !spki.starts_with(&P256) {
            return Err(KeyError::Unsupported);
        }
        let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, spki.as_ref());
        Ok(Self {
            key: key.map_err(|_| KeyError::Unsupported)?,
            fingerprint: Digest::of(Algorithm::Sha256, &spki),
        })
    }

    /// The digest of the key in DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// Whether it signed these bytes.
    fn signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(bytes, signature).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.fingerprint)
    }
}

/// The key that signed a payload which vouches for a digest; `None`: it vouches for another one, or no key signed it.
pub fn is_signature_of(
    digest: &Digest,
    payload: &[u8],
    layer: &SignatureLayer,
    keys: &[PublicKey],
) -> Option<Fingerprint> {
    // What is not signed is not parsed.
    let signed = |key: &&PublicKey| key.signed(payload, &layer.signature);
    let key = keys.iter().find(signed)?;
    (vouched(payload)? == *digest).then(|| key.fingerprint())
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
