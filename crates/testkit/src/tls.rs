//! A private certificate authority for upstreams, and the process-wide TLS provider.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;

/// A private certificate authority, with its files in a temporary directory.
pub struct Ca {
    dir: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate alone, without its issuer's.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Ca {
    /// A new CA, in a directory that is deleted when it is dropped.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "roadstead test CA");
        let key = KeyPair::generate().expect("a P-256 key");
        let certificate = params.self_signed(&key).expect("a self-signed CA");
        let dir = crate::temp_dir();
        write(&dir.path().join("ca.crt"), &certificate.pem());
        Self {
            issuer: Issuer::new(params, key),
            dir,
        }
    }

    /// The PEM file to trust.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("ca.crt")
    }

    /// A certificate for these names and addresses, replacing an earlier one for the same. Clients may
    /// use it as well.
    pub fn issue(&self, names: &[&str]) -> Leaf {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let stem = names.join("_");
        self.sign(&stem, &CertificateParams::new(names).expect("valid names"))
    }

    /// A certificate for a client whose subject has this common name.
    pub fn issue_to(&self, common_name: &str) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        self.sign(&format!("client-{common_name}"), &params)
    }

    fn sign(&self, stem: &str, params: &CertificateParams) -> Leaf {
        let key = KeyPair::generate().expect("a P-256 key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf");
        let leaf = Leaf {
            certificate: self.dir.path().join(format!("{stem}.pem")),
            key: self.dir.path().join(format!("{stem}.key")),
        };
        write(&leaf.certificate, &certificate.pem());
        write(&leaf.key, &key.serialize_pem());
        leaf
    }
}

/// A server configuration with this certificate, HTTP/1.1 only.
pub fn server_config(leaf: &Leaf) -> Arc<rustls::ServerConfig> {
    install_provider();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates(&leaf.certificate), key(leaf))
        .expect("a certificate and its key");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// A client configuration that trusts `ca` only and offers these ALPN protocols.
pub fn client_config(ca: &Path, alpn: &[&str]) -> Arc<rustls::ClientConfig> {
    client_config_as(ca, alpn, None)
}

/// [`client_config`] with a client certificate.
pub fn client_config_as(
    ca: &Path,
    alpn: &[&str],
    identity: Option<&Leaf>,
) -> Arc<rustls::ClientConfig> {
    install_provider();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(ca) {
        roots.add(certificate).expect("a CA certificate");
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let mut config = match identity {
        None => config.with_no_client_auth(),
        Some(leaf) => config
            .with_client_auth_cert(certificates(&leaf.certificate), key(leaf))
            .expect("a certificate and its key"),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// The certificate that a server at `host:port` presents for `name`. The handshake is completed, so
/// its key matches.
#[track_caller]
pub fn shown(authority: &str, ca: &Path, name: &str) -> CertificateDer<'static> {
    let mut socket = std::net::TcpStream::connect(authority).expect("a connection");
    let read_timeout = Some(crate::SOON);
    socket.set_read_timeout(read_timeout).expect("a timeout");
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
    let config = client_config(ca, &[]);
    let mut session = rustls::ClientConnection::new(config, name).expect("a session");
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }
    let chain = session.peer_certificates().expect("certificates");
    chain[0].clone().into_owned()
}

/// Installs aws-lc-rs as the provider of this process; harmless if it already is.
pub fn install_provider() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn key(leaf: &Leaf) -> rustls::pki_types::PrivateKeyDer<'static> {
    rustls::pki_types::PrivateKeyDer::from_pem_file(&leaf.key).expect("a key")
}

/// The certificates of a PEM file.
pub fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
