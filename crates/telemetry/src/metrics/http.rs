//! HTTP metrics on the client side: number, duration and size of requests, by resource.
//!
//! A table maps a request to its counters, without hashing labels under a lock: each cell is filled when the first such
//! request ends.

use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};
use prometheus::{Opts, Registry};

use super::register::{counters, registered};
use super::{Content, METRICS};

/// The resource of a request, by the route names of the distribution registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/v2/`
    Base,
    /// `/v2/<name>/manifests/<reference>`
    Manifest,
    /// `/v2/<name>/blobs/<digest>`
    Blob,
    /// `/v2/<name>/blobs/uploads/`: uploads begin, blobs are mounted.
    BlobUpload,
    /// `/v2/<name>/blobs/uploads/<id>`: chunks of an upload, its status and its end.
    BlobUploadChunk,
    /// `/v2/<name>/tags/list`
    Tags,
    /// `/v2/<name>/referrers/<digest>`
    Referrers,
    /// `/v2/_catalog`
    Catalog,
    /// `/token`, where clients log in.
    Token,
    /// `/v1/…` and `/_ping`.
    V1,
    /// Any other path, or a request that cannot be parsed.
    Other,
}

impl Resource {
    /// The kind of cached content that it is.
    pub const fn content(self) -> Option<Content> {
        match self {
            Self::Manifest => Some(Content::Manifest),
            Self::Blob => Some(Content::Blob),
            Self::Base
            | Self::BlobUpload
            | Self::BlobUploadChunk
            | Self::Tags
            | Self::Referrers
            | Self::Catalog
            | Self::Token
            | Self::V1
            | Self::Other => None,
        }
    }
}

const RESOURCES: [&str; 11] = [
    "base",
    "manifest",
    "blob",
    "blob_upload",
    "blob_upload_chunk",
    "tags",
    "referrers",
    "catalog",
    "token",
    "v1",
    "other",
];

/// The last one stands for all others.
const METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "other"];

/// The statuses that the gateway sends, and those of upstreams that pass through.
const CODES: [u16; 36] = [
    200, 201, 202, 203, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 406, 408,
    409, 410, 411, 412, 413, 414, 415, 416, 421, 429, 431, 500, 501, 502, 503, 504, 507,
];
/// The indexes after those: no response, and any other status.
const NONE: usize = CODES.len();
const OTHER: usize = CODES.len() + 1;

/// From a cached manifest to a large layer over a slow link, in seconds.
const SECONDS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];
/// From 1 KiB to 4 GiB.
const BYTES: [f64; 12] = [
    1024.0,
    4096.0,
    16384.0,
    65536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
];

pub(super) struct Http {
    in_flight: [IntGauge; RESOURCES.len()],
    seconds: HistogramVec,
    received: HistogramVec,
    sent: HistogramVec,
    requests: IntCounterVec,
    table: [[OnceLock<Cell>; METHODS.len()]; RESOURCES.len()],
}

/// The metrics of one resource and method.
struct Cell {
    seconds: Histogram,
    received: Histogram,
    sent: Histogram,
    codes: [OnceLock<IntCounter>; OTHER + 1],
}

