//! The JSON of `/api/v1/explain`, for the server and for the command.

use serde::{Deserialize, Serialize};

use crate::admin::manifest::{ContentState, Image};
use crate::admin::report::{BreakerReport, RateLimitState};

/// The body of `POST /api/v1/explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// As a client would write it.
    pub image: String,
    /// A user; `None`: anonymous.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A client's name or User-Agent; `None`: a current containerd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The client's address; `None`: this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// `listen[].address`; `None`: the first that the client can reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// `?ns=`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ns: Option<String>,
    /// The Host; `None`: that of the image's name, else the listener's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `os/architecture[/variant]` or `all`; `None`: the platform of the gateway's machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Whether the registry is asked for the tag with one HEAD.
    #[serde(default)]
    pub ask: bool,
}

/// Its response: how a pull would be answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// As asked for.
    pub image: String,
    pub asked_upstream: bool,
    pub listener: ListenerPart,
    pub request: RequestPart,
    pub client: ClientPart,
    /// `None`: no registry claims the name.
    pub route: Option<RoutePart>,
    /// `None` without a registry.
    pub access: Option<AccessPart>,
    /// `None` for a digest, and where nothing is looked up.
    pub tag: Option<TagPart>,
    /// `None` where the digest is not known, and where nothing is looked up.
    pub manifest: Option<ManifestPart>,
    /// `None` without a gate, and where it is not asked.
    pub gate: Option<GatePart>,
    /// `None` but for clients of the v1 API.
    pub v1_image: Option<V1ImagePart>,
    pub upstream: UpstreamPart,
    pub answer: AnswerPart,
}

/// The listener that gets the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerPart {
    pub address: String,
    pub url: String,
}

/// The first request of the pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestPart {
    pub method: String,
    pub host: String,
    pub target: String,
}

/// How the client is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPart {
    pub user_agent: String,
    /// `v1` or `v2`
    pub api: String,
    pub accept_class: String,
    pub because: String,
    /// `None`: this machine.
    pub address: Option<String>,
    pub reachable: bool,
    /// `None` for a client that is not limited.
    pub requests_in_flight: Option<u64>,
    pub requests_limit: Option<u64>,
}

/// Which registry, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutePart {
    pub registry: String,
    pub repository: String,
    pub reference: String,
    /// `listener`, `ns`, `host`, `prefix`, `owns` or `default`.
    pub by: String,
    pub cached: bool,
    pub because: String,
}

/// Whether the client may pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessPart {
    #[serde(flatten)]
    pub own: JudgementPart,
    /// `None`: it counts as anonymous.
    pub user: Option<String>,
    /// The rule that allows it.
    pub rule: Option<String>,
    /// Its line in the configuration.
    pub rule_line: Option<u64>,
    pub anonymous: JudgementPart,
    /// `None` where logins do not count.
    pub unknown_user: Option<JudgementPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgementPart {
    /// `allowed`, `challenged`, `denied` or `delegated`.
    pub decision: String,
    pub status: u16,
    pub because: String,
}

/// What the gate of the registry does with the pull.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatePart {
    /// `enforce` or `report`.
    pub mode: String,
    /// `served`, `pinned`, `held-back`, `denied` or `undecided`.
    pub decision: String,
    /// The rule that decides; `None` if none denies it.
    pub rule: Option<String>,
    pub because: String,
}

/// The cached pointer of the tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagPart {
    /// `fresh`, `stale`, `expired`, `absent` or `not-found`.
    pub state: String,
    pub accept_class: Option<String>,
    pub digest: Option<String>,
    pub age_seconds: Option<u64>,
    pub fresh_until: Option<String>,
    pub ttl_seconds: Option<u64>,
    pub because: String,
}

/// The manifest that the reference leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPart {
    pub digest: String,
    pub state: ContentState,
    /// Whether the repository is known to have it.
    pub linked: bool,
    pub images: Vec<Image>,
    pub images_total: u64,
}

/// An image of the v1 API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1ImagePart {
    /// `None` if it is not known.
    pub id: Option<String>,
    pub because: String,
    pub parts: Vec<V1Part>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1Part {
    /// `<id>/json` or `<id>/layer`
    pub name: String,
    pub digest: Option<String>,
    pub size_bytes: Option<u64>,
    pub state: ContentState,
}

/// What the pull would ask upstream, and its cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamPart {
    pub requests: Vec<UpstreamRequest>,
    /// Whether requests are left out that depend on what only the registry can name.
    pub incomplete: bool,
    pub rate_limit_cost: u64,
    pub rate_limit_remaining: Option<u64>,
    pub rate_limit: Option<RateLimitState>,
    pub breaker: Option<BreakerReport>,
    /// `None` where sizes are not known.
    pub fetch_bytes: Option<u64>,
    /// Later reads that would fail now.
    pub failures: Vec<FailedRead>,
    /// What the registry said to the HEAD.
    pub said: Option<SaidPart>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRequest {
    pub method: String,
    pub url: String,
    /// Whether it is sent in any case, as far as is known.
    pub certain: bool,
    pub counted: bool,
    pub size_bytes: Option<u64>,
    pub because: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRead {
    pub content: String,
    pub status: u16,
    pub because: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SaidPart {
    /// `same`, `moved`, `found`, `not-found`, `refused`, `limited` or `failed`.
    pub outcome: String,
    pub digest: Option<String>,
    pub duration_seconds: f64,
    pub because: String,
}

/// The answer to the first request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerPart {
    /// 0: the client cannot connect.
    pub status: u16,
    pub cache_status: Option<String>,
    pub because: String,
}
