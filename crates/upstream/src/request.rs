//! A request that the gateway makes of a registry on its own behalf, before it is sent.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, header};

/// The limit on a request with a short answer, all attempts together: a client without a cached answer gets an
/// error within 10 s.
pub const SHORT_TIMEOUT: Duration = Duration::from_secs(8);
/// The limit on the wait for the headers of a large body.
pub const BODY_HEADERS_TIMEOUT: Duration = Duration::from_secs(20);

/// One request. It changes nothing upstream, so it may be sent several times.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    pub(super) method: Method,
    /// Path and query, with a leading slash.
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    /// What a token must allow: `repository:<name>:pull`.
    pub(super) scope: String,
    pub(super) kind: RequestKind,
    /// From the first attempt to the headers of the last one.
    pub(super) timeout: Duration,
    pub(super) auth: AuthSource,
    pub(super) content_coding: ContentCoding,
}

/// The kind of a request, as far as limits and errors distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestKind {
    /// Counts towards a registry's pull limit.
    ManifestGet,
    /// Registries without the referrers API answer 404.
    Referrers,
    Other,
}

/// The identity that a request or token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The configured account, if there is one.
    Account,
    /// No account, as an anonymous client.
    Anonymous,
}

/// Where the `Authorization` of a request comes from.
#[derive(Clone, Debug)]
pub(super) enum AuthSource {
    /// The configured account, as the registry's challenges ask for it.
    Gateway,
    /// No account; a challenge is answered with an anonymous token.
    Anonymous,
    /// The client's own header, forwarded unchanged to the registry's own origin. A refusal is the client's, not
    /// the gateway's.
    Caller(Option<HeaderValue>),
    /// A header that is sent without a challenge; no challenge is answered.
    Preemptive(Option<HeaderValue>),
}

/// How a `Content-Encoding` in the response is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentCoding {
    /// As an error: the digest is that of the stored bytes, so no coding may come between.
    Refuse,
    /// As meaningless: the server labels its content, not a coding.
    Ignore,
}

impl UpstreamRequest {
    pub(super) fn new(method: Method, path: String, scope: String, auth: AuthSource) -> Self {
        let request = Self {
            method,
            path,
            headers: HeaderMap::new(),
            scope,
            kind: RequestKind::Other,
            timeout: SHORT_TIMEOUT,
            auth,
            content_coding: ContentCoding::Refuse,
        };
        request.header(header::ACCEPT_ENCODING, "identity")
    }

    /// Sets a header; a value that is no header value is left out.
    #[must_use]
    pub fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    /// Waits up to [`BODY_HEADERS_TIMEOUT`] for the headers.
    #[must_use]
    pub const fn large_body(mut self) -> Self {
        self.timeout = BODY_HEADERS_TIMEOUT;
        self
    }

    /// Takes the body as it is, whatever `Content-Encoding` the response has.
    #[must_use]
    pub const fn ignore_content_coding(mut self) -> Self {
        self.content_coding = ContentCoding::Ignore;
        self
    }
}
