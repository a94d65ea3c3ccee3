//! The verdicts of a gate for a dry run: by what is on record and stored. Nothing is fetched, recorded or noted as a use.

use std::collections::HashSet;
use std::io;

use super::super::MirrorState;
use super::manifest::{MAX_CONFIG, Via};
use super::records::GateRecords;
use super::{Content, Standing};
use ::gate::{
    Choice, Denial, Gate, ManifestFacts, Rule, Sighting, Verdict, is_signature_of, observe,
};
use oci::content::{ContentKind, Examined, examine, platform_of};
use oci::cosign::{SignatureLayer, signatures};
use oci::digest::Digest;
use oci::name::{RepositoryName, Tag};

/// How many manifests are followed from one to another, as by a gate that judges a request.
const MAX_DEPTH: u32 = super::check::MAX_DEPTH;

/// The gate of a registry, for the reads of one dry run. It blocks on the disk.
#[derive(Clone, Copy)]
pub(in super::super) struct DryGate<'a> {
    pub gate: &'a Gate,
    pub state: &'a MirrorState,
    pub name: &'a RepositoryName,
    /// What the manifests name that earlier reads of the run would have been answered with.
    pub named: &'a HashSet<Content>,
    /// In seconds since 1970.
    pub now: u64,
}

/// What the gate says of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum DryVerdict {
    Served(Standing),
    Denied(Denial),
    /// This rule judges what is not stored, or not verified.
    Undecided(Rule),
}

