//! Tags at the gate: the digest that a tag answers, which may not be its target.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::super::Mirror;
use super::super::error::MirrorError;
use super::super::freshness::unix_seconds;
use super::super::manifest::{ManifestAnswer, ReadMethod};
use super::super::tag::{TagRequest, TagTarget};
use super::check::GateCheck;
use super::manifest::Via;
use super::{Cleared, Noticed, report};
use ::gate::{Choice, Gate, Mode, Rule, Sighting, TagRule};
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::Tag;

/// What a tag answers, if the gate lets it.
enum GatedTarget {
    /// Its target.
    Target,
    /// Another digest: a pin, or the target of before with the warning about it.
    Other(Digest, Option<String>),
}

impl Mirror {
    /// The answer of a tag that is bound to a digest; `None`: it is not.
    pub(in super::super) async fn pinned_manifest(
        &self,
        request: TagRequest<'_>,
    ) -> Result<Option<ManifestAnswer>, MirrorError> {
        let (origin, permit) = (request.origin, request.permit);
        let Some(gate) = origin.enforced_gate() else {
            return Ok(None);
        };
        let check = self.gate_check(gate, origin, permit);
        let TagRule::Pinned(digest) = check.tag_rule(request.tag)? else {
            return Ok(None);
        };
        let read = check.judge(&digest, Via::default()).await?;
        let (cleared, method) = (Cleared::of(&digest), request.method);
        let mut answer = self
            .manifest_by_digest(origin, permit, cleared, method)
            .await?;
        answer.cache = read.unwrap_or(answer.cache).detail("pinned");
        Ok(Some(answer))
    }

    /// The manifest of a tag's target, or what the gate answers instead.
    pub(in super::super) async fn gated_target(
        &self,
        gate: &Gate,
        request: TagRequest<'_>,
        target: TagTarget,
    ) -> Result<ManifestAnswer, MirrorError> {
        let (origin, permit) = (request.origin, request.permit);
        let check = self.gate_check(gate, origin, permit);
        let digest = target.digest();
        let decided = match gate.mode() {
            Mode::Enforce => check.target(request, &target).await?,
            Mode::Report => {
                check.settle(check.would_answer(request, &target)).await?;
                GatedTarget::Target
            }
        };
        let (other, warning) = match decided {
            GatedTarget::Target => {
                return self
                    .read_target(request, target, Cleared::of(&digest))
                    .await;
            }
            GatedTarget::Other(other, warning) => (other, warning),
        };
        let answer = self
            .manifest_by_digest(origin, permit, Cleared::of(&other), request.method)
            .await;
        let mut answer = match answer {
            Err(MirrorError::Unknown { .. }) => {
                let denial = gate.gone_previous_denial(permit.name(), request.tag, &other);
                return Err(MirrorError::gate(denial));
            }
            answer => answer?,
        };
        answer.cache = target.cache().or(answer.cache).detail("min_age");
        answer.stale = target.stale();
        answer.warning = warning.map(Arc::from);
        Ok(answer)
    }
}

