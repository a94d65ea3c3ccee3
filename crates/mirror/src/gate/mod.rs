//! The gate of a registry at every read of its content.
//!
//! A function that yields a manifest or a blob takes its digest as [`Cleared`], which only this module makes: after the
//! gate let it through, or because its registry has none. Access is decided before, by the permit.

mod check;
mod dry_run;
mod manifest;
mod records;
mod signature;
mod tag;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use dry_run::{DryGate, DryVerdict};
pub(super) use manifest::Via;
pub use records::GATE_RECORDS;

use super::Mirror;
use super::error::MirrorError;
use super::manifest::ManifestAnswer;
use super::origin::OriginView;
use ::gate::{Denial, Gate, Mode};
use access::Permit;
use check::GateCheck;
use oci::cache_status::CacheStatus;
use oci::digest::Digest;
use oci::name::{Reference, RepositoryName, Tag};
use oci::v2::Resource;
use telemetry::metrics;

/// How many verdicts are remembered, and for how long: then the records are opened again, which counts as their use.
const MAX_SERVED: u64 = 65_536;
const SERVED_TTL: Duration = Duration::from_secs(3600);
/// How many manifests are remembered whose names were recorded, and how many tags that are too young.
const MAX_EXPANDED: u64 = 65_536;
const MAX_NOTICED: u64 = 16_384;
/// How long an answer waits for a gate that only reports.
const REPORT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an answer waits for a verdict. It leaves time for the rest of a request that is answered within 10 s.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(8);

/// A digest that is served from a permit's repository, as far as its gate is concerned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cleared<'a> {
    digest: &'a Digest,
    /// How the cache had the manifest when the gate read it for this request.
    read: Option<CacheStatus>,
}

impl<'a> Cleared<'a> {
    /// A digest that the gate reads itself, or has cleared without reading it.
    const fn of(digest: &'a Digest) -> Self {
        Self { digest, read: None }
    }

    /// A digest whose manifest is fetched and not served: once the gate clears it, it is at hand.
    pub const fn ahead(digest: &'a Digest) -> Self {
        Self::of(digest)
    }

    pub fn digest(self) -> &'a Digest {
        self.digest
    }

    /// How the cache handled the request, given how it had the manifest at last.
    pub fn cache_status(self, last: CacheStatus) -> CacheStatus {
        self.read.unwrap_or(last)
    }

    /// Any digest of a registry without a gate.
    ///
    /// # Errors
    /// The gate, if it has one.
    pub fn without_gate<'g>(origin: &'g OriginView, digest: &'a Digest) -> Result<Self, &'g Gate> {
        origin.gate().map_or(Ok(Self::of(digest)), Err)
    }

    /// The digest of a manifest that is being answered.
    pub fn answered(answer: &'a ManifestAnswer) -> Self {
        Self::of(&answer.digest)
    }
}

/// What is remembered of the content of all repositories.
#[derive(Debug)]
pub(super) struct GateState {
    served: moka::sync::Cache<(RepositoryName, Content), Standing>,
    /// The manifests whose names this process has recorded.
    expanded: moka::sync::Cache<(RepositoryName, Digest), ()>,
    /// The tags that this process knows to be too young.
    noticed: moka::sync::Cache<(RepositoryName, Tag), Noticed>,
}

/// Content of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Content {
    Manifest(Digest),
    Blob(Digest),
}

/// What a served manifest vouches for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Everything that it names.
    Whole,
    /// Its blobs: it is there because of the manifest that it belongs to.
    Companion,
}

/// A tag that is too young, by the steady clock.
#[derive(Clone, Copy, Debug)]
struct Noticed {
    /// The time of the move, by the clock on the wall.
    moved_at: u64,
    /// When this process first saw it so.
    at: Instant,
    /// Its age then.
    age: Duration,
}

