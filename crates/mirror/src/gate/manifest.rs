//! Judging a manifest: by what is on record, then by its bytes, its configuration and its signatures.

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;

use super::super::error::MirrorError;
use super::super::manifest::ReadMethod;
use super::super::waiting::Requester;
use super::check::GateCheck;
use super::{Cleared, Content, JUDGE_TIMEOUT, Standing};
use ::gate::{ManifestFacts, Rule, TagRule, Verdict};
use oci::cache_status::CacheStatus;
use oci::content::{ContentKind, Examined, examine, platform_of};
use oci::digest::Digest;
use oci::manifest::MAX_MANIFEST;
use oci::name::Tag;

/// How many records are written at once.
const WRITES_AT_ONCE: usize = 8;
/// The longest configuration that is read, in bytes.
pub(super) const MAX_CONFIG: u64 = MAX_MANIFEST as u64;

/// The tag that led to a manifest, if one did.
#[derive(Clone, Copy, Debug, Default)]
pub(in super::super) struct Via<'a> {
    /// An allowed tag that is old enough.
    pub tag: Option<&'a Tag>,
    /// The digest whose companion the tag names.
    pub companion: Option<Digest>,
}

impl<'a> Via<'a> {
    /// A tag of which the rules on names say this.
    pub fn of(tag: &'a Tag, rule: TagRule) -> Self {
        let (tag, companion) = match rule {
            TagRule::Allowed => (Some(tag), tag.companion_of()),
            TagRule::CompanionOf(subject) => (None, Some(subject)),
            TagRule::Pinned(_) => (None, None),
        };
        Self { tag, companion }
    }
}

/// What a request has read of a manifest.
#[derive(Default)]
struct Reading {
    examined: Option<Examined>,
    /// How the cache had it.
    cache: Option<CacheStatus>,
}

