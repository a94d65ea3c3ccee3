//! The HTTP clients of one registry with the CAs that they trust, rebuilt when the `ca` file changes.
//!
//! A request uses the client that is current when it starts. A download in progress keeps its client, and so its
//! connection, until it ends.

use std::ops::ControlFlow;
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
/// The limit on the wait between two reads of a body.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The current clients. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Clients(watch::Receiver<ClientSet>);

#[derive(Clone, Debug)]
struct ClientSet {
    short: Client,
    bodies: Client,
    segments: Client,
    pass_through: Client,
}

/// The versions of HTTP that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HttpVersions {
    All,
    /// Each request has a connection of its own.
    Http1,
}

impl Clients {
    /// Builds the clients. `ca` is a PEM file of CAs, trusted in addition to the system's roots; `idle` is how long unused
    /// connections stay open.
    ///
    /// # Errors
    /// [`SetUpError::Ca`] or [`SetUpError::NoCertificate`] for an unusable `ca`, [`SetUpError::Tls`] for unusable TLS.
    ///
    /// # Panics
    /// With a `ca`, outside of a Tokio runtime.
    pub fn open(
        registry: &str,
        redirects: &RedirectPolicy,
        ca: Option<PathBuf>,
        idle: Option<Duration>,
    ) -> Result<Self, SetUpError> {
        let (name, redirects) = (format!("registry {registry}"), redirects.clone());
        let subject = name.clone();
        let build = move |extra: &[Certificate]| ClientSet::new(&subject, &redirects, extra, idle);
        Ok(Self(current(&name, ca, build)?))
    }

    /// The client of requests with short answers, on the serving runtime.
    pub fn short(&self) -> Client {
        self.0.borrow().short.clone()
    }

    /// The client of requests that pass through, on the serving runtime. It has no read timeout: a push may take hours before
    /// it is answered.
    pub fn pass_through(&self) -> Client {
        self.0.borrow().pass_through.clone()
    }

    /// The client of bodies that fills read, on the fills' runtime, which drives its connections.
    pub fn bodies(&self) -> Client {
        self.0.borrow().bodies.clone()
    }

    /// The client of a fill's further connections, on the fills' runtime. Streams of one HTTP/2 connection would share
    /// its limit.
    pub fn segments(&self) -> Client {
        self.0.borrow().segments.clone()
    }
}

impl ClientSet {
    fn new(
        name: &str,
        redirects: &RedirectPolicy,
        extra: &[Certificate],
        idle: Option<Duration>,
    ) -> Result<Self, SetUpError> {
        let client = |read_timeout, versions| {
            let client = client(redirects, extra, read_timeout, idle, versions);
            client.map_err(|source| SetUpError::Tls {
                client: name.to_owned(),
                source: source.into(),
            })
        };
        Ok(Self {
            short: client(Some(READ_TIMEOUT), HttpVersions::All)?,
            bodies: client(Some(READ_TIMEOUT), HttpVersions::All)?,
            segments: client(Some(READ_TIMEOUT), HttpVersions::Http1)?,
            pass_through: client(None, HttpVersions::All)?,
        })
    }
}

/// The value that `build` makes of the CAs in the file `ca`, now and after each change of it. Errors name `client`.
pub(super) fn current<T: Clone + Send + Sync + 'static>(
    client: &str,
    ca: Option<PathBuf>,
    build: impl Fn(&[Certificate]) -> Result<T, SetUpError> + Send + 'static,
) -> Result<watch::Receiver<T>, SetUpError> {
    let Some(ca) = ca else {
        return Ok(watch::channel(build(&[])?).1);
    };
    let (client, files) = (client.to_owned(), vec![ca.clone()]);
    let mut value = Reloaded::open(files, move || build(&authorities(&client, &ca)?))?;
    let (sender, current) = watch::channel(value.value().clone());
    reload::keep_looking(move || {
        if sender.is_closed() {
            return ControlFlow::Break(());
        }
        if let Some(files) = value.look() {
            sender.send_replace(value.value().clone());
            reload::announce(&files);
        }
        ControlFlow::Continue(())
    });
    Ok(current)
}

/// The certificates of a PEM file, at least one.
fn authorities(client: &str, path: &Path) -> Result<Vec<Certificate>, SetUpError> {
    let pem = reload::read(path).map_err(|source| SetUpError::Ca {
        client: client.to_owned(),
        path: path.to_owned(),
        source,
    })?;
    let unusable = |reason: String| SetUpError::NoCertificate {
        client: client.to_owned(),
        path: path.to_owned(),
        reason,
    };
    let mut certificates = Vec::new();
    for der in CertificateDer::pem_slice_iter(&pem) {
        let der = der.map_err(|error| unusable(error.to_string()))?;
        // Checked before use: the HTTP client's own error names no cause.
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

pub(super) const fn user_agent() -> &'static str {
    concat!("roadstead/", env!("CARGO_PKG_VERSION"))
}

/// A client that follows no redirects and trusts the system's roots, as of now, and `extra`.
fn client(
    redirects: &RedirectPolicy,
    extra: &[Certificate],
    read_timeout: Option<Duration>,
    idle: Option<Duration>,
    versions: HttpVersions,
) -> reqwest::Result<Client> {
    let builder = || {
        let builder = Client::builder()
            .user_agent(user_agent())
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .dns_resolver(redirects.clone())
            .http2_adaptive_window(true)
            .tcp_nodelay(true);
        let builder = match read_timeout {
            Some(timeout) => builder.read_timeout(timeout),
            None => builder,
        };
        let builder = match versions {
            HttpVersions::All => builder,
            HttpVersions::Http1 => builder.http1_only(),
        };
        match idle {
            Some(idle) => builder.pool_idle_timeout(idle),
            None => builder,
        }
    };
    let client = builder().tls_certs_merge(extra.to_vec()).build();
    // A machine without trusted roots still reaches registries over plain HTTP and those of `ca`.
    client.or_else(|_| builder().tls_certs_only(extra.to_vec()).build())
}
