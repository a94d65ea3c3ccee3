//! The JSON of the admin API, for the server and for the commands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use oci::name::Registry;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// The `after` of the next page; `None`: this was the last.
    pub next: Option<String>,
    /// How many items match in all, where that is known.
    pub total: Option<u64>,
}

/// `GET /api/v1/overview`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    pub at: String,
    pub version: String,
    pub started_at: String,
    pub ready: bool,
    pub not_ready_because: Option<String>,
    pub draining: bool,
    pub traffic: TrafficWindows,
    /// Since the start.
    pub blobs: Pulls,
    /// Since the start.
    pub manifests: Pulls,
    pub store: StoreState,
    pub fills_in_flight: u64,
    pub fills_limit: u64,
    pub fills_resumed: u64,
    pub verify_failures_upstream: u64,
    pub verify_failures_disk: u64,
    /// Reasons and how often.
    pub stale_served: BTreeMap<String, u64>,
    pub bucket: Option<BucketState>,
    pub event_listeners: u64,
    pub event_listeners_limit: u64,
}

/// The traffic of several windows that end now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrafficWindows {
    pub now: Traffic,
    pub hour: Traffic,
    pub day: Traffic,
}

/// The answers to GETs of cached content within a window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    pub window_seconds: u64,
    #[serde(flatten)]
    pub pulls: Pulls,
    /// `None` without requests.
    pub hit_ratio: Option<f64>,
    pub saved_bytes: i64,
}

/// Answers to GETs of cached content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulls {
    pub requests: u64,
    pub hits: u64,
    pub misses: u64,
    pub coalesced: u64,
    /// To clients.
    pub served_bytes: u64,
    /// From upstream.
    pub fetched_bytes: u64,
}

/// The disk cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreState {
    /// Used or reserved.
    pub used_bytes: u64,
    pub max_bytes: u64,
    /// `None` if the file system does not say.
    pub free_bytes: Option<u64>,
    pub min_free_bytes: Option<u64>,
    pub blobs: u64,
    pub partial_bytes: u64,
    pub record_bytes: u64,
    pub quarantine_bytes: u64,
    pub pinned_bytes: u64,
    pub evicted_blobs: u64,
    pub evicted_bytes: u64,
    pub writable: bool,
    pub scanning: bool,
}

/// The traffic with the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketState {
    /// Records and bodies that were found in the bucket, and not found.
    pub hits: u64,
    pub misses: u64,
    /// Requests to the bucket that failed or timed out.
    pub failures: u64,
    /// Records and bodies that failed verification.
    pub verify_failures: u64,
    /// Bodies that were uploaded, or were in the bucket already.
    pub uploads: u64,
    pub uploads_dropped: u64,
    /// Changes of records that were not written to the bucket.
    pub records_dropped: u64,
    /// Downloads whose wait for another gateway's upload timed out.
    pub lease_timeouts: u64,
}

/// A registry as configured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are keys of the configuration, each true or false by itself"
)]
pub struct ConfiguredRegistry {
    pub name: Registry,
    pub aliases: Vec<String>,
    pub v2_url: Option<String>,
    pub v1_url: Option<String>,
    pub hosts: Vec<String>,
    pub default: bool,
    pub push: bool,
    pub cache: bool,
    pub bridge: bool,
    /// `public`, `rules` or `caller`.
    pub visibility: String,
}

/// An item of `GET /api/v1/registries`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RegistryState {
    #[serde(flatten)]
    pub configured: ConfiguredRegistry,
    pub health: Health,
    pub breaker: BreakerReport,
    /// Of all accounts together.
    pub rate_limit: Option<RateLimitState>,
    /// In the configured order; one without a name if there are none.
    pub accounts: Vec<AccountState>,
    pub latency: Option<Latency>,
    pub requests: u64,
    pub failures: u64,
    pub last_failure: Option<LastFailure>,
    pub fills_in_flight: u64,
    pub fills_limit: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Not asked since the start.
    Idle,
    Healthy,
    /// It said 429.
    Limited,
    /// The circuit breaker is open.
    Failing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BreakerReport {
    /// `closed`, `open` or `half-open`.
    pub state: String,
    pub retry_at: Option<String>,
    pub pause_seconds: Option<f64>,
}

/// One of the gateway's accounts at a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// The user name, or the program that supplies it; `None`: anonymous.
    pub name: Option<String>,
    /// Whether the registry refused its login a short while ago.
    pub refused: bool,
    pub rate_limit: Option<RateLimitState>,
}

/// The pulls that the registry allows, as it last said, less those since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimitState {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    pub window_seconds: Option<u64>,
    pub source: Option<String>,
    pub observed_at: Option<String>,
    pub retry_at: Option<String>,
}

/// The time to response headers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub window_seconds: u64,
    pub samples: u64,
    pub p50_seconds: f64,
    pub p95_seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    pub at: String,
    pub message: String,
}

/// `GET /api/v1/config`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// `None`: built-in defaults only.
    pub path: Option<String>,
    pub loaded_at: String,
    /// Every key with its value, secrets masked.
    pub yaml: String,
}

/// The body of `POST /api/v1/purge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// An image, a digest or a registry.
    pub target: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// The response to `POST /api/v1/upgrade`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The id of the process that serves now.
    pub process: u32,
}

/// Its response: what was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeReport {
    pub dry_run: bool,
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// Records of no v2 repository: those that serve old clients.
    pub other_records: u64,
    pub files: u64,
    pub freed_bytes: u64,
    /// Files that stay because other repositories have links to them.
    pub shared_files: u64,
    /// The names of the first tags, manifests, blobs and other records.
    pub names: Vec<String>,
    pub names_left_off: u64,
}

/// A line of the response to `POST /api/v1/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyLine {
    pub blobs: u64,
    pub blobs_total: u64,
    pub bytes: u64,
    pub bytes_total: u64,
    pub damaged: u64,
    /// Present in the last line; without it the response is incomplete.
    pub done: Option<VerifyEnd>,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyEnd {
    /// The digests of the first blobs that were quarantined: they do not match or cannot be read.
    pub damaged: Vec<String>,
    pub damaged_left_off: u64,
}

/// The body of `POST /api/v1/warm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmRequest {
    pub image: String,
    /// `os/architecture[/variant]` or `all`; the default is the platform of the gateway's machine.
    #[serde(default)]
    pub platform: Option<String>,
}

/// A line of its response: the progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmLine {
    /// Blobs in the store.
    pub blobs: u64,
    pub blobs_total: u64,
    /// Bytes of blobs in the store; blobs of unknown size are not counted.
    pub bytes: u64,
    pub bytes_total: u64,
    /// Bytes of blobs that were not in the store before.
    pub fetched_bytes: u64,
    /// Blobs that are being fetched.
    pub in_flight: Vec<WarmBlob>,
    /// The reason for waiting, while nothing is fetched.
    pub waits_because: Option<String>,
    /// Present in the last line; without it the response is incomplete.
    pub done: Option<WarmEnd>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmBlob {
    pub digest: String,
    pub bytes: u64,
    /// `None` if unknown.
    pub size_bytes: Option<u64>,
}

/// The result of warming an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmEnd {
    /// The reason why it is not stored completely.
    pub error: Option<String>,
}

/// The body of an error response (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemBody {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// What failed, why, and what to do.
    pub detail: String,
    /// For programs to decide on.
    pub code: String,
}
