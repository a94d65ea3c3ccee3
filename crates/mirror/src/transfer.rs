//! One transfer of a download: streams the missing bytes from one source into the staged file, and commits it.

use std::sync::Arc;
use std::task::Poll;

use super::connections::MainConnection;
use super::download::Download;
use super::progress::{FillError, TAIL};
use super::source::{DigestCheck, FillKey, FillSource};
use bytes::Bytes;
use oci::digest::Digest;
use store::{
    self, BlobLink, CommitError, Mismatch, OpenFile, PartialNote, Question, StagedBlob,
    warn_degraded,
};
use upstream::{BlobBody, UpstreamError};

/// Why a transfer ended early.
pub(super) enum Interruption {
    /// The connection failed; the same source may continue.
    Drop(FillError),
    /// The source does not supply the content.
    Refusal(FillError),
    /// The staged bytes do not match the digest.
    WrongBytes(FillError),
    /// The source sends other bytes than were staged: one of both is wrong.
    Changed(FillError),
    /// The disk has no room or is broken.
    Disk(FillError),
    /// Other fills wait for the slot, and this one has no followers.
    Pause,
}

impl Download {
    /// Downloads the missing bytes from one source, and commits the blob.
    pub(super) async fn attempt(
        &mut self,
        source: &FillSource,
        staged: &mut Option<StagedBlob>,
    ) -> Result<Arc<OpenFile>, Interruption> {
        let streamed = self.stream(source, staged).await;
        // Before the commit, so that whoever finds the bytes finds the link.
        while self.links.join_next().await.is_some() {}
        match streamed {
            // A body without a length that lost only its terminator.
            Err(Interruption::Drop(_)) if staged.as_ref().is_some_and(StagedBlob::is_complete) => {}
            streamed => streamed?,
        }
        self.commit(source, staged).await
    }

    /// Downloads the missing bytes from one source, until its body ends.
    async fn stream(
        &mut self,
        source: &FillSource,
        staged: &mut Option<StagedBlob>,
    ) -> Result<(), Interruption> {
        loop {
            if let Some(staged) = staged {
                self.follow_segments(source, staged).await?;
                if staged.total() == Some(staged.written()) {
                    return self.confirm(source, staged).await;
                }
            }
            let end = next_segment(staged.as_ref());
            let body = self.request_body(source, staged.as_mut(), end).await?;
            let staged = match staged {
                Some(staged) => {
                    if !self.published {
                        self.publish_file(staged);
                    }
                    staged
                }
                None => staged.insert(self.stage(source, &body).await?),
            };
            self.copy(source, body, end, staged).await?;
            if staged.total().is_none_or(|total| staged.written() >= total) {
                return Ok(());
            }
        }
    }

    /// Confirms that the source's repository has a blob whose bytes are staged already.
    async fn confirm(
        &mut self,
        source: &FillSource,
        staged: &StagedBlob,
    ) -> Result<(), Interruption> {
        if !self.published {
            let claim = self.ask_link(source);
            let confirmed = source.confirm(&self.fill.key);
            confirmed.await.map_err(interruption)?;
            self.record_link(source, claim, staged.total()).await;
            self.publish_file(staged);
        }
        Ok(())
    }

    /// Asks a source for the missing bytes up to `end`, and records that its repository has the blob.
    async fn request_body(
        &mut self,
        source: &FillSource,
        mut staged: Option<&mut StagedBlob>,
        end: Option<u64>,
    ) -> Result<BlobBody, Interruption> {
        let offset = staged.as_ref().map_or(0, |staged| staged.written());
        let total = staged.as_ref().and_then(|staged| staged.total());
        let key = self.fill.key;
        let claim = self.ask_link(source);
        let ask = |from, end| source.body(&key, from, end, total);
        let mut body = ask(offset, end).await.map_err(interruption)?;
        if let Some(staged) = &mut staged
            && staged.note().contradicts(body.version.as_ref())
        {
            // The version changed: the whole body is compared with the staged bytes, and segments cannot be.
            self.connections.bar();
            let discarded = staged.discard_segments().map_err(CommitError::from);
            discarded.map_err(|error| self.interruption_of(error))?;
            body = ask(0, None).await.map_err(interruption)?;
        }
        // The record's fsyncs take longer than the first bytes, which need no link: the source just gave them.
        let (source, store) = (source.clone(), self.fills.state.store.clone());
        let size = body.total;
        let record = async move { source.record_link(&store, claim.as_ref(), size).await };
        self.links.spawn(record);
        if let (Some(total), Some(now)) = (total, body.total)
            && total != now
        {
            let changed = UpstreamError::Protocol("the length has changed");
            return Err(Interruption::WrongBytes(FillError::Upstream(Arc::new(
                changed,
            ))));
        }
        Ok(body)
    }

