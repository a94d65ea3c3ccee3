//! Warming the cache for operators: pulls an image with every blob that a client would ask for, by the same fills as
//! clients, which can join them.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::watch;

use super::blob_answer::BlobLocation;
use super::fill::Follower;
use super::manifest::ReadMethod;
use super::progress::{FillError, Phase};
use super::waiting::Requester;
use super::{Mirror, MirrorError};
use ::gate::Rule;
use access::Permit;
use oci::digest::Digest;
use oci::manifest::{AcceptClass, is_index};
use oci::name::{Reference, RepositoryName};
use oci::platform::{Platform, Platforms, choose};
use oci::references::{BlobReference, parts};

/// Blobs of one image that are fetched at once, as by clients.
const CONCURRENT_BLOBS: usize = 4;
/// How deep indexes may be nested.
const MAX_INDEX_DEPTH: u32 = 3;
/// The longest `Retry-After` of an upstream's rate limit that is waited for.
const SHORT_LIMIT: Duration = Duration::from_secs(60);
/// The deadline for new waits, counted from the start.
const MAX_TOTAL_WAIT: Duration = Duration::from_secs(3600);
/// The shortest and the longest wait.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// An image as an operator names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageReference {
    /// The repository to pull from.
    pub name: RepositoryName,
    /// The tag or digest.
    pub reference: Reference,
}

/// `registry/repository:tag` or `registry/repository@digest`.
impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.name, self.reference)
    }
}

/// The progress of a pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WarmProgress {
    /// Blobs that are stored.
    pub blobs: u64,
    /// All blobs that the manifests read so far name.
    pub of_blobs: u64,
    /// Their bytes, as far as manifests tell.
    pub bytes: u64,
    /// The bytes of those.
    pub of_bytes: u64,
    /// Bytes of blobs that were not stored before.
    pub fetched: u64,
    /// Blobs being fetched: bytes staged, and the length if known.
    pub in_progress: Vec<(Digest, u64, Option<u64>)>,
    /// Why the pull waits, while it does.
    pub waits: Option<String>,
}

/// Why an image could not be pulled.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WarmError {
    /// A manifest or blob cannot be read.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The registry authorises its own callers, and the operator is none of them.
    #[error("visibility: caller; only a client's own login can pull it")]
    PerCaller,
    /// The index has nothing for the platform.
    #[error(
        "it has no image for {wanted}; there are: {}",
        platform_list(available)
    )]
    NoPlatform {
        /// The selected platform.
        wanted: Platforms,
        /// The platforms that the index has.
        available: Vec<Platform>,
    },
    /// Indexes that list indexes, too deep.
    #[error("indexes are nested too deeply")]
    Nested,
    /// The store is full of content in use.
    #[error("there is no room for it in the store")]
    NoRoom,
}

fn platform_list(platforms: &[Platform]) -> String {
    let names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

/// One pull in progress.
struct WarmRun<'a> {
    mirror: &'a Mirror,
    permit: Permit,
    progress: &'a watch::Sender<WarmProgress>,
    began: Instant,
}

impl Mirror {
    /// Pulls an image with all its blobs into the store, and publishes its `progress`. Like a purge it is an
    /// operator's request, which needs no rule. Downloads in progress continue if it is dropped.
    ///
    /// # Errors
    /// Why a part could not be pulled. Parts that were fetched stay stored.
    pub async fn warm(
        &self,
        image: &ImageReference,
        wanted: &Platforms,
        progress: &watch::Sender<WarmProgress>,
    ) -> Result<(), WarmError> {
        let origin = self.state.origins.get(&image.name.registry);
        if origin.ok_or(MirrorError::NotServed)?.is_per_caller() {
            return Err(WarmError::PerCaller);
        }
        let run = WarmRun {
            mirror: self,
            permit: Permit::of_operator(image.name.clone()),
            progress,
            began: Instant::now(),
        };
        let parts = run.manifests(&image.reference, wanted).await?;
        progress.send_modify(|progress| {
            progress.of_blobs = parts.len() as u64;
            progress.of_bytes = parts.iter().filter_map(|part| part.size).sum();
        });
        stream::iter(parts)
            .map(|part| run.blob(part))
            .buffer_unordered(CONCURRENT_BLOBS)
            .try_collect()
            .await
    }
}

