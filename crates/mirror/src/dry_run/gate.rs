//! The gate of the registry in a dry run: whether it lets a read through, and what it would read itself to tell.

use std::sync::Arc;

use super::{DryManifest, DryRun, RequestReason};
use crate::MirrorError;
use crate::freshness::{Stale, unix_seconds};
use crate::gate::{Content, DryGate, DryVerdict, Standing, Via};
use ::gate::{Choice, Denial, Mode, Rule, TagRule};
use oci::cache_status::CacheStatus;
use oci::content::examine;
use oci::cosign::signature_tag;
use oci::digest::Digest;
use oci::manifest::AcceptClass;
use oci::name::Tag;
use upstream::Read;

/// What the gate of a registry does with a read, as far as it can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GateOutcome {
    /// No rule denies it.
    Served,
    /// `pins`: the tag answers this digest.
    Pinned(Digest),
    /// `min_age`: the tag answers its target of before.
    HeldBack {
        /// That target.
        previous: Digest,
        /// The warning to clients.
        warning: String,
    },
    /// A rule denies it.
    Denied(Arc<Denial>),
    /// This rule judges what is not stored, or not verified yet.
    Undecided(Rule),
}

/// A read that the gate lets through.
#[derive(Debug, Default)]
pub(super) struct GatedRead {
    /// `None`: there is no gate.
    pub outcome: Option<GateOutcome>,
    /// How the cache had the manifest, if the gate read it first.
    pub read: Option<CacheStatus>,
}

impl GatedRead {
    const fn of(outcome: GateOutcome) -> Self {
        Self {
            outcome: Some(outcome),
            read: None,
        }
    }
}

impl DryRun {
    /// What becomes of what the gate of the registry denies; `None`: it has none.
    pub fn gate_mode(&self) -> Option<Mode> {
        self.origin.gate().map(::gate::Gate::mode)
    }

    /// The digest that a tag answers, whatever the registry says.
    pub(super) fn pinned(&self, tag: &Tag) -> Option<Digest> {
        match self.origin.enforced_gate()?.tag(self.name(), tag) {
            Ok(TagRule::Pinned(digest)) => Some(digest),
            _ => None,
        }
    }

    /// The answer of a tag that is pinned, as `Mirror::pinned_manifest`.
    pub(super) fn pinned_manifest(&mut self, digest: &Digest) -> Result<DryManifest, MirrorError> {
        let gated = self.judge_manifest(digest, Via::default())?;
        let mut answer = self.linked_manifest(digest)?;
        answer.cache = gated.read.unwrap_or(answer.cache).detail("pinned");
        answer.gate = Some(GateOutcome::Pinned(*digest));
        Ok(answer)
    }

    /// The answer of a tag whose target is too young, as `Mirror::gated_target`.
    pub(super) fn held_back(
        &mut self,
        previous: &Digest,
        gated: GatedRead,
        (cache, stale): (CacheStatus, Option<Stale>),
    ) -> Result<DryManifest, MirrorError> {
        let mut answer = self.linked_manifest(previous)?;
        answer.cache = cache.or(answer.cache).detail("min_age");
        (answer.stale, answer.gate) = (stale, gated.outcome);
        Ok(answer)
    }

    /// What the gate does with a tag whose target only the registry knows.
    pub(super) fn judge_unknown(&self, tag: &Tag) -> Result<Option<GateOutcome>, MirrorError> {
        let Some(gate) = self.dry_gate() else {
            return Ok(None);
        };
        let rule = gate.rule_for_unknown(tag);
        let outcome = match self.tag_rule(tag) {
            Err(denial) => GateOutcome::Denied(Arc::new(denial)),
            Ok(TagRule::Pinned(digest)) => GateOutcome::Pinned(digest),
            Ok(_) => rule.map_or(GateOutcome::Served, GateOutcome::Undecided),
        };
        self.settle(outcome).map(Some)
    }

