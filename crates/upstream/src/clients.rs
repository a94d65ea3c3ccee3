//! The HTTP clients of one registry and whom they trust: made anew when the `ca` file changes.
//!
//! Whoever asks takes the client of that moment. A download that is under way keeps its own, and with it its
//! connection, until it ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Certificate, Client};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::watch;

use super::SetUpError;
use super::addresses::RedirectPolicy;
use runtime::reload::{self, Reloaded};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);
/// Between two reads of a body.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The clients as they are now. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Clients(watch::Receiver<Three>);

#[derive(Clone, Debug)]
struct Three {
    questions: Client,
    bodies: Client,
    passing: Client,
}

impl Clients {
    /// `ca` is a PEM file of CAs, which are trusted beside the system's roots; `idle` is how long unused
    /// connections are kept.
    ///
    /// # Errors
    /// When it cannot be read or has no CA, or TLS is not usable.
    ///
    /// # Panics
    /// With a `ca`, outside of a runtime.
    pub fn open(
        registry: &str,
        redirects: &RedirectPolicy,
        ca: Option<PathBuf>,
        idle: Option<Duration>,
    ) -> Result<Self, SetUpError> {
        let (registry, redirects) = (registry.to_owned(), redirects.clone());
        let Some(ca) = ca else {
            let pair = Three::new(&registry, &redirects, &[], idle)?;
            return Ok(Self(watch::channel(pair).1));
        };
        let files = vec![ca.clone()];
        let mut pair = Reloaded::open(files, move || {
            Three::new(&registry, &redirects, &authorities(&registry, &ca)?, idle)
        })?;
        let (sender, current) = watch::channel(pair.value().clone());
        reload::keep_looking(move || {
            if let Some(files) = pair.look() {
                sender.send_replace(pair.value().clone());
                reload::announce(&files);
            }
        });
        Ok(Self(current))
    }

    /// For short questions, on the serving runtime.
    pub fn questions(&self) -> Client {
        self.0.borrow().questions.clone()
    }

    /// For requests that pass through, on the serving runtime. It waits as long as it is let: a push may
    /// take hours before it is answered.
    pub fn passing(&self) -> Client {
        self.0.borrow().passing.clone()
    }

    /// For bodies that are filled, on the fills' runtime: their connections live there.
    pub fn bodies(&self) -> Client {
        self.0.borrow().bodies.clone()
    }
}

impl Three {
    fn new(
        registry: &str,
        redirects: &RedirectPolicy,
        extra: &[Certificate],
        idle: Option<Duration>,
    ) -> Result<Self, SetUpError> {
        let client = |read_timeout| {
            client(redirects, extra, read_timeout, idle).map_err(|source| SetUpError::Tls {
                registry: registry.to_owned(),
                source: source.into(),
            })
        };
        Ok(Self {
            questions: client(Some(READ_TIMEOUT))?,
            bodies: client(Some(READ_TIMEOUT))?,
            passing: client(None)?,
        })
    }
}

/// The certificates of a PEM file, at least one.
fn authorities(registry: &str, path: &Path) -> Result<Vec<Certificate>, SetUpError> {
    let pem = reload::read(path).map_err(|source| SetUpError::Ca {
        registry: registry.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    let unusable = |reason: String| SetUpError::NoCertificate {
        registry: registry.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let mut certificates = Vec::new();
    for der in CertificateDer::pem_slice_iter(&pem) {
        let der = der.map_err(|error| unusable(error.to_string()))?;
        // The client would say no more than that its TLS cannot be set up.
        let tried = RootCertStore::empty().add(der.clone());
        tried.map_err(|error| unusable(error.to_string()))?;
        let certificate = Certificate::from_der(&der);
        certificates.push(certificate.map_err(|error| unusable(error.to_string()))?);
    }
    if certificates.is_empty() {
        return Err(unusable("there is none".to_owned()));
    }
    Ok(certificates)
}

/// A client that follows nothing by itself and trusts the system's roots, read now, and `extra`.
fn client(
    redirects: &RedirectPolicy,
    extra: &[Certificate],
    read_timeout: Option<Duration>,
    idle: Option<Duration>,
) -> reqwest::Result<Client> {
    let builder = || {
        let builder = Client::builder()
            .user_agent(concat!("roadstead/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(redirects.clone())
            .http2_adaptive_window(true)
            .tcp_nodelay(true);
        let builder = match read_timeout {
            Some(timeout) => builder.read_timeout(timeout),
            None => builder,
        };
        match idle {
            Some(idle) => builder.pool_idle_timeout(idle),
            None => builder,
        }
    };
    let client = builder().tls_certs_merge(extra.to_vec()).build();
    // A machine without trusted roots can still speak to plain-HTTP registries and to `ca`.
    client.or_else(|_| builder().tls_certs_only(extra.to_vec()).build())
}
