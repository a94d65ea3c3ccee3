//! Connections, routing and responses; the only crate that names pingora.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod access_log;
mod acme_challenge;
mod admission;
mod answer;
mod cache_control;
mod catalogue;
mod client_stream;
mod close_delimited;
mod content_event;
mod context;
mod delegated_auth;
mod direct_request;
mod direct_session;
mod error_response;
mod explain;
mod failure;
mod forward;
mod head;
mod history;
mod host;
mod http2;
mod http2_session;
mod location;
mod login;
mod login_attempt;
mod mount;
mod old_clients;
mod pass_through;
mod peer;
mod pull;
mod request_body;
mod request_events;
mod request_id;
mod request_metrics;
mod request_options;
mod resolver;
mod respond;
mod response;
mod route;
mod search;
mod send;
mod serve;
mod server;
mod session;
mod shared_stream;
mod socket;
mod table;
mod target;
mod tls;
mod token;
mod trusted_proxy;
#[cfg_attr(not(feature = "v1"), path = "without_v1.rs")]
mod v1;

use std::sync::Arc;
use std::time::Duration;

use pingora_core::Error;

pub use access_log::AccessRecord;
pub use admission::Admission;
pub use explain::{
    Answer, ApiVersion, ClientError, ExplainedAccess, ExplainedClient, ExplainedContent,
    ExplainedGate, ExplainedListener, ExplainedPart, ExplainedPull, ExplainedRoute, Explainer,
    Explanation, Judgement, PullQuestion, PullSource, QuestionError, SampleClient, SpokenBecause,
    Verdict,
};
pub use failure::status_of;
pub use history::{AccessHistory, FailureKind, FailureRecord};
pub use old_clients::OldClients;
pub use resolver::{ChosenBy, NameContext, RegistryEntry, ResolveError, Resolver};
pub use server::{ListenerPhase, Server, ServerSettings, Service};
pub use table::{Listener, RoutingTable};
pub use tls::{
    Authority, AutoTls, CertificateFiles, ListenerTls, TlsError, TlsSettings, with_acme, with_files,
};
pub use tls::{Certificate, check_authorities};

use access::{Authenticator, Policy};
use error_response::ErrorResponse;
use events::Events;
use mirror::{Mirror, MirrorError};

/// State shared by all listeners.
#[derive(Debug)]
pub struct AppState {
    /// Which registry a name belongs to, and which clients are old.
    pub table: RoutingTable,
    /// Who may do what.
    pub policy: Policy,
    /// `None`: all clients are anonymous.
    pub authenticator: Option<Authenticator>,
    /// The cached read side of v2.
    pub mirror: Mirror,
    /// The cached read side of v1, and the bridge.
    #[cfg(feature = "v1")]
    pub v1: ::v1::V1,
    /// Whether every request is logged.
    pub access_log: bool,
    /// Recent requests, failures and pull counts, in memory.
    pub history: Arc<AccessHistory>,
    /// Where events are recorded; `None`: nowhere.
    pub events: Option<Events>,
    /// Limits the requests in flight.
    pub admission: Arc<Admission>,
    /// What ACME authorities are about to verify.
    pub challenges: acme::Challenges,
    /// The time limit for the form of a `POST /token`.
    pub form_timeout: Duration,
    /// How long a transfer may make no progress.
    pub idle_timeout: Duration,
}

/// The gateway behind one listener.
#[derive(Clone, Debug)]
pub struct Gateway {
    state: Arc<AppState>,
    listener: Listener,
}

/// Why a request could not be answered.
#[derive(Debug)]
enum Failure {
    /// The request is refused with this response.
    Response(ErrorResponse),
    /// The mirror failed before anything was sent.
    Mirror(MirrorError),
    /// The connection cannot be used any more.
    Connection(Box<Error>),
}

impl From<ErrorResponse> for Failure {
    fn from(response: ErrorResponse) -> Self {
        Self::Response(response)
    }
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
    /// Serves the listener's clients from the shared state.
    pub fn new(state: Arc<AppState>, listener: Listener) -> Self {
        Self { state, listener }
    }

    /// The same listener, served from another state.
    fn with_state(&self, state: Arc<AppState>) -> Self {
        Self::new(state, self.listener.clone())
    }
}