impl GateCheck<'_> {
    /// The digest that a tag answers, judged.
    async fn target(
        &self,
        request: TagRequest<'_>,
        target: &TagTarget,
    ) -> Result<GatedTarget, MirrorError> {
        let (tag, digest) = (request.tag, target.digest());
        let via = match self.tag_rule(tag)? {
            // Answered before it was resolved.
            TagRule::Pinned(pinned) => {
                self.judge(&pinned, Via::default()).await?;
                return Ok(GatedTarget::Other(pinned, None));
            }
            rule => Via::of(tag, rule),
        };
        let choice = self.choice(request, target).await?;
        let (name, answered) = (
            self.name(),
            match choice {
                Choice::Target => digest,
                Choice::Previous(previous) => previous,
                Choice::Nothing => {
                    let denial = self.gate.young_tag_denial(self.name(), tag, &digest);
                    return Err(MirrorError::gate(denial));
                }
            },
        );
        self.judge(&answered, via)
            .await
            .map_err(|error| match error {
                MirrorError::Gate(_) if via.tag.is_none() => {
                    MirrorError::gate(self.gate.companion_denial(name, tag))
                }
                error => error,
            })?;
        Ok(match choice {
            Choice::Previous(previous) => {
                let warning = self.gate.held_back(name, tag, &digest);
                GatedTarget::Other(previous, Some(warning))
            }
            Choice::Target | Choice::Nothing => GatedTarget::Target,
        })
    }

    /// Reports a tag that would answer something else than its target, or nothing.
    async fn would_answer(
        &self,
        request: TagRequest<'_>,
        target: &TagTarget,
    ) -> Result<(), MirrorError> {
        let (name, tag) = (self.name(), request.tag);
        let (rule, other) = match self.tag_rule(tag)? {
            TagRule::Pinned(pinned) => (Rule::Pins, pinned),
            TagRule::Allowed | TagRule::CompanionOf(_) => {
                match self.target(request, target).await? {
                    GatedTarget::Target => return Ok(()),
                    GatedTarget::Other(previous, _) => (Rule::MinAge, previous),
                }
            }
        };
        if other != target.digest() {
            report(&self.gate.other_target(rule, name, tag, &other));
        }
        Ok(())
    }

    /// What a tag answers by the age of its target.
    async fn choice(
        &self,
        request: TagRequest<'_>,
        target: &TagTarget,
    ) -> Result<Choice, MirrorError> {
        let Some(min_age) = self.gate.min_age() else {
            return Ok(Choice::Target);
        };
        if request.class != AcceptClass::Schema1 {
            let before = target.served_before();
            return self
                .observe(request.tag, target.digest(), before, min_age)
                .await;
        }
        // What a registry generates for schema 1 clients is as old as what it generates it from.
        let original = TagRequest {
            class: AcceptClass::Full,
            method: ReadMethod::Head,
            ..request
        };
        let original = Box::pin(self.mirror.target_of(original)).await?;
        let before = original.served_before();
        let choice = self
            .observe(request.tag, original.digest(), before, min_age)
            .await?;
        Ok(match choice {
            Choice::Target => Choice::Target,
            Choice::Previous(_) | Choice::Nothing => Choice::Nothing,
        })
    }

    /// Compares a tag's target with its history.
    async fn observe(
        &self,
        tag: &Tag,
        target: Digest,
        served_before: Option<Digest>,
        min_age: Duration,
    ) -> Result<Choice, MirrorError> {
        let records = self.records();
        let failed = |error| MirrorError::Disk(Arc::new(error));
        let known = records.history(tag).await.map_err(failed)?;
        // The most frequent case writes nothing.
        if let Some(known) = &known
            && known.digest == target
            && known.moved_at.is_none()
        {
            return Ok(Choice::Target);
        }
        let now = unix_seconds(SystemTime::now());
        let moved_at = known.as_ref().and_then(|known| known.moved_at);
        let sighting = Sighting {
            target,
            served_before,
            target_moved_at: self.unadmitted_move(&target).await,
            now,
            at_most: moved_at.map(|moved_at| self.noticed(tag, moved_at, now)),
        };
        let (next, choice) = records
            .observe(tag, sighting, min_age)
            .await
            .map_err(failed)?;
        if let Some(moved_at) = next.moved_at {
            self.noticed(tag, moved_at, now);
            if choice != Choice::Target && Some(&next) != known.as_ref() {
                self.record_move(&target, moved_at).await;
            }
        }
        Ok(choice)
    }

    /// The time that can have passed since a tag moved, by the steady clock: the age by the clock on the wall when this
    /// process first saw it so, and the time since then.
    fn noticed(&self, tag: &Tag, moved_at: u64, now: u64) -> Duration {
        let gate = &self.state().gate;
        let key = (self.name().clone(), tag.clone());
        if let Some(age) = gate.age_of(&key, moved_at) {
            return age;
        }
        let age = Duration::from_secs(now.saturating_sub(moved_at));
        let at = Instant::now();
        gate.noticed.insert(key, Noticed { moved_at, at, age });
        age
    }

    /// When a tag was first seen to move to a digest that is not served yet.
    async fn unadmitted_move(&self, digest: &Digest) -> Option<u64> {
        let moved_at = self.records().manifest(digest).await.moved_at?;
        let standing = self.standing_on_record(digest, 0).await;
        standing.is_none().then_some(moved_at)
    }

    /// Records that a tag moved to a digest that is not served yet.
    async fn record_move(&self, digest: &Digest, moved_at: u64) {
        let facts = ::gate::ManifestFacts {
            moved_at: Some(moved_at),
            ..::gate::ManifestFacts::default()
        };
        self.records().add_facts(digest, facts).await;
    }
}