impl GateCheck<'_> {
    /// Judges a manifest that is requested by its digest; returns how the cache had it, if it was read.
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<CacheStatus>, MirrorError> {
        self.gate
            .repository(self.name())
            .map_err(MirrorError::gate)?;
        self.judge(digest, Via::default()).await
    }

    /// Judges a manifest, and records what it names if it is served; returns how the cache had it, if it was read.
    pub async fn judge(
        &self,
        digest: &Digest,
        via: Via<'_>,
    ) -> Result<Option<CacheStatus>, MirrorError> {
        if !self.judges() || self.is_served(Content::Manifest(*digest)).is_some() {
            return Ok(None);
        }
        let judged = self.judge_unknown(digest, via);
        let judged = tokio::time::timeout(JUDGE_TIMEOUT, judged).await;
        judged.unwrap_or_else(|_| Err(MirrorError::timed_out()))
    }

    /// Judges a manifest that was not served a while ago.
    async fn judge_unknown(
        &self,
        digest: &Digest,
        via: Via<'_>,
    ) -> Result<Option<CacheStatus>, MirrorError> {
        let mut reading = Reading::default();
        let known = self.records().manifest(digest).await;
        let mut facts = known.clone();
        if let Some(tag) = via.tag {
            facts.add_tag(tag);
        }
        let reading = &mut reading;
        let standing = self
            .standing(digest, &mut facts, via.companion, reading)
            .await?;
        self.expand(digest, &mut facts, standing, reading).await?;
        if facts != known {
            self.records().add_facts(digest, facts).await;
        }
        self.remember(Content::Manifest(*digest), standing);
        Ok(reading.cache)
    }

    /// What a manifest vouches for, once its facts are complete.
    async fn standing(
        &self,
        digest: &Digest,
        facts: &mut ManifestFacts,
        companion: Option<Digest>,
        reading: &mut Reading,
    ) -> Result<Standing, MirrorError> {
        if self.is_child(facts, 0).await {
            let mut verdict = self.on_child(digest, facts);
            if verdict == Verdict::Examine {
                facts.content = Some(self.content(digest, reading).await?);
                verdict = self.on_child(digest, facts);
            }
            if verdict == Verdict::Served {
                return Ok(Standing::Whole);
            }
        }
        let Some(rule) = self.root_denial(digest, facts, reading).await? else {
            return Ok(Standing::Whole);
        };
        if self
            .completes_companion(digest, facts, companion, reading)
            .await?
        {
            return Ok(Standing::Companion);
        }
        let denial = self.gate.manifest_denial(rule, self.name(), digest, facts);
        Err(MirrorError::gate(denial))
    }

    /// The rule that denies a manifest by itself, once its facts are complete.
    async fn root_denial(
        &self,
        digest: &Digest,
        facts: &mut ManifestFacts,
        reading: &mut Reading,
    ) -> Result<Option<Rule>, MirrorError> {
        loop {
            match self.gate.on_root(self.name(), digest, facts) {
                Verdict::Served => return Ok(None),
                Verdict::Denied(rule) => return Ok(Some(rule)),
                Verdict::Examine => facts.content = Some(self.content(digest, reading).await?),
                Verdict::Verify => match self.signer(digest).await? {
                    Some(key) => facts.signed_by.push(key),
                    None => return Ok(Some(Rule::SignedBy)),
                },
            }
        }
    }

    /// Whether a manifest belongs to one that is served: a tag says so, or it names that one as its subject.
    async fn completes_companion(
        &self,
        digest: &Digest,
        facts: &mut ManifestFacts,
        companion: Option<Digest>,
        reading: &mut Reading,
    ) -> Result<bool, MirrorError> {
        let can_run = matches!(
            facts.content,
            Some(ContentKind::Image(_) | ContentKind::Unknown)
        );
        if can_run {
            return Ok(false);
        }
        let mut found = facts.clone();
        found.subject = companion.or(found.subject);
        if found.subject.is_none() || found.content.is_none() {
            let examined = match self.examined(digest, reading).await {
                Ok(examined) => examined,
                // Denied, whether it exists or not.
                Err(MirrorError::Unknown { .. }) => return Ok(false),
                Err(error) => return Err(error),
            };
            found.subject = found.subject.or(examined.subject);
            found.content = found.content.or_else(|| examined.kind.clone());
        }
        let is_companion = self.is_companion(&found, 0).await;
        if is_companion {
            *facts = found;
        }
        Ok(is_companion)
    }

    /// Records what a manifest names, so that it is served as well.
    async fn expand(
        &self,
        digest: &Digest,
        facts: &mut ManifestFacts,
        standing: Standing,
        reading: &mut Reading,
    ) -> Result<(), MirrorError> {
        let key = (self.name().clone(), *digest);
        let expanded = &self.state().gate.expanded;
        if facts.expanded && expanded.contains_key(&key) {
            return Ok(());
        }
        let examined = if facts.expanded {
            // Records of what it names may have been displaced since; without its bytes they are left as they are.
            let bytes = self.state().local_bytes(digest).await;
            let Some(bytes) = bytes else { return Ok(()) };
            &examine(&bytes)
        } else {
            self.examined(digest, reading).await?
        };
        let records = self.records();
        let children = match standing {
            Standing::Whole => &examined.manifests[..],
            // Those of a list of referrers name what they belong to.
            Standing::Companion => &[],
        };
        let mut writes: Vec<BoxFuture<'_, ()>> = Vec::new();
        for child in children {
            writes.push(Box::pin(records.add_index(child, *digest)));
        }
        for blob in &examined.blobs {
            writes.push(Box::pin(records.add_manifest(blob, *digest)));
        }
        let writes = futures_util::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
        writes.collect::<Vec<()>>().await;
        for blob in &examined.blobs {
            self.remember(Content::Blob(*blob), Standing::Whole);
        }
        facts.expanded = true;
        expanded.insert(key, ());
        Ok(())
    }

    /// What a manifest's bytes say. They are read once for a request.
    async fn examined<'r>(
        &self,
        digest: &Digest,
        reading: &'r mut Reading,
    ) -> Result<&'r Examined, MirrorError> {
        if reading.examined.is_none() {
            let (origin, permit) = (self.origin, self.permit);
            let (cleared, method) = (Cleared::of(digest), ReadMethod::Get);
            let manifest = self
                .mirror
                .manifest_by_digest(origin, permit, cleared, method);
            let answer = Box::pin(manifest).await?;
            reading.cache = Some(answer.cache);
            let bytes = answer.bytes.ok_or(MirrorError::Internal)?;
            reading.examined = Some(examine(&bytes));
        }
        reading.examined.as_ref().ok_or(MirrorError::Internal)
    }

    /// What a manifest is; an image's platform is in its configuration.
    async fn content(
        &self,
        digest: &Digest,
        reading: &mut Reading,
    ) -> Result<ContentKind, MirrorError> {
        let examined = self.examined(digest, reading).await?;
        if let Some(kind) = &examined.kind {
            return Ok(kind.clone());
        }
        match examined.config.filter(|config| config.size <= MAX_CONFIG) {
            Some(config) => {
                let bytes = self.small_blob(&config.digest, MAX_CONFIG).await?;
                Ok(bytes.map_or(ContentKind::Unknown, |bytes| platform_of(&bytes)))
            }
            None => Ok(ContentKind::Unknown),
        }
    }

    /// A blob of at most `most` bytes; `None` if it is longer. The registry is asked for its length before it is fetched:
    /// that in a manifest is chosen by whoever pushed it.
    pub async fn small_blob(
        &self,
        digest: &Digest,
        most: u64,
    ) -> Result<Option<bytes::BytesMut>, MirrorError> {
        let (origin, permit) = (self.origin, self.permit);
        if self.state().contents.open(digest, None).await.is_none() {
            let claimed = Box::pin(self.mirror.claim_blob(origin, permit, digest)).await?;
            if claimed.0.is_some_and(|size| size > most) {
                return Ok(None);
            }
        }
        let blob =
            self.mirror
                .cleared_blob(origin, permit, Cleared::of(digest), Requester::Gateway);
        Box::pin(blob).await?.whole(most).await
    }

    /// The tag rule of a tag whose name is allowed.
    pub fn tag_rule(&self, tag: &Tag) -> Result<TagRule, MirrorError> {
        let name = self.name();
        self.gate.repository(name).map_err(MirrorError::gate)?;
        self.gate.tag(name, tag).map_err(MirrorError::gate)
    }
}
