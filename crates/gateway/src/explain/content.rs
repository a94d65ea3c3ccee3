//! What is cached of an image, and what its pull would ask upstream.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::super::{AppState, failure, v1};
use super::{Answer, ApiVersion, PullQuestion};
use access::Permit;
use gate::Mode;
use mirror::{
    DryRun, GateOutcome, KnownTag, MirrorError, PlannedPull, PlannedRequest, RegistryAnswer,
    StaleReason, TagFreshness,
};
use oci::cache_status::{CacheStatus, Forward};
use oci::digest::Digest;
use oci::name::Reference;
use upstream::UpstreamHealth;

/// What is cached of an image, and what its pull would ask upstream.
#[derive(Clone, Debug)]
pub struct ExplainedContent {
    /// The pointer of the tag; `None` for a digest, and where nothing is cached.
    pub tag: Option<KnownTag>,
    /// What the registry said to the HEAD of an operator, and how long that took.
    pub said: Option<(RegistryAnswer, Duration)>,
    /// What the pull would do, or the error that its first request would get.
    pub pull: Result<ExplainedPull, MirrorError>,
    /// What the gate of the registry does; `None` where it has none, and where another error comes first.
    pub gate: Option<ExplainedGate>,
    /// The requests upstream, in order.
    pub requests: Vec<PlannedRequest>,
    /// The state of the registry; `None` where it has no v2 side.
    pub health: Option<UpstreamHealth>,
}

/// What the gate of a registry does with a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedGate {
    /// Whether it denies anything, or only reports.
    pub mode: Mode,
    /// What its rules say.
    pub outcome: GateOutcome,
}

/// What a pull would do.
#[derive(Clone, Debug)]
pub struct ExplainedPull {
    /// Where the image comes from.
    pub source: PullSource,
    /// The manifest or index that is served first, or that a v1 image is made of; `None` if it is not known.
    pub manifest: Option<Digest>,
    /// How the cache would handle the first request.
    pub cache: CacheStatus,
    /// What the gate of the registry does with the manifest.
    pub gate: Option<GateOutcome>,
    /// Why it is served without the registry's word, if it is.
    pub stale: Option<StaleReason>,
    /// Whether the tag of an image without a manifest is trusted.
    pub freshness: Option<TagFreshness>,
    /// Whether requests are left out that depend on what only the registry can name.
    pub is_incomplete: bool,
    /// Later reads that would fail now, by what they read.
    pub failures: Vec<(String, MirrorError)>,
    /// The id of an image that has no digest.
    pub image_id: Option<String>,
    /// The parts of such an image.
    pub parts: Vec<ExplainedPart>,
}

/// Where an image comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullSource {
    /// The v2 API of the registry, through the cache.
    V2,
    /// The v2 API, each time: nothing of the registry is cached.
    V2PassThrough,
    /// The v1 API, through the cache.
    V1,
    /// The v1 API, each time.
    V1PassThrough,
    /// The v2 API; the image is converted for a v1 client.
    Bridge,
}

/// A part of an image that has no digest: its JSON or layer by the image's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainedPart {
    /// `<id>/json`
    pub name: String,
    /// Known once it was fetched.
    pub digest: Option<Digest>,
    /// In bytes, if known.
    pub size: Option<u64>,
    /// Whether its bytes are stored.
    pub is_stored: bool,
}

impl ExplainedContent {
    /// The answer to the first request.
    pub(super) fn answer(&self) -> Answer {
        match &self.pull {
            Ok(pull) => Answer::of(200, Some(pull.cache), None),
            Err(error) => {
                let (status, _) = failure::status(error);
                let cache = failure::cache_status(error);
                Answer::of(status.as_u16(), Some(cache), Some(error.to_string()))
            }
        }
    }
}