impl DryGate<'_> {
    fn records(&self) -> GateRecords<'_> {
        GateRecords {
            records: &self.state.store.records,
            name: self.name,
        }
    }

    /// The verdict on a manifest, as of `GateCheck::judge`; `bytes` if it is stored.
    pub fn manifest(&self, digest: &Digest, via: Via<'_>, bytes: Option<&[u8]>) -> DryVerdict {
        let content = Content::Manifest(*digest);
        if let Some(standing) = self.remembered(content) {
            return DryVerdict::Served(standing);
        }
        let mut facts = self.facts(digest);
        if let Some(tag) = via.tag {
            facts.add_tag(tag);
        }
        let examined = bytes.map(examine).unwrap_or_default();
        let kind = bytes.and_then(|_| self.kind(&examined));
        facts.content = facts.content.or(kind);
        if self.named.contains(&content) || self.is_child(&facts, 0) {
            match self.gate.on_child(self.name, digest, &facts, self.now) {
                Verdict::Served => return DryVerdict::Served(Standing::Whole),
                Verdict::Examine => return DryVerdict::Undecided(Rule::Platforms),
                Verdict::Denied(_) | Verdict::Verify => {}
            }
        }
        let rule = match self.gate.on_root(self.name, digest, &facts) {
            Verdict::Served => return DryVerdict::Served(Standing::Whole),
            Verdict::Examine => return DryVerdict::Undecided(Rule::Platforms),
            Verdict::Verify => return DryVerdict::Undecided(Rule::SignedBy),
            Verdict::Denied(rule) => rule,
        };
        facts.subject = via.companion.or(facts.subject).or(examined.subject);
        if self.is_companion(&facts, 0) {
            return DryVerdict::Served(Standing::Companion);
        }
        DryVerdict::Denied(self.gate.manifest_denial(rule, self.name, digest, &facts))
    }

    /// The verdict on a blob, as of `GateCheck::blob`.
    pub fn blob(&self, digest: &Digest) -> DryVerdict {
        let content = Content::Blob(*digest);
        let is_served = self.named.contains(&content) || self.remembered(content).is_some();
        let facts = self.records().inspect_blob(&self.state.store, digest);
        let mut manifests = facts.manifests.iter();
        if is_served || manifests.any(|manifest| self.standing(manifest, 0).is_some()) {
            return DryVerdict::Served(Standing::Whole);
        }
        DryVerdict::Denied(self.gate.blob_denial(self.name, digest))
    }

    /// What a tag answers by the age of its target, as of `GateCheck::observe`.
    ///
    /// # Errors
    /// When the disk cannot tell.
    pub fn choice(
        &self,
        tag: &Tag,
        target: Digest,
        served_before: Option<Digest>,
    ) -> io::Result<Choice> {
        let Some(min_age) = self.gate.min_age() else {
            return Ok(Choice::Target);
        };
        let known = self.records().inspect_history(&self.state.store, tag)?;
        let moved_at = known.as_ref().and_then(|known| known.moved_at);
        let key = (self.name.clone(), tag.clone());
        let sighting = Sighting {
            target,
            served_before,
            target_moved_at: self.unadmitted_move(&target),
            now: self.now,
            at_most: moved_at.and_then(|moved_at| self.state.gate.age_of(&key, moved_at)),
        };
        Ok(observe(known.as_ref(), &sighting, min_age).1)
    }

    /// The rule that decides about a tag whose target only the registry knows; `None`: whatever it is, it is served.
    pub fn rule_for_unknown(&self, tag: &Tag) -> Option<Rule> {
        let has_history = || {
            let history = self.records().inspect_history(&self.state.store, tag);
            !matches!(history, Ok(None))
        };
        let is_open = |rule: &Rule| match rule {
            Rule::Platforms | Rule::SignedBy => true,
            Rule::MinAge => has_history(),
            Rule::Allow | Rule::Deny | Rule::Pins => false,
        };
        self.gate.rules().find(is_open)
    }

    /// Whether the gate reads a manifest that it lets through: to record what that names.
    pub fn reads(&self, digest: &Digest) -> bool {
        let content = Content::Manifest(*digest);
        self.remembered(content).is_none() && !self.facts(digest).expanded
    }

    /// Whether a manifest needs a signature that has not been verified yet.
    pub fn lacks_signature(&self, digest: &Digest) -> bool {
        let facts = self.facts(digest);
        self.gate.lacks_signature(self.name, digest, &facts)
    }

    /// Whether a stored signature of a signature manifest is one of the digest by a key of the gate.
    pub fn is_signed(&self, digest: &Digest, manifest: &[u8]) -> bool {
        let verified = |layer: SignatureLayer| {
            let payload = self.state.inspect_manifest_bytes(&layer.payload)?;
            is_signature_of(digest, &payload, &layer, self.gate.keys())
        };
        signatures(manifest)
            .into_iter()
            .find_map(verified)
            .is_some()
    }

    /// What content vouches for that is not judged, or was served a while ago.
    fn remembered(&self, content: Content) -> Option<Standing> {
        if !self.gate.judges_content(&self.name.repository) {
            return Some(Standing::Whole);
        }
        let key = (self.name.clone(), content);
        self.state.gate.served.get(&key)
    }

    fn facts(&self, digest: &Digest) -> ManifestFacts {
        self.records().inspect_manifest(&self.state.store, digest)
    }

    /// What a stored manifest is, if its configuration is stored where that tells.
    fn kind(&self, examined: &Examined) -> Option<ContentKind> {
        if examined.kind.is_some() {
            return examined.kind.clone();
        }
        let config = examined.config.filter(|config| config.size <= MAX_CONFIG);
        match config {
            Some(config) => {
                let bytes = self.state.inspect_manifest_bytes(&config.digest);
                bytes.map(|bytes| platform_of(&bytes))
            }
            None => Some(ContentKind::Unknown),
        }
    }

    /// As `GateCheck::standing_on_record`.
    fn standing(&self, digest: &Digest, depth: u32) -> Option<Standing> {
        if let Some(standing) = self.remembered(Content::Manifest(*digest)) {
            return Some(standing);
        }
        let facts = self.facts(digest);
        let is_root = self.gate.on_root(self.name, digest, &facts) == Verdict::Served;
        let on_child = || self.gate.on_child(self.name, digest, &facts, self.now);
        if is_root || on_child() == Verdict::Served && self.is_child(&facts, depth) {
            return Some(Standing::Whole);
        }
        self.is_companion(&facts, depth)
            .then_some(Standing::Companion)
    }

    fn is_child(&self, facts: &ManifestFacts, depth: u32) -> bool {
        let is_whole = |index| self.standing(index, depth + 1) == Some(Standing::Whole);
        depth < MAX_DEPTH && facts.indexes.iter().rev().any(is_whole)
    }

    fn is_companion(&self, facts: &ManifestFacts, depth: u32) -> bool {
        let subject = facts.subject.filter(|_| facts.is_harmless());
        subject.is_some_and(|subject| {
            depth < MAX_DEPTH && self.standing(&subject, depth + 1).is_some()
        })
    }

    fn unadmitted_move(&self, digest: &Digest) -> Option<u64> {
        let moved_at = self.facts(digest).moved_at?;
        self.standing(digest, 0).is_none().then_some(moved_at)
    }
}