    /// The digest that a tag answers, given its target and the one on record before it was resolved.
    pub(super) fn judge_tag(
        &mut self,
        (tag, class): (&Tag, AcceptClass),
        target: Digest,
        served_before: Option<Digest>,
    ) -> Result<(Digest, GatedRead), MirrorError> {
        if self.origin.gate().is_none() {
            return Ok((target, GatedRead::default()));
        }
        let rule = match self.tag_rule(tag) {
            Ok(rule) => rule,
            Err(denial) => {
                let outcome = self.settle(GateOutcome::Denied(Arc::new(denial)))?;
                return Ok((target, GatedRead::of(outcome)));
            }
        };
        if let TagRule::Pinned(digest) = rule {
            return Ok((target, GatedRead::of(GateOutcome::Pinned(digest))));
        }
        let via = Via::of(tag, rule);
        let choice = self.choice((tag, class), target, served_before)?;
        if choice == Choice::Target {
            let gated = self.judge_manifest(&target, via);
            return gated
                .map(|gated| (target, gated))
                .map_err(|error| self.companion_denied(tag, via, error));
        }
        let Some(gate) = self.origin.gate().cloned() else {
            return Ok((target, GatedRead::default()));
        };
        let Choice::Previous(previous) = choice else {
            let denial = gate.young_tag_denial(self.name(), tag, &target);
            let outcome = self.settle(GateOutcome::Denied(Arc::new(denial)))?;
            return Ok((target, GatedRead::of(outcome)));
        };
        let warning = gate.held_back(self.name(), tag, &target);
        let outcome = GateOutcome::HeldBack { previous, warning };
        if gate.mode() == Mode::Report {
            return Ok((target, GatedRead::of(outcome)));
        }
        let gated = self.judge_manifest(&previous, via)?;
        let outcome = Some(outcome);
        Ok((previous, GatedRead { outcome, ..gated }))
    }

    /// Judges a manifest, and plans what the gate would read for that.
    pub(super) fn judge_manifest(
        &mut self,
        digest: &Digest,
        via: Via<'_>,
    ) -> Result<GatedRead, MirrorError> {
        let Some(gate) = self.dry_gate() else {
            return Ok(GatedRead::default());
        };
        if let Err(denial) = gate.gate.repository(self.name()) {
            let outcome = self.settle(GateOutcome::Denied(Arc::new(denial)))?;
            return Ok(GatedRead::of(outcome));
        }
        let bytes = self.stored_manifest(digest);
        let verdict = gate.manifest(digest, via, bytes.as_deref());
        let read = if gate.reads(digest) {
            match self.read_ahead(digest) {
                Err(error) if self.gate_mode() == Some(Mode::Enforce) => return Err(error),
                read => read.ok(),
            }
        } else {
            None
        };
        let standing = match verdict {
            DryVerdict::Served(standing) => standing,
            DryVerdict::Denied(denial) => {
                let outcome = self.settle(GateOutcome::Denied(Arc::new(denial)))?;
                return Ok(GatedRead::of(outcome));
            }
            DryVerdict::Undecided(rule) => {
                let is_signed = rule == Rule::SignedBy && self.plan_signature(digest)?;
                if rule == Rule::Platforms {
                    self.plan_config(bytes.as_deref())?;
                }
                if !is_signed {
                    let outcome = Some(GateOutcome::Undecided(rule));
                    return Ok(GatedRead { outcome, read });
                }
                Standing::Whole
            }
        };
        self.note_named(standing, bytes.as_deref());
        let outcome = Some(GateOutcome::Served);
        Ok(GatedRead { outcome, read })
    }

    /// Judges a blob.
    pub(super) fn judge_blob(&self, digest: &Digest) -> Result<(), MirrorError> {
        match self.dry_gate().map(|gate| gate.blob(digest)) {
            Some(DryVerdict::Denied(denial)) => {
                let denied = self.settle(GateOutcome::Denied(Arc::new(denial)));
                denied.map(drop)
            }
            _ => Ok(()),
        }
    }

