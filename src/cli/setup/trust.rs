//! The CA of a gateway, fetched from the gateway itself and recognised by its fingerprint.
//!
//! A gateway with `tls: auto` presents its CA behind its certificate. The connection is accepted only if the presented chain has
//! the CA with the fingerprint, and that CA issued the certificate, for the host that was asked for.

use std::fmt;
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use oci::authority;
use oci::digest::{Algorithm, Digest};

/// The timeout for connecting, and for each step of the handshake.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The SHA-256 of a certificate, in lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

/// The text is no fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a SHA-256 fingerprint; write the 64 hexadecimal digits that the gateway prints at start"
)]
pub struct ParseFingerprintError;

impl FromStr for Fingerprint {
    type Err = ParseFingerprintError;

    /// `AB:CD:…`, as openssl prints it, or digits alone; `sha256:` may stand before them.
    fn from_str(text: &str) -> Result<Self, ParseFingerprintError> {
        let text = text.trim().to_lowercase();
        let text = text
            .strip_prefix("sha256:")
            .unwrap_or(&text)
            .replace(':', "");
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Self(text))
        } else {
            Err(ParseFingerprintError)
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a CA cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The gateway has no TLS.
    #[error("{0} is no host to connect to")]
    Host(String),
    /// The gateway cannot be reached, or speaks no TLS.
    #[error("cannot connect to {authority} over TLS: {source}")]
    Connect {
        /// `host:port`.
        authority: String,
        /// The system's error, or that of the handshake.
        source: io::Error,
    },
    /// No presented certificate has the fingerprint.
    #[error(
        "{authority} presents no CA with that fingerprint, but certificates with {presented}; compare it with the one that the gateway printed. Nothing was written"
    )]
    Mismatch {
        /// `host:port`.
        authority: String,
        /// The fingerprints of what it presents.
        presented: String,
    },
    /// The CA did not issue the gateway's certificate for that host.
    #[error(
        "the CA with that fingerprint does not vouch for {authority}: {reason}. Nothing was written"
    )]
    Refused {
        /// `host:port`.
        authority: String,
        /// The error of the verification.
        reason: String,
    },
    /// The TLS library refused the settings.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Fetches the CA with this fingerprint from the gateway at `host` or `host:port`; returns it as PEM.
///
/// # Errors
/// [`TrustError`]
pub fn fetch(gateway: &str, fingerprint: &Fingerprint) -> Result<String, TrustError> {
    let host_error = || TrustError::Host(gateway.to_owned());
    let (host, port) = authority::parse(gateway).ok_or_else(host_error)?;
    let port = port.unwrap_or(443);
    let name = ServerName::try_from(host.clone()).map_err(|_| host_error())?;
    let verifier = Arc::new(ByFingerprint {
        fingerprint: fingerprint.clone(),
        outcome: Mutex::new(Outcome::Nothing),
    });
    let config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_no_client_auth();
    let session = ClientConnection::new(Arc::new(config), name)?;
    let shaken = shake_hands(&host, port, session);
    let outcome = std::mem::take(
        &mut *verifier
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner),
    );
    let authority = format!("{}:{port}", authority::bracketed(&host));
    match (outcome, shaken) {
        (Outcome::Found(ca), Ok(())) => Ok(pem(&ca)),
        (Outcome::Mismatch(presented), _) => Err(TrustError::Mismatch {
            authority,
            presented: presented.join(", "),
        }),
        (Outcome::Refused(error), _) => Err(TrustError::Refused {
            authority,
            reason: error.to_string(),
        }),
        (Outcome::Found(_) | Outcome::Nothing, Err(source)) => {
            Err(TrustError::Connect { authority, source })
        }
        (Outcome::Nothing, Ok(())) => Err(TrustError::Connect {
            authority,
            source: io::ErrorKind::InvalidData.into(),
        }),
    }
}

/// Connects and does the handshake.
fn shake_hands(host: &str, port: u16, mut session: ClientConnection) -> io::Result<()> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, TIMEOUT) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                while session.is_handshaking() {
                    session.complete_io(&mut stream)?;
                }
                return Ok(());
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn fingerprint_of(certificate: &CertificateDer<'_>) -> String {
    Digest::of(Algorithm::Sha256, certificate).hex().clone()
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = after;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

/// What the verification found.
#[derive(Debug, Default)]
enum Outcome {
    /// It did not come to it.
    #[default]
    Nothing,
    /// The CA, which vouches for the host.
    Found(CertificateDer<'static>),
    /// The fingerprints of what was presented instead.
    Mismatch(Vec<String>),
    /// The CA does not vouch for the host.
    Refused(rustls::Error),
}

/// Trusts the presented CA with the fingerprint, and no other.
#[derive(Debug)]
struct ByFingerprint {
    fingerprint: Fingerprint,
    outcome: Mutex<Outcome>,
}

impl ByFingerprint {
    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Outcome {
        let is_it =
            |certificate: &&CertificateDer<'_>| fingerprint_of(certificate) == self.fingerprint.0;
        let Some(ca) = chain.iter().find(is_it) else {
            return Outcome::Mismatch(chain.iter().map(fingerprint_of).collect());
        };
        let ca = ca.clone().into_owned();
        let verify = || -> Result<(), rustls::Error> {
            let mut roots = RootCertStore::empty();
            roots.add(ca.clone())?;
            let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build();
            let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
            verifier
                .verify_server_cert(&chain[0], &chain[1..], host, &[], now)
                .map(drop)
        };
        match verify() {
            Ok(()) => Outcome::Found(ca),
            Err(error) => Outcome::Refused(error),
        }
    }
}

impl ServerCertVerifier for ByFingerprint {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = [std::slice::from_ref(leaf), intermediates].concat();
        let outcome = self.verify(&chain, host, now);
        let found = matches!(outcome, Outcome::Found(_));
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
        if found {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_have_64_digits() {
        let digits = "0123456789abcdef".repeat(4);
        let pairs: Vec<&str> = (0..32).map(|at| &digits[2 * at..2 * at + 2]).collect();
        let colons = pairs.join(":").to_uppercase();
        for text in [
            digits.clone(),
            colons.clone(),
            format!("sha256:{digits}"),
            format!("SHA256:{colons}"),
        ] {
            assert_eq!(text.parse(), Ok(Fingerprint(digits.clone())), "{text}");
        }
        for text in [
            "",
            "sha256:",
            &digits[1..],
            &format!("{digits}0"),
            &digits.replace('a', "g"),
        ] {
            assert_eq!(
                text.parse::<Fingerprint>(),
                Err(ParseFingerprintError),
                "{text}"
            );
        }
    }
}
