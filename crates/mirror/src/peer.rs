//! Reading a blob from the gateway that fetches it: one more source of a fill, while that gateway holds the lease.
//!
//! The bytes are staged and published like any source's, and verified at commit. What that gateway sends is trusted as
//! little as what a registry sends: a drop is resumed, wrong bytes are discarded, and then the lease is taken over.
//! Only the holder of a lease serves others, and it asks the upstream alone, so that no two wait for each other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;

use super::download::Download;
use super::freshness::unix_seconds;
use super::peer_ticket::{self, PeerKey, TicketScope};
use super::progress::{FillError, TAIL};
use super::source::{DigestCheck, FillSource, ForeignSource};
use super::transfer::Interruption;
use oci::digest::{Digest, Hasher};
use oci::name::{Registry, Repository, RepositoryName};
use store::{LeaseHolder, OpenFile, StagedBlob};
use telemetry::metrics::{self, BucketEvent, CorruptSource};
use upstream::{BlobBody, PeerClient, PeerRequest, SetUpError, UpstreamError};

/// How the gateways of a bucket reach and authenticate each other.
#[derive(Clone, Debug)]
pub struct PeerSettings {
    /// The URL of this gateway: scheme, host and port.
    pub url: String,
    /// The key that they share.
    pub key: PeerKey,
    /// A PEM file of CAs, trusted besides the system's roots.
    pub ca: Option<PathBuf>,
}

/// The other gateways of the bucket. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Peers {
    /// The URL of this gateway.
    pub(super) url: Arc<str>,
    pub(super) key: PeerKey,
    client: PeerClient,
}

impl Peers {
    /// Sets up the client.
    ///
    /// # Errors
    /// [`SetUpError`], for an unusable `ca` or unusable TLS.
    ///
    /// # Panics
    /// With a `ca`, outside of a Tokio runtime.
    pub fn open(settings: PeerSettings) -> Result<Self, SetUpError> {
        Ok(Self {
            url: settings.url.into(),
            key: settings.key,
            client: PeerClient::open(settings.ca)?,
        })
    }

    /// The source of a blob that `holder` fetches, for a repository that is known to have it, of `size` if that is known.
    fn source(
        &self,
        holder: &LeaseHolder,
        name: &RepositoryName,
        digest: Digest,
        size: Option<u64>,
    ) -> FillSource {
        FillSource::Foreign(Arc::new(PeerSource {
            peers: self.clone(),
            holder: holder.url.clone(),
            name: name.clone(),
            digest,
            size,
        }))
    }
}

/// A blob at the gateway that holds its lease.
#[derive(Debug)]
struct PeerSource {
    peers: Peers,
    /// The URL of that gateway.
    holder: String,
    name: RepositoryName,
    digest: Digest,
    /// As this gateway's registry says.
    size: Option<u64>,
}

impl PeerSource {
    async fn request(&self, offset: u64, end: Option<u64>) -> Result<BlobBody, UpstreamError> {
        let range = (offset > 0 || end.is_some()).then_some((offset, end));
        let header = range.map(PeerRequest::range_header);
        let scope = TicketScope {
            holder: &self.holder,
            digest: &self.digest,
            range: header.as_deref(),
        };
        let now = unix_seconds(SystemTime::now());
        let request = PeerRequest {
            origin: &self.holder,
            path: &peer_ticket::path(&self.digest),
            range,
            authorization: &self.peers.key.sign(scope, now),
            tail: TAIL,
        };
        let body = self.peers.client.fetch(&request).await?;
        // Readers are told the length before anything is verified.
        match (self.size, body.total) {
            (Some(size), Some(total)) if size != total => Err(UpstreamError::NotFound),
            _ => Ok(body),
        }
    }
}

impl ForeignSource for PeerSource {
    fn registry(&self) -> &Registry {
        &self.name.registry
    }

    fn repository(&self) -> Option<&Repository> {
        Some(&self.name.repository)
    }

    fn name(&self) -> &str {
        &self.holder
    }

    fn fetch(
        &self,
        offset: u64,
        end: Option<u64>,
        _total: Option<u64>,
    ) -> BoxFuture<'_, Result<BlobBody, UpstreamError>> {
        Box::pin(self.request(offset, end))
    }

    fn check(&self) -> DigestCheck {
        DigestCheck::new(Hasher::new(self.digest.algorithm()), vec![self.digest])
    }

    fn committed_as(&self) -> BoxFuture<'_, Option<Digest>> {
        Box::pin(std::future::ready(None))
    }

    fn committed(&self, _digest: Digest, _size: u64) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// How following another gateway ended.
pub(super) enum Followed {
    Done(Arc<OpenFile>),
    /// It was not asked: the repository is not known to have the blob.
    Unclaimed,
    /// It sent new bytes, and then the connection failed: it may be asked for the rest.
    Dropped,
    /// It does not send the blob, or sends nothing any more, or sent wrong bytes.
    Lost,
    /// The disk has no room, or other fills need the slot.
    Failed(Interruption),
}

impl Download {
    /// Fills from the gateway that holds the lease. The source's repository is known to have the blob, of `size` if that
    /// is known.
    pub(super) async fn follow(
        &mut self,
        peers: &Peers,
        holder: &LeaseHolder,
        source: &FillSource,
        size: Option<u64>,
        staged: &mut Option<StagedBlob>,
    ) -> Followed {
        let (Some((_, name)), Some(digest)) = (source.blob(), self.fill.key.digest()) else {
            return Followed::Lost;
        };
        let peer = peers.source(holder, name, digest, size);
        let before = staged.as_ref().map_or(0, StagedBlob::written);
        let interruption = match self.attempt(&peer, staged).await {
            Ok(file) => {
                let bytes = self.fill.progress.borrow().written - before;
                tracing::info!(target: "fill", %digest, bytes, "came from another gateway");
                metrics::bucket(BucketEvent::PeerHit);
                return Followed::Done(file);
            }
            Err(interruption) => interruption,
        };
        let moved = staged.as_ref().map_or(0, StagedBlob::written) > before;
        let (followed, error) = match interruption {
            Interruption::Drop(error) if moved && !is_silence(&error) => (Followed::Dropped, error),
            Interruption::Drop(error) | Interruption::Refusal(error) => (Followed::Lost, error),
            Interruption::WrongBytes(error) | Interruption::Changed(error) => {
                self.discard(staged, Some(CorruptSource::Peer), &error);
                (Followed::Lost, error)
            }
            other @ (Interruption::Disk(_) | Interruption::Pause) => {
                return Followed::Failed(other);
            }
        };
        metrics::bucket(BucketEvent::PeerLost);
        let error = telemetry::chain(&error);
        tracing::debug!(target: "fill", %digest, error, "another gateway stopped sending");
        followed
    }
}

/// Whether a gateway sent nothing for too long.
fn is_silence(error: &FillError) -> bool {
    matches!(error, FillError::Upstream(error) if matches!(error.root(), UpstreamError::Timeout))
}
