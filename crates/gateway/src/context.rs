//! What is known of a request while it is answered, for the log and the metrics.

use std::time::Instant;

use super::admission::Admitted;
use super::target::RequestTarget;
use super::v1;
use access::Login;
use telemetry::metrics::InFlight;

/// A request that is being answered.
#[derive(Debug)]
pub struct RequestContext {
    pub started: Instant,
    pub in_flight: InFlight,
    /// Its room, given back at its end.
    pub admitted: Option<Admitted>,
    pub login: Login,
    /// What it is about, once it is routed.
    pub target: Option<RequestTarget>,
    pub v1: v1::Seen,
}

impl RequestContext {
    pub fn begin(in_flight: InFlight) -> Self {
        Self {
            started: Instant::now(),
            in_flight,
            admitted: None,
            login: Login::ANONYMOUS,
            target: None,
            v1: v1::Seen::default(),
        }
    }
}