/// Looks up what a pull would do. With [`PullQuestion::asks_registry`] the registry is asked first, with one HEAD.
pub(super) async fn look_up(
    state: Arc<AppState>,
    question: PullQuestion,
    permit: Permit,
    api: ApiVersion,
    is_cached: bool,
) -> ExplainedContent {
    let mut said = None;
    if question.asks_registry {
        let began = Instant::now();
        let class = question.client.accept_class();
        let asked = state
            .mirror
            .ask_registry(&permit, &question.reference, class);
        said = asked.await.ok().map(|answer| (answer, began.elapsed()));
    }
    let (spare, mirror) = (said.clone(), state.mirror.clone());
    let looked_up = tokio::task::spawn_blocking(move || {
        looked_up(&state, &question, &permit, api, is_cached, said)
    });
    looked_up.await.unwrap_or_else(|_| ExplainedContent {
        tag: None,
        said: spare,
        pull: Err(MirrorError::Internal),
        gate: None,
        requests: Vec::new(),
        health: mirror.upstream_health(&oci::name::Registry::new("")),
    })
}

fn looked_up(
    state: &AppState,
    question: &PullQuestion,
    permit: &Permit,
    api: ApiVersion,
    is_cached: bool,
    said: Option<(RegistryAnswer, Duration)>,
) -> ExplainedContent {
    let now = SystemTime::now();
    let answer = said.as_ref().map(|(answer, _)| answer.clone());
    let mut run = state.mirror.dry_run(permit, answer, now);
    let tag = match (&question.reference, &run) {
        (Reference::Tag(tag), Ok(run)) if is_cached && api == ApiVersion::V2 => {
            Some(run.known_tag(tag, question.client.accept_class()))
        }
        _ => None,
    };
    let (pull, requests) = match api {
        ApiVersion::V1 => v1::explained(state, run.as_mut(), permit, question, now),
        ApiVersion::V2 => {
            let pull = match &mut run {
                Ok(run) => planned(run, question, is_cached),
                Err(error) => Err(error.clone()),
            };
            let requests = run.as_ref().map(|run| run.requests().to_vec());
            (pull, requests.unwrap_or_default())
        }
    };
    let mode = run.as_ref().ok().and_then(DryRun::gate_mode);
    let outcome = match &pull {
        Ok(pull) => pull.gate.clone(),
        Err(MirrorError::Gate(denial)) => Some(GateOutcome::Denied(denial.clone())),
        Err(_) => None,
    };
    ExplainedContent {
        tag,
        said,
        pull,
        gate: mode
            .zip(outcome)
            .map(|(mode, outcome)| ExplainedGate { mode, outcome }),
        requests,
        health: state.mirror.upstream_health(permit.registry()),
    }
}

/// A pull by a v2 client.
fn planned(
    run: &mut DryRun,
    question: &PullQuestion,
    is_cached: bool,
) -> Result<ExplainedPull, MirrorError> {
    let class = question.client.accept_class();
    let reference = &question.reference;
    if !is_cached {
        run.pass_through(reference, class)?;
        return Ok(ExplainedPull {
            cache: CacheStatus::forward(Forward::Bypass),
            ..ExplainedPull::of(PullSource::V2PassThrough)
        });
    }
    let PlannedPull {
        manifest,
        is_incomplete,
        failures,
    } = run.pull(reference, class, &question.platforms)?;
    let failures = failures.into_iter();
    Ok(ExplainedPull {
        manifest: manifest.digest,
        cache: manifest.cache,
        gate: manifest.gate,
        stale: manifest.stale.map(|stale| stale.reason),
        is_incomplete,
        failures: failures
            .map(|(digest, error)| (digest.to_string(), error))
            .collect(),
        ..ExplainedPull::of(PullSource::V2)
    })
}

impl ExplainedPull {
    /// A pull of which nothing is known.
    pub(crate) fn of(source: PullSource) -> Self {
        Self {
            source,
            manifest: None,
            cache: CacheStatus::HIT,
            gate: None,
            stale: None,
            freshness: None,
            is_incomplete: true,
            failures: Vec::new(),
            image_id: None,
            parts: Vec::new(),
        }
    }
}
