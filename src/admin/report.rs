//! What the API says and is told: the shapes of its JSON, for both ends.

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
    /// Where there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bucket: Option<BucketStats>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStats {
    /// Taken or promised.
    pub bytes: u64,
    pub max_bytes: u64,
    pub objects: u64,
    pub evicted: u64,
    pub evicted_bytes: u64,
}

/// What was answered of one kind of content.
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
    /// As the registry said last, where it does.
    pub ratelimit_remaining: Option<u64>,
}

/// What happened with the bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketStats {
    /// Records and bodies that it had, and had not.
    pub hits: u64,
    pub misses: u64,
    /// Questions and changes that failed or took too long.
    pub failures: u64,
    /// Records and bodies that were not what they should be.
    pub verify_failures: u64,
    /// Bodies that were written there, or were there already.
    pub uploads: u64,
    pub uploads_dropped: u64,
    /// Changes of records that did not get there.
    pub records_dropped: u64,
    /// Downloads that waited in vain for another gateway's.
    pub lease_timeouts: u64,
}

/// The body of `POST /api/purge`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurgeAsked {
    /// An image, a digest or a registry.
    pub target: String,
    #[serde(default)]
    pub dry_run: bool,
}

/// Its answer: what went, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeReport {
    pub dry_run: bool,
    pub tags: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// Other records of the v1 API, on either side.
    #[serde(default)]
    pub beside: u64,
    pub files: u64,
    pub bytes: u64,
    /// Files that stay, since other repositories have a claim to them.
    pub shared: u64,
    /// The tags, manifests and blobs by name, and where other records were; the first of them.
    pub names: Vec<String>,
    /// How many more there are.
    pub more: u64,
}

/// A line of the answer to `POST /api/verify`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyLine {
    pub blobs: u64,
    pub of_blobs: u64,
    pub bytes: u64,
    pub of_bytes: u64,
    pub damaged: u64,
    /// In the last line, without which the answer is not whole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub done: Option<VerifyEnd>,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyEnd {
    /// Set aside, since their bytes are not what their name says, or cannot be read.
    pub damaged: Vec<String>,
}

/// The body of `POST /api/warm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmAsked {
    pub image: String,
    /// `os/architecture[/variant]` or `all`; without it, what the gateway's machine is.
    #[serde(default)]
    pub platform: Option<String>,
}

/// A line of its answer: how far the image is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmLine {
    /// Blobs that are here.
    pub blobs: u64,
    pub of_blobs: u64,
    /// Bytes of blobs that are here, as far as is known beforehand how many there are.
    pub bytes: u64,
    pub of_bytes: u64,
    /// Bytes of blobs that were not here before.
    pub fetched: u64,
    /// Blobs that are coming.
    #[serde(default)]
    pub coming: Vec<WarmBlob>,
    /// Why nothing happens just now.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub waits: Option<String>,
    /// In the last line, without which the answer is not whole.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub done: Option<WarmEnd>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmBlob {
    pub digest: String,
    pub bytes: u64,
    /// Where it is known.
    pub size: Option<u64>,
}

/// What a pull beforehand came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmEnd {
    /// Why it is not all here.
    pub error: Option<String>,
}

/// Every answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub error: String,
}