impl WarmRun<'_> {
    /// Fetches the manifest and its wanted children; returns the blobs of all.
    async fn manifests(
        &self,
        reference: &Reference,
        wanted: &Platforms,
    ) -> Result<Vec<BlobReference>, WarmError> {
        let mut all: Vec<BlobReference> = Vec::new();
        let mut queue = VecDeque::from([(reference.clone(), 0)]);
        while let Some((reference, depth)) = queue.pop_front() {
            let ask = || {
                let (class, method) = (AcceptClass::Full, ReadMethod::Get);
                self.mirror
                    .manifest(&self.permit, &reference, class, method)
            };
            let answer = match self.retry(ask).await {
                // Of all platforms, the gate serves some.
                Err(WarmError::Mirror(MirrorError::Gate(denial)))
                    if denial.rule == Rule::Platforms && depth > 0 && *wanted == Platforms::All =>
                {
                    continue;
                }
                answer => answer?,
            };
            let bytes = answer.bytes.ok_or(MirrorError::Internal)?;
            if !is_index(&answer.media_type) {
                all.extend(parts(&bytes));
                continue;
            }
            if depth == MAX_INDEX_DEPTH {
                return Err(WarmError::Nested);
            }
            let children = choose(&bytes, wanted).map_err(|available| WarmError::NoPlatform {
                wanted: wanted.clone(),
                available,
            })?;
            let children = children.into_iter().map(Reference::Digest);
            queue.extend(children.map(|child| (child, depth + 1)));
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|part| seen.insert(part.digest));
        Ok(all)
    }

    async fn blob(&self, part: BlobReference) -> Result<(), WarmError> {
        loop {
            let ask = || {
                let gateway = Requester::Gateway;
                self.mirror.blob(&self.permit, &part.digest, gateway)
            };
            match self.retry(ask).await?.location() {
                BlobLocation::Store => break,
                BlobLocation::PassThrough => return Err(WarmError::NoRoom),
                BlobLocation::Fill(follower) => match self.follow(follower, &part.digest).await {
                    Ok(()) => break,
                    // The fill yielded its slot before this pull joined.
                    Err(FillError::Paused) => {}
                    Err(FillError::NoRoom { .. }) => return Err(WarmError::NoRoom),
                    Err(error) => self.wait_to_retry(MirrorError::from_fill(error)).await?,
                },
            }
        }
        self.progress.send_modify(|progress| {
            progress
                .in_progress
                .retain(|(digest, ..)| *digest != part.digest);
            progress.blobs += 1;
            progress.bytes += part.size.unwrap_or(0);
        });
        Ok(())
    }

    /// Waits for the end of a fill.
    async fn follow(&self, follower: Follower, part: &Digest) -> Result<(), FillError> {
        let mut follower = follower.progress;
        loop {
            let (written, total, end) = {
                let now = follower.borrow_and_update();
                let end = match &now.phase {
                    Phase::Waiting | Phase::Streaming { .. } => None,
                    Phase::Done { .. } => Some(Ok(())),
                    Phase::Failed(error) => Some(Err(error.clone())),
                };
                (now.written, now.total, end)
            };
            self.progress.send_modify(|progress| {
                progress.in_progress.retain(|(digest, ..)| digest != part);
                match &end {
                    None => progress.in_progress.push((*part, written, total)),
                    Some(_) => progress.fetched += written,
                }
            });
            if let Some(end) = end {
                return end;
            }
            follower.changed().await.map_err(|_| FillError::Lost)?;
        }
    }

    /// Asks until the answer is not to wait.
    async fn retry<T, F>(&self, ask: impl Fn() -> F) -> Result<T, WarmError>
    where
        F: Future<Output = Result<T, MirrorError>>,
    {
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.wait_to_retry(error).await?,
            }
        }
    }

    /// Waits as long as an error asks for, or fails with it.
    async fn wait_to_retry(&self, error: MirrorError) -> Result<(), WarmError> {
        let (least, most) = WAIT;
        let wait = match retry_after(&error) {
            Some(wait) if self.began.elapsed() < MAX_TOTAL_WAIT => wait.clamp(least, most),
            _ => return Err(error.into()),
        };
        let why = error.to_string();
        self.progress
            .send_modify(|progress| progress.waits = Some(why));
        tokio::time::sleep(wait).await;
        self.progress.send_modify(|progress| progress.waits = None);
        Ok(())
    }
}

/// How long to wait before asking again, if that is of use.
fn retry_after(error: &MirrorError) -> Option<Duration> {
    match error {
        MirrorError::Busy { retry_after } => Some(*retry_after),
        MirrorError::Preparing(_) => Some(WAIT.0),
        MirrorError::TooManyRequests { retry_after } => retry_after.filter(|it| *it <= SHORT_LIMIT),
        MirrorError::NotServed
        | MirrorError::Unknown { .. }
        | MirrorError::Denied
        | MirrorError::LoginRequired
        | MirrorError::Challenged(_)
        | MirrorError::CallerDenied
        | MirrorError::NotPublic
        | MirrorError::Gate(_)
        | MirrorError::NoRoom { .. }
        | MirrorError::Reserved
        | MirrorError::TooLong
        | MirrorError::Unavailable(_)
        | MirrorError::Unusable(_)
        | MirrorError::DigestMismatch(_)
        | MirrorError::Disk(_)
        | MirrorError::Internal => None,
    }
}
