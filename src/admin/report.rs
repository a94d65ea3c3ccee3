//! The JSON of the admin API, for the server and for the commands.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /api/stats`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    pub version: String,
    /// In seconds since 1970.
    pub started_at: u64,
    pub ready: bool,
    pub store: StoreStats,
    pub blobs: Pulls,
    pub manifests: Pulls,
    pub fills: Fills,
    pub verify_failures: VerifyFailures,
    /// Reasons and how often.
    pub stale_served: BTreeMap<String, u64>,
    pub upstreams: Vec<UpstreamStats>,
    /// Absent without a bucket.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bucket: Option<BucketStats>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Used or reserved.
    pub bytes: u64,
    pub max_bytes: u64,
    pub objects: u64,
    pub evicted: u64,
    pub evicted_bytes: u64,
}

/// The requests for one kind of content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulls {
    pub requests: u64,
    pub hits: u64,
    pub misses: u64,
    pub coalesced: u64,
    /// From upstream.
    pub pulled_bytes: u64,
    /// To clients.
    pub pushed_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fills {
    pub in_flight: u64,
    pub resumed: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyFailures {
    pub upstream: u64,
    pub disk: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamStats {
    pub registry: String,
    pub requests: u64,
    pub failures: u64,
    /// The last value that the registry sent, if it sends one.
    pub ratelimit_remaining: Option<u64>,
}

/// The traffic with the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketStats {
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

/// The body of `POST /api/purge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeRequest {
    /// An image, a digest or a registry.
    pub target: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// Its response: what was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeReport {
    pub dry_run: bool,
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// Records of no v2 repository: those that serve old clients.
    #[serde(default, rename = "beside")]
    pub other_records: u64,
    pub files: u64,
    pub bytes: u64,
    /// Files that stay because other repositories have links to them.
    pub shared: u64,
    /// The names of the first tags, manifests, blobs and other records.
    pub names: Vec<String>,
    /// The number of names left out.
    pub more: u64,
}

/// A line of the response to `POST /api/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyLine {
    pub blobs: u64,
    pub of_blobs: u64,
    pub bytes: u64,
    pub of_bytes: u64,
    pub damaged: u64,
    /// Present in the last line; without it the response is incomplete.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub done: Option<VerifyEnd>,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyEnd {
    /// The digests of blobs that were quarantined: they do not match or cannot be read.
    pub damaged: Vec<String>,
}

/// The body of `POST /api/warm`.
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
    pub of_blobs: u64,
    /// Bytes of blobs in the store; blobs of unknown size are not counted.
    pub bytes: u64,
    pub of_bytes: u64,
    /// Bytes of blobs that were not in the store before.
    pub fetched: u64,
    /// Blobs that are being fetched.
    #[serde(default, rename = "coming")]
    pub in_progress: Vec<WarmBlob>,
    /// The reason for waiting, while nothing is fetched.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits: Option<String>,
    /// Present in the last line; without it the response is incomplete.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub done: Option<WarmEnd>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmBlob {
    pub digest: String,
    pub bytes: u64,
    /// Absent if unknown.
    pub size: Option<u64>,
}

/// The result of warming an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmEnd {
    /// The reason why it is not stored completely.
    pub error: Option<String>,
}

/// The body of an error response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}