impl Http {
    pub fn new(registry: &Registry) -> Self {
        let labels = &["handler", "method"];
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            registered(registry, HistogramVec::new(options, labels))
        };
        let in_flight = Opts::new(
            "registry_http_in_flight_requests",
            "Requests that are being answered.",
        );
        let in_flight = registered(registry, IntGaugeVec::new(in_flight, &["handler"]));
        Self {
            in_flight: RESOURCES.map(|resource| in_flight.with_label_values(&[resource])),
            seconds: histogram(
                "registry_http_request_duration_seconds",
                "From a request's head to the end of its answer.",
                &SECONDS,
            ),
            received: histogram(
                "registry_http_request_size_bytes",
                "Bytes of requests' bodies.",
                &BYTES,
            ),
            sent: histogram(
                "registry_http_response_size_bytes",
                "Bytes of answers' bodies.",
                &BYTES,
            ),
            requests: counters(
                registry,
                "registry_http_requests_total",
                "Requests that ended; the code is none where the client left before an answer.",
                &["handler", "method", "code"],
            ),
            table: std::array::from_fn(|_| std::array::from_fn(|_| OnceLock::new())),
        }
    }

    fn cell(&self, resource: Resource, method: usize) -> &Cell {
        self.table[resource as usize][method].get_or_init(|| {
            let labels = [RESOURCES[resource as usize], METHODS[method]];
            Cell {
                seconds: self.seconds.with_label_values(&labels),
                received: self.received.with_label_values(&labels),
                sent: self.sent.with_label_values(&labels),
                codes: std::array::from_fn(|_| OnceLock::new()),
            }
        })
    }

    fn count(&self, resource: Resource, answered: &Answered<'_>) {
        let method = place(&METHODS[..METHODS.len() - 1], |known| {
            answered.method.eq_ignore_ascii_case(known)
        });
        let cell = self.cell(resource, method.unwrap_or(METHODS.len() - 1));
        let code = match answered.status {
            None => NONE,
            Some(status) => CODES.binary_search(&status).unwrap_or(OTHER),
        };
        let counter = cell.codes[code].get_or_init(|| {
            let code = match code {
                NONE => "none".to_owned(),
                OTHER => "other".to_owned(),
                known => CODES[known].to_string(),
            };
            let labels = [
                RESOURCES[resource as usize],
                METHODS[method.unwrap_or(METHODS.len() - 1)],
                &code,
            ];
            self.requests.with_label_values(&labels)
        });
        counter.inc();
        cell.seconds.observe(answered.took.as_secs_f64());
        cell.received.observe(size(answered.received));
        cell.sent.observe(size(answered.sent));
    }
}

fn place(known: &[&str], is: impl Fn(&str) -> bool) -> Option<usize> {
    known.iter().position(|one| is(one))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a bucket's bound is far coarser"
)]
const fn size(bytes: usize) -> f64 {
    bytes as f64
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Answered<'a> {
    /// As sent; one that no endpoint has counts as `other`.
    pub method: &'a str,
    /// `None` where the client disconnected before the response.
    pub status: Option<u16>,
    /// From the head of the request to the end of the response.
    pub took: Duration,
    /// Bytes read of the request's body.
    pub received: usize,
    /// Bytes sent of the response's body.
    pub sent: usize,
}

/// A request in flight, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Resource);

impl InFlight {
    /// Counts a request that begins.
    pub fn new(resource: Resource) -> Self {
        METRICS.http.in_flight[resource as usize].inc();
        Self(resource)
    }

    /// The resource that it counts for.
    pub fn resource(&self) -> Resource {
        self.0
    }

    /// Counts the end of the request, and the bytes of cached content that were sent.
    pub fn ended(&self, answered: &Answered<'_>, content: Option<Content>) {
        METRICS.http.count(self.0, answered);
        if let Some(content) = content {
            METRICS.content(content).pushed.inc_by(answered.sent as u64);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        METRICS.http.in_flight[self.0 as usize].dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded() {
        assert!(CODES.is_sorted(), "they are searched");
        let registry = Registry::new();
        let http = Http::new(&registry);
        let count = |method, status| {
            let answered = Answered {
                method,
                status,
                took: Duration::from_millis(3),
                received: 0,
                sent: 70_000,
            };
            http.count(Resource::Blob, &answered);
        };
        count("GET", Some(200));
        count("get", Some(200));
        count("BREW", Some(418));
        count("PUT", None);
        let mut text = String::new();
        let encoder = prometheus::TextEncoder::new();
        encoder
            .encode_utf8(&registry.gather(), &mut text)
            .expect("text");
        for line in [
            r#"registry_http_requests_total{code="200",handler="blob",method="get"} 2"#,
            r#"registry_http_requests_total{code="other",handler="blob",method="other"} 1"#,
            r#"registry_http_requests_total{code="none",handler="blob",method="put"} 1"#,
            r#"registry_http_response_size_bytes_bucket{handler="blob",method="get",le="65536"} 0"#,
            r#"registry_http_response_size_bytes_bucket{handler="blob",method="get",le="262144"} 2"#,
            r#"registry_http_response_size_bytes_sum{handler="blob",method="get"} 140000"#,
            r#"registry_http_in_flight_requests{handler="referrers"} 0"#,
        ] {
            assert!(
                text.lines().any(|written| written == line),
                "{line} in\n{text}"
            );
        }
        assert!(!text.contains("\"418\"") && !text.to_lowercase().contains("brew"));
    }
}
