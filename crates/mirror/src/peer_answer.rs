//! Answers the other gateways of the bucket: the blob that this one fetches, as it arrives.
//!
//! Only a ticket gets an answer, and only for a blob whose lease this gateway holds or held a moment ago. An answer starts
//! no fill and asks no upstream.

use std::time::{Duration, SystemTime};

use super::Mirror;
use super::blob_answer::{BlobAnswer, Content};
use super::fill::Follower;
use super::freshness::unix_seconds;
use super::peer_ticket::TicketScope;
use super::progress::Phase;
use super::source::FillKey;
use oci::cache_status::CacheStatus;
use oci::digest::Digest;

/// How long a gateway waits for the headers: the asking one does not wait longer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request of another gateway for a blob.
#[derive(Clone, Copy, Debug)]
pub struct PeerQuery<'a> {
    /// The blob.
    pub digest: Digest,
    /// The value of `Range`, if any.
    pub range: Option<&'a str>,
    /// The value of `Authorization`.
    pub authorization: &'a str,
}

impl Mirror {
    /// The blob that another gateway asks for, if its ticket is valid and this gateway fetches the blob for all of them,
    /// or just did. `None` says nothing about why.
    pub async fn answer_peer(&self, query: &PeerQuery<'_>) -> Option<BlobAnswer> {
        let contents = &self.state.contents;
        let (peers, bucket) = (
            contents.fills.state.peers.as_ref()?,
            contents.store.bucket()?,
        );
        let digest = &query.digest;
        let scope = TicketScope {
            holder: &peers.url,
            digest,
            range: query.range,
        };
        let now = unix_seconds(SystemTime::now());
        if !peers.key.accepts(scope, query.authorization, now)
            || !bucket.held_lease_recently(digest)
        {
            return None;
        }
        let cache = CacheStatus::own("peer");
        // A fill leaves the map after its blob is stored.
        if let Some(mut follower) = contents.fills.follow(&FillKey::Digest(*digest)) {
            let size = tokio::time::timeout(HEADER_TIMEOUT, streaming(&mut follower));
            let size = size.await.ok()??;
            // A fill without the lease may read from another gateway itself: such a chain could become a circle.
            return bucket.holds_lease(digest).then_some(BlobAnswer {
                size,
                cache,
                content: Content::Followed(follower),
            });
        }
        let blob = contents.open(digest, None).await?;
        Some(BlobAnswer::stored(blob, cache))
    }
}

/// Waits until a fill streams, and returns its length, where it is known. `None`: it failed.
async fn streaming(follower: &mut Follower) -> Option<Option<u64>> {
    let is_waiting = |phase: &Phase| matches!(phase, Phase::Waiting);
    let progress = &mut follower.progress;
    let progress = progress
        .wait_for(|progress| !is_waiting(&progress.phase))
        .await
        .ok()?;
    match progress.phase {
        Phase::Streaming { .. } => Some(progress.total),
        Phase::Done { .. } => Some(Some(progress.written)),
        Phase::Waiting | Phase::Failed(_) => None,
    }
}