    /// Appends the new bytes of a body to the staged file, up to the next segment; bytes that are staged already must be
    /// the same. The body was asked for up to `end`.
    async fn copy(
        &mut self,
        source: &FillSource,
        mut body: BlobBody,
        end: Option<u64>,
        staged: &mut StagedBlob,
    ) -> Result<(), Interruption> {
        let (offset, mut at) = (staged.written(), body.offset);
        let (key, total) = (self.fill.key, staged.total());
        self.connections.allow(&self.fills, &key, source, total);
        loop {
            let stop = next_segment(Some(staged));
            if stop.is_some_and(|stop| staged.written() >= stop) {
                // The rest of this body is another connection's.
                return Ok(());
            }
            let Some(chunk) = self.next_chunk(source, &mut body, staged).await? else {
                break;
            };
            // The body may repeat bytes that are staged already.
            let known = offset.saturating_sub(at).min(chunk.len() as u64);
            let (known, new) = chunk.split_at(usize::try_from(known).unwrap_or(chunk.len()));
            let same = staged.has_bytes_at(known, at).map_err(CommitError::from);
            if !same.map_err(|error| self.interruption_of(error))? {
                let changed = UpstreamError::Protocol("the bytes have changed");
                return Err(Interruption::Changed(FillError::Upstream(Arc::new(
                    changed,
                ))));
            }
            at += chunk.len() as u64;
            let room = next_segment(Some(staged)).map_or(u64::MAX, |next| next - staged.written());
            let new = &new[..new.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
            staged
                .append(new)
                .map_err(|error| self.interruption_of(error))?;
            self.progressed(staged);
            let synced = self.early_sync.advance(staged).await;
            synced.map_err(|error| self.interruption_of(error.into()))?;
            self.open_connections(source, staged, MainConnection::Receiving);
            if self.fills.yield_slot(&self.fill) {
                return Err(Interruption::Pause);
            }
        }
        self.publish_progress(staged, 1);
        if end
            .or(staged.total())
            .is_some_and(|end| staged.written() < end)
        {
            // The body ended cleanly, but short of its announced length: like a drop.
            let short = UpstreamError::Protocol("the body ended before its announced length");
            return Err(Interruption::Drop(FillError::Upstream(Arc::new(short))));
        }
        Ok(())
    }

    /// The next bytes of a body. While it sends none, progress is published, and further connections are opened.
    async fn next_chunk(
        &mut self,
        source: &FillSource,
        body: &mut BlobBody,
        staged: &mut StagedBlob,
    ) -> Result<Option<Bytes>, Interruption> {
        let next = body.next();
        tokio::pin!(next);
        if let Poll::Ready(chunk) = futures_util::poll!(&mut next) {
            return chunk.map_err(interruption);
        }
        self.publish_progress(staged, 1);
        loop {
            tokio::select! {
                biased;
                chunk = &mut next => return chunk.map_err(interruption),
                () = self.connections.look() => {
                    self.open_connections(source, staged, MainConnection::Receiving);
                }
            }
        }
    }

    /// Begins to ask whether the source's repository has the blob.
    pub(super) fn ask_link(&self, source: &FillSource) -> Option<Question<BlobLink>> {
        source.ask_link(&self.fills.state.store, &self.fill.key)
    }

    /// Records that the source's repository has the blob, as its upstream just said.
    pub(super) async fn record_link(
        &self,
        source: &FillSource,
        claim: Option<Question<BlobLink>>,
        size: Option<u64>,
    ) {
        let store = &self.fills.state.store;
        source.record_link(store, claim.as_ref(), size).await;
    }

    /// Begins a staged file, with room for the announced length.
    async fn stage(
        &mut self,
        source: &FillSource,
        body: &BlobBody,
    ) -> Result<StagedBlob, Interruption> {
        let (blobs, total) = (&self.fills.state.store.blobs, body.total);
        // An empty body is complete with its headers, so it is verified before they are published.
        if total == Some(0) {
            let check = source.check(&self.fill.key);
            let empty = check.hasher.clone().finish();
            check_digest(&check, &empty).map_err(|error| self.interruption_of(error))?;
        }
        let note = PartialNote {
            total,
            sources: self.fill.source_names(),
            version: body.version.clone(),
            segmented: false,
        };
        let size = total.unwrap_or(TAIL);
        let staged = blobs
            .reserve_and_stage(&self.fill.key.partial_key(), size, note)
            .await;
        let staged = staged.map_err(|error| no_room(&error, total))?;
        self.publish_file(&staged);
        Ok(staged)
    }

    async fn commit(
        &mut self,
        source: &FillSource,
        staged: &mut Option<StagedBlob>,
    ) -> Result<Arc<OpenFile>, Interruption> {
        let lost = || Interruption::Refusal(FillError::Lost);
        let synced = self.early_sync.end().await;
        synced.map_err(|error| self.interruption_of(error.into()))?;
        let whole = staged.take().ok_or_else(lost)?;
        let (key, check) = (self.fill.key, source.check(&self.fill.key));
        let committed = tokio::task::spawn_blocking(move || match key {
            FillKey::Digest(digest) => Ok((digest, whole.commit()?)),
            FillKey::Name(_) => {
                verify_staged(&check, &whole)?;
                whole.commit_unnamed()
            }
        });
        match committed.await.map_err(|_| lost())? {
            Ok((digest, blob)) => {
                source.committed(digest, blob.size).await;
                // The last piece may be unpublished, if the body lost its terminator.
                self.fill
                    .progress
                    .send_modify(|progress| progress.written = blob.size);
                Ok(blob.file.clone())
            }
            Err(error) => Err(self.interruption_of(error)),
        }
    }

    /// The interruption for a store's error: wrong bytes, or a failing disk.
    pub(super) fn interruption_of(&self, error: CommitError) -> Interruption {
        match error {
            CommitError::Full(_) | CommitError::Io(_) => {
                no_room(&error, self.fill.progress.borrow().total)
            }
            CommitError::Truncated { .. }
            | CommitError::Overlong { .. }
            | CommitError::Mismatch(_) => {
                Interruption::WrongBytes(FillError::Commit(Arc::new(error)))
            }
        }
    }
}

/// Where the first segment of a staged file begins.
fn next_segment(staged: Option<&StagedBlob>) -> Option<u64> {
    Some(staged?.next_segment()?.start)
}

/// Compares the staged bytes with the source's expected digests. Blocks on the disk.
fn verify_staged(check: &DigestCheck, staged: &StagedBlob) -> Result<(), CommitError> {
    if !check.has_expected() {
        return Ok(());
    }
    let hasher = check.hasher.clone();
    let actual = store::hash(&staged.file(), staged.written(), hasher)?;
    check_digest(check, &actual)
}

fn check_digest(check: &DigestCheck, actual: &Digest) -> Result<(), CommitError> {
    match check.expected() {
        Some(expected) if !check.accepts(actual) => {
            let actual = *actual;
            Err(CommitError::Mismatch(Box::new(Mismatch {
                expected,
                actual,
            })))
        }
        _ => Ok(()),
    }
}

/// The interruption for a store that cannot take the bytes: they pass through.
fn no_room(error: &CommitError, total: Option<u64>) -> Interruption {
    warn_degraded("a blob cannot be stored", error);
    Interruption::Disk(FillError::NoRoom { total })
}

/// The interruption for an upstream's error.
fn interruption(error: UpstreamError) -> Interruption {
    let drop = error.means_down();
    let error = FillError::Upstream(Arc::new(error));
    if drop {
        Interruption::Drop(error)
    } else {
        Interruption::Refusal(error)
    }
}
