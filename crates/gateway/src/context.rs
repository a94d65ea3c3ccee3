//! The state of a request while it is answered: its options, login and target, for the response, the log and the
//! metrics.

use std::time::Instant;

use super::admission::RequestSlot;
use super::failure::FailureReason;
use super::request_options::RequestOptions;
use super::target::RequestTarget;
use access::Login;
use oci::name::NameScope;
use pingora_http::RequestHeader;
use telemetry::metrics::InFlight;

/// A request that is being answered.
#[derive(Debug)]
pub struct RequestContext {
    pub started: Instant,
    pub in_flight: InFlight,
    /// Its place among the admitted requests, released at its end.
    pub admitted: Option<RequestSlot>,
    pub options: RequestOptions,
    pub login: Login,
    /// The target of a v2 request, once it is routed.
    pub target: Option<RequestTarget>,
    /// What a v1 request is about, once that is known.
    pub v1: Option<NameScope>,
    /// Who sent it.
    pub requester: Requester,
    /// Why it could not be answered.
    pub failure: Option<Box<FailureReason>>,
}

/// Who sent a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requester {
    /// Any client.
    Client,
    /// Another gateway of the bucket, authenticated. Its requests are no accesses of clients, which it logs itself.
    Peer,
}

impl RequestContext {
    pub fn new(request: &RequestHeader, in_flight: InFlight) -> Self {
        Self {
            started: Instant::now(),
            in_flight,
            admitted: None,
            options: RequestOptions::of(&request.method, &request.headers),
            login: Login::ANONYMOUS,
            target: None,
            v1: None,
            requester: Requester::Client,
            failure: None,
        }
    }
}