    fn dry_gate(&self) -> Option<DryGate<'_>> {
        Some(DryGate {
            gate: self.origin.gate()?,
            state: &self.state,
            name: self.permit.name(),
            named: &self.named,
            now: unix_seconds(self.now),
        })
    }

    /// An outcome, or the error that a client gets by it.
    fn settle(&self, outcome: GateOutcome) -> Result<GateOutcome, MirrorError> {
        match outcome {
            GateOutcome::Denied(denial) if self.gate_mode() == Some(Mode::Enforce) => {
                Err(MirrorError::Gate(denial))
            }
            outcome => Ok(outcome),
        }
    }

    /// What the rules on names say of a tag.
    fn tag_rule(&self, tag: &Tag) -> Result<TagRule, Denial> {
        let Some(gate) = self.origin.gate() else {
            return Ok(TagRule::Allowed);
        };
        gate.repository(self.name())?;
        gate.tag(self.name(), tag)
    }

    /// What a tag answers by the age of its target; for schema 1 clients by that of what it is generated from.
    fn choice(
        &mut self,
        (tag, class): (&Tag, AcceptClass),
        target: Digest,
        served_before: Option<Digest>,
    ) -> Result<Choice, MirrorError> {
        let is_generated = class == AcceptClass::Schema1;
        let (mut target, mut before) = (target, served_before);
        let gate = self.dry_gate();
        if is_generated && gate.is_some_and(|gate| gate.gate.min_age().is_some()) {
            before = self.known_digest(tag, AcceptClass::Full);
            match self.target(tag, AcceptClass::Full)? {
                Some(original) => target = original,
                None => return Ok(Choice::Target),
            }
        }
        let Some(gate) = self.dry_gate() else {
            return Ok(Choice::Target);
        };
        let choice = gate.choice(tag, target, before);
        match choice.map_err(|error| MirrorError::Disk(Arc::new(error)))? {
            Choice::Previous(_) if is_generated => Ok(Choice::Nothing),
            choice => Ok(choice),
        }
    }

    /// The denial of a tag that may lead to a companion only.
    fn companion_denied(&self, tag: &Tag, via: Via<'_>, error: MirrorError) -> MirrorError {
        match (&error, self.origin.gate()) {
            (MirrorError::Gate(_), Some(gate)) if via.tag.is_none() => {
                MirrorError::gate(gate.companion_denial(self.name(), tag))
            }
            _ => error,
        }
    }

    /// Plans that the gate reads a manifest, which is a hit from then on.
    fn read_ahead(&mut self, digest: &Digest) -> Result<CacheStatus, MirrorError> {
        let manifest = self.linked_manifest(digest)?;
        self.linked.insert(*digest);
        self.fetched.insert(*digest);
        Ok(manifest.cache)
    }

    /// Plans that the gate reads the configuration of a stored manifest.
    fn plan_config(&mut self, manifest: Option<&[u8]>) -> Result<(), MirrorError> {
        let config = manifest.and_then(|bytes| examine(bytes).config);
        let Some(config) = config else {
            return Ok(());
        };
        if self.state.contents.inspect(&config.digest, None).is_none() {
            let read = Read::BlobHead(&config.digest);
            self.send(read, RequestReason::LengthUnknown, None)?;
        }
        self.linked_blob(&config.digest, Some(config.size))?;
        self.fetched.insert(config.digest);
        Ok(())
    }

    /// Whether the gate looks for the signature of a manifest before it serves that.
    pub(super) fn lacks_signature(&self, digest: &Digest) -> bool {
        let gate = self.dry_gate();
        let gate = gate.filter(|gate| gate.gate.mode() == Mode::Enforce);
        gate.is_some_and(|gate| gate.lacks_signature(digest))
    }

    /// Plans the look for a signature at its tag; whether what is stored there verifies.
    pub(super) fn plan_signature(&mut self, digest: &Digest) -> Result<bool, MirrorError> {
        if let Some(is_signed) = self.signed.get(digest) {
            return Ok(*is_signed);
        }
        let is_signed = self.find_signature(digest)?;
        self.signed.insert(*digest, is_signed);
        Ok(is_signed)
    }

    fn find_signature(&mut self, digest: &Digest) -> Result<bool, MirrorError> {
        let Some(tag) = signature_tag(digest) else {
            return Ok(false);
        };
        let signature = match self.target(&tag, AcceptClass::Full) {
            Ok(Some(signature)) => signature,
            // The referrers are asked for.
            Ok(None) | Err(MirrorError::Unknown { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.read_ahead(&signature)?;
        let bytes = self.stored_manifest(&signature).unwrap_or_default();
        let gate = self.dry_gate();
        Ok(gate.is_some_and(|gate| gate.is_signed(digest, &bytes)))
    }

    /// Notes what a manifest names that is served.
    fn note_named(&mut self, standing: Standing, manifest: Option<&[u8]>) {
        let examined = manifest.map(examine).unwrap_or_default();
        if standing == Standing::Whole {
            let manifests = examined.manifests.into_iter();
            self.named.extend(manifests.map(Content::Manifest));
        }
        let blobs = examined.blobs.into_iter();
        self.named.extend(blobs.map(Content::Blob));
    }
}
