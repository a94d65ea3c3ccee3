//! Connections, routing and answers; the only crate that names pingora.

mod access_log;
mod admission;
mod answer;
mod application;
mod catalogue;
mod close_delimited;
mod connection;
mod context;
mod delegated_auth;
mod error_response;
mod failure;
mod forward;
mod head;
mod host;
mod location;
mod login;
mod mount;
mod old_clients;
mod pass_through;
mod preface;
mod pull;
mod request_body;
mod request_metrics;
mod resolver;
mod respond;
mod response;
mod route;
mod search;
mod send;
mod server;
mod session;
mod socket;
mod table;
mod target;
mod tls;
mod token;
#[cfg_attr(not(feature = "v1"), path = "without_v1.rs")]
mod v1;

use std::sync::Arc;
use std::time::Duration;

use pingora_core::Error;

pub use admission::Admission;
pub use old_clients::OldClients;
pub use resolver::{NameContext, RegistryEntry, ResolveError, Resolver};
pub use server::{Server, ServerSettings};
pub use table::{Listener, RoutingTable};
pub use tls::{
    Authority, AutoTls, CertificateFiles, ListenerTls, TlsError, TlsSettings, with_files,
};

use access::{Authenticator, Policy};
use mirror::{Mirror, MirrorError};

/// State shared by all listeners.
#[derive(Debug)]
pub struct AppState {
    pub table: RoutingTable,
    pub policy: Policy,
    /// `None`: everybody is anonymous.
    pub authenticator: Option<Authenticator>,
    pub mirror: Mirror,
    #[cfg(feature = "v1")]
    pub v1: ::v1::V1,
    /// Whether every request is logged.
    pub access_log: bool,
    /// Room for requests.
    pub admission: Admission,
    /// How long the form of a `POST /token` may take to arrive.
    pub form_timeout: Duration,
    /// How long a write may make no progress.
    pub idle_timeout: Duration,
}

/// The gateway behind one listener.
#[derive(Clone, Debug)]
pub struct Gateway {
    state: Arc<AppState>,
    listener: Listener,
}

/// Why a request has no answer yet.
#[derive(Debug)]
enum Failure {
    /// Nothing was sent; this can still be said.
    Mirror(MirrorError),
    /// The connection is of no more use.
    Connection(Box<Error>),
}

impl From<MirrorError> for Failure {
    fn from(error: MirrorError) -> Self {
        Self::Mirror(error)
    }
}

impl From<Box<Error>> for Failure {
    fn from(error: Box<Error>) -> Self {
        Self::Connection(error)
    }
}

impl Gateway {
    pub fn new(state: Arc<AppState>, listener: Listener) -> Self {
        Self { state, listener }
    }
}
