//! One read at the gate of its registry: blobs, and the verdicts that records alone can give.

use std::future::Future;
use std::time::SystemTime;

use futures_util::future::BoxFuture;

use super::super::error::MirrorError;
use super::super::freshness::unix_seconds;
use super::super::origin::OriginView;
use super::super::{Mirror, MirrorState};
use super::records::GateRecords;
use super::{Content, REPORT_TIMEOUT, Standing, report};
use ::gate::{Gate, ManifestFacts, Mode, Verdict};
use access::Permit;
use oci::digest::Digest;
use oci::name::RepositoryName;

/// How many manifests are followed from one to another that vouches for it: an index in an index, with a signature of
/// it that is signed itself.
pub(super) const MAX_DEPTH: u32 = 4;

/// A read of a registry with a gate.
#[derive(Clone, Copy)]
pub(super) struct GateCheck<'a> {
    pub mirror: &'a Mirror,
    pub gate: &'a Gate,
    pub origin: &'a OriginView,
    pub permit: &'a Permit,
}

impl<'a> GateCheck<'a> {
    pub fn name(&self) -> &'a RepositoryName {
        self.permit.name()
    }

    pub fn state(&self) -> &'a MirrorState {
        &self.mirror.state
    }

    pub fn records(&self) -> GateRecords<'a> {
        GateRecords {
            records: &self.state().store.records,
            name: self.name(),
        }
    }

    /// Denies what `judged` denies, or only reports it. A gate that reports fails nothing, and delays little.
    pub async fn settle<T>(
        &self,
        judged: impl Future<Output = Result<T, MirrorError>>,
    ) -> Result<Option<T>, MirrorError> {
        if self.gate.mode() == Mode::Enforce {
            return judged.await.map(Some);
        }
        match tokio::time::timeout(REPORT_TIMEOUT, judged).await {
            Ok(Ok(value)) => return Ok(Some(value)),
            Ok(Err(MirrorError::Gate(denial))) => report(&denial),
            Ok(Err(error)) => {
                let error = telemetry::chain(&error);
                tracing::debug!(error, "the gate could not judge a request");
            }
            Err(_) => tracing::debug!("the gate took too long to judge a request"),
        }
        Ok(None)
    }

    /// Judges a blob: one of the manifests that name it must be served.
    pub async fn blob(&self, digest: &Digest) -> Result<(), MirrorError> {
        self.gate
            .repository(self.name())
            .map_err(MirrorError::gate)?;
        let content = Content::Blob(*digest);
        if !self.judges() || self.is_served(content).is_some() {
            return Ok(());
        }
        let facts = self.records().blob(digest).await;
        for manifest in facts.manifests.iter().rev() {
            if self.standing_on_record(manifest, 0).await.is_some() {
                self.remember(content, Standing::Whole);
                return Ok(());
            }
        }
        let denial = self.gate.blob_denial(self.name(), digest);
        Err(MirrorError::gate(denial))
    }

    /// Whether content of the repository is judged, beyond its names.
    pub fn judges(&self) -> bool {
        self.gate.judges_content(&self.name().repository)
    }

    /// What content vouches for that was served a while ago.
    pub fn is_served(&self, content: Content) -> Option<Standing> {
        let key = (self.name().clone(), content);
        self.state().gate.served.get(&key)
    }

    pub fn remember(&self, content: Content, standing: Standing) {
        let key = (self.name().clone(), content);
        self.state().gate.served.insert(key, standing);
    }

    /// What a manifest vouches for, by its records alone; `None`: it is not served by them.
    pub fn standing_on_record<'b>(
        &'b self,
        digest: &'b Digest,
        depth: u32,
    ) -> BoxFuture<'b, Option<Standing>> {
        Box::pin(async move {
            if let Some(standing) = self.is_served(Content::Manifest(*digest)) {
                return Some(standing);
            }
            let facts = self.records().manifest(digest).await;
            if self.gate.on_root(self.name(), digest, &facts) == Verdict::Served {
                return Some(Standing::Whole);
            }
            if self.on_child(digest, &facts) == Verdict::Served
                && self.is_child(&facts, depth).await
            {
                return Some(Standing::Whole);
            }
            self.is_companion(&facts, depth)
                .await
                .then_some(Standing::Companion)
        })
    }

    /// The verdict on a manifest that a served index names.
    pub fn on_child(&self, digest: &Digest, facts: &ManifestFacts) -> Verdict {
        let now = unix_seconds(SystemTime::now());
        self.gate.on_child(self.name(), digest, facts, now)
    }

    /// Whether an index that is served names the manifest.
    pub async fn is_child(&self, facts: &ManifestFacts, depth: u32) -> bool {
        if depth >= MAX_DEPTH {
            return false;
        }
        for index in facts.indexes.iter().rev() {
            if self.standing_on_record(index, depth + 1).await == Some(Standing::Whole) {
                return true;
            }
        }
        false
    }

    /// Whether the manifest belongs to one that is served, and is nothing that can be run.
    pub async fn is_companion(&self, facts: &ManifestFacts, depth: u32) -> bool {
        match &facts.subject {
            Some(subject) if facts.is_harmless() && depth < MAX_DEPTH => {
                self.standing_on_record(subject, depth + 1).await.is_some()
            }
            _ => false,
        }
    }
}