impl GateState {
    pub fn new() -> Self {
        Self {
            served: moka::sync::Cache::builder()
                .max_capacity(MAX_SERVED)
                .time_to_live(SERVED_TTL)
                .build(),
            expanded: moka::sync::Cache::new(MAX_EXPANDED),
            noticed: moka::sync::Cache::new(MAX_NOTICED),
        }
    }

    /// What is remembered after a change of the rules: how long tags have been too young.
    pub fn without_verdicts(&self) -> Self {
        Self {
            noticed: self.noticed.clone(),
            ..Self::new()
        }
    }

    /// The time that can have passed since a tag moved, if this process has seen it so.
    fn age_of(&self, tag: &(RepositoryName, Tag), moved_at: u64) -> Option<Duration> {
        let known = self.noticed.get(tag)?;
        let age = known.age.saturating_add(known.at.elapsed());
        (known.moved_at == moved_at).then_some(age)
    }
}

impl MirrorError {
    /// A denial by a gate.
    pub(super) fn gate(denial: Denial) -> Self {
        Self::Gate(Arc::new(denial))
    }
}

/// Denies a read by the names in it alone, before anything is looked up.
pub(super) fn check_names(
    origin: &OriginView,
    permit: &Permit,
    resource: &Resource,
) -> Result<(), MirrorError> {
    let Some(gate) = origin.enforced_gate() else {
        return Ok(());
    };
    let name = permit.name();
    gate.repository(name).map_err(MirrorError::gate)?;
    if let Resource::Manifest(Reference::Tag(tag)) = resource {
        gate.tag(name, tag).map_err(MirrorError::gate)?;
    }
    Ok(())
}

impl Mirror {
    /// Clears a manifest that is requested by its digest.
    ///
    /// # Errors
    /// [`MirrorError::Gate`], or why the gate could not judge it.
    pub(super) async fn clear_manifest<'a>(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &'a Digest,
    ) -> Result<Cleared<'a>, MirrorError> {
        let mut cleared = Cleared::of(digest);
        if let Some(gate) = origin.gate() {
            let check = self.gate_check(gate, origin, permit);
            let read = Box::pin(check.settle(check.manifest(digest))).await?;
            cleared.read = read.flatten();
        }
        Ok(cleared)
    }

    /// Clears a blob: a manifest that was served must name it.
    ///
    /// # Errors
    /// As [`Mirror::clear_manifest`].
    pub(super) async fn clear_blob<'a>(
        &self,
        origin: &OriginView,
        permit: &Permit,
        digest: &'a Digest,
    ) -> Result<Cleared<'a>, MirrorError> {
        if let Some(gate) = origin.gate() {
            let check = self.gate_check(gate, origin, permit);
            Box::pin(check.settle(check.blob(digest))).await?;
        }
        Ok(Cleared::of(digest))
    }

    fn gate_check<'a>(
        &'a self,
        gate: &'a Gate,
        origin: &'a OriginView,
        permit: &'a Permit,
    ) -> GateCheck<'a> {
        GateCheck {
            mirror: self,
            gate,
            origin,
            permit,
        }
    }
}

impl OriginView {
    /// Whether lists show a repository.
    pub(super) fn shows(&self, name: &RepositoryName) -> bool {
        let gate = self.enforced_gate();
        gate.is_none_or(|gate| gate.repository(name).is_ok())
    }

    /// The gate, if it denies anything.
    pub(super) fn enforced_gate(&self) -> Option<&Gate> {
        self.gate().filter(|gate| gate.mode() == Mode::Enforce)
    }
}

/// Counts and logs what a gate would have denied.
fn report(denial: &Denial) {
    metrics::gate_denied(
        denial.name.registry.as_str(),
        denial.rule.as_str(),
        Mode::Report.as_str(),
    );
    tracing::info!(
        registry = denial.name.registry.as_str(),
        repository = denial.name.repository.as_str(),
        reference = denial.reference.as_deref().unwrap_or("-"),
        rule = denial.rule.as_str(),
        reason = denial.reason,
        "the gate would deny this"
    );
}
