//! Fill sources: the key of a fill, the source of its bytes, and their verification.
//!
//! A blob of a repository is identified by its digest. A [`ForeignSource`] may have content whose digest is known only
//! at its end: such a fill is identified by a name, and the source tells how the bytes are verified.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;

use super::freshness::{is_fresh, unix_seconds};
use super::origin::OriginView;
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::{Registry, Repository, RepositoryName};
use store::{Blob, BlobKey, BlobLink, Question, Reach, Store};
use upstream::{BlobBody, UpstreamError};

/// Identifies a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FillKey {
    /// The digest of its content.
    Digest(Digest),
    /// A name, for content whose digest is known only at its end.
    Name(ContentName),
}

/// The hash of a content's name, under which its partial is stored. It is no blob's digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentName(Digest);

impl FillKey {
    /// The key of content with this name.
    pub fn named(name: &str) -> Self {
        Self::Name(ContentName(Digest::of(Algorithm::Sha256, name.as_bytes())))
    }

    /// The digest of the content, if it is known before the end.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Digest(digest) => Some(*digest),
            Self::Name(_) => None,
        }
    }

    /// The key of its partial.
    pub(super) fn partial_key(&self) -> Digest {
        match self {
            Self::Digest(digest) | Self::Name(ContentName(digest)) => *digest,
        }
    }
}

impl fmt::Display for FillKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.partial_key().fmt(f)
    }
}

/// A source other than a blob of a repository.
pub trait ForeignSource: fmt::Debug + Send + Sync {
    /// The registry that it belongs to, whose slots it uses.
    fn registry(&self) -> &Registry;

    /// The repository by whose right it is asked, if known.
    fn repository(&self) -> Option<&Repository>;

    /// Its name in the registry. With registry and repository it identifies the source.
    fn name(&self) -> &str;

    /// Fetches from byte `offset` up to `end` (excluded) or to the end, of `total` bytes if known. The
    /// body may begin before `offset`.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    fn fetch(
        &self,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> BoxFuture<'_, Result<BlobBody, UpstreamError>>;

    /// The verification of content without a known digest.
    fn check(&self) -> DigestCheck;

    /// The digest under which such content was committed earlier.
    fn committed_as(&self) -> BoxFuture<'_, Option<Digest>>;

    /// Records that its bytes were committed under this digest.
    fn committed(&self, digest: Digest, size: u64) -> BoxFuture<'_, ()>;
}

/// A source of a fill's bytes.
#[derive(Clone, Debug)]
pub enum FillSource {
    /// A blob of a repository.
    Blob(BlobSource),
    Foreign(Arc<dyn ForeignSource>),
}

/// A repository that may have a blob.
#[derive(Clone, Debug)]
pub struct BlobSource {
    pub(super) origin: OriginView,
    pub(super) name: RepositoryName,
}

/// Verifies a whole body: its hash must be one of the expected digests, if there are any.
#[derive(Debug)]
pub struct DigestCheck {
    pub(super) hasher: Hasher,
    expected: Vec<Digest>,
}

impl DigestCheck {
    /// A check by `hasher`; without `expected` digests any body passes.
    pub const fn new(hasher: Hasher, expected: Vec<Digest>) -> Self {
        Self { hasher, expected }
    }

    fn for_digest(digest: &Digest) -> Self {
        Self::new(Hasher::new(digest.algorithm()), vec![*digest])
    }

    pub(super) fn accepts(&self, actual: &Digest) -> bool {
        self.expected.is_empty() || self.expected.contains(actual)
    }

    /// Whether any digest is expected.
    pub(super) fn has_expected(&self) -> bool {
        !self.expected.is_empty()
    }

    /// The first expected digest.
    pub(super) fn expected(&self) -> Option<Digest> {
        self.expected.first().copied()
    }
}

impl FillSource {
    /// The registry and repository of a blob.
    pub(super) fn blob(&self) -> Option<(&OriginView, &RepositoryName)> {
        match self {
            Self::Blob(BlobSource { origin, name }) => Some((origin, name)),
            Self::Foreign(_) => None,
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        match self {
            Self::Blob(blob) => blob.origin.registry(),
            Self::Foreign(foreign) => foreign.registry(),
        }
    }

    /// The repository by whose right it is asked, if known.
    pub(super) fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Blob(blob) => Some(&blob.name.repository),
            Self::Foreign(foreign) => foreign.repository(),
        }
    }

    /// The repository or the foreign name, for the log.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Blob(blob) => blob.name.repository.as_str(),
            Self::Foreign(foreign) => foreign.name(),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            // A registry's answer to one caller does not count for another.
            (Self::Blob(one), Self::Blob(other)) => {
                one.name == other.name && one.origin.caller_key() == other.origin.caller_key()
            }
            (Self::Foreign(one), Self::Foreign(other)) => {
                one.name() == other.name()
                    && one.repository() == other.repository()
                    && one.registry() == other.registry()
            }
            (Self::Blob(_), Self::Foreign(_)) | (Self::Foreign(_), Self::Blob(_)) => false,
        }
    }

    /// Begins to fetch from byte `offset` up to `end` (excluded) or to the end, of `total` bytes if known.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub(super) async fn body(
        &self,
        key: &FillKey,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        match (self, key) {
            (Self::Blob(BlobSource { origin, name }), FillKey::Digest(digest)) => {
                let upstream = origin.upstream()?;
                upstream.blob(&name.repository, digest, offset, end).await
            }
            // A repository has content by digest only.
            (Self::Blob(_), FillKey::Name(_)) => Err(UpstreamError::NotFound),
            (Self::Foreign(foreign), _) => foreign.fetch(offset, end, total).await,
        }
    }

    /// The most connections of a fill from this source.
    pub(super) fn connections_per_fill(&self, key: &FillKey) -> u32 {
        match (self, key) {
            (Self::Blob(blob), FillKey::Digest(_)) => blob.origin.connections_per_fill(),
            (Self::Blob(_), FillKey::Name(_)) | (Self::Foreign(_), _) => 1,
        }
    }

    /// Begins to fetch a part on a further connection.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub(super) async fn segment(
        &self,
        key: &FillKey,
        start: u64,
        end: u64,
    ) -> Result<BlobBody, UpstreamError> {
        match (self, key) {
            (Self::Blob(BlobSource { origin, name }), FillKey::Digest(digest)) => {
                let upstream = origin.upstream()?;
                upstream
                    .blob_segment(&name.repository, digest, start, end)
                    .await
            }
            (Self::Blob(_), FillKey::Name(_)) | (Self::Foreign(_), _) => {
                Err(UpstreamError::NotFound)
            }
        }
    }

    /// Asks whether a repository still has the content.
    ///
    /// # Errors
    /// The upstream's refusal, or why it could not be asked.
    pub(super) async fn confirm(&self, key: &FillKey) -> Result<(), UpstreamError> {
        match (self, key) {
            (Self::Blob(BlobSource { origin, name }), FillKey::Digest(digest)) => {
                let upstream = origin.upstream()?;
                let size = upstream.blob_head(&name.repository, digest).await;
                size.map(drop)
            }
            (Self::Blob(_), FillKey::Name(_)) => Err(UpstreamError::NotFound),
            // The right to it was checked before its fill was joined.
            (Self::Foreign(_), _) => Ok(()),
        }
    }

    /// The verification of a body that is read from its first byte on.
    pub(super) fn check(&self, key: &FillKey) -> DigestCheck {
        match (self, key) {
            (Self::Foreign(foreign), FillKey::Name(_)) => foreign.check(),
            (_, key) => DigestCheck::for_digest(&key.partial_key()),
        }
    }

    /// The blob that another fill committed meanwhile, if this source is known to have it.
    pub(super) async fn committed_meanwhile(
        &self,
        store: &Arc<Store>,
        key: &FillKey,
    ) -> Option<Blob> {
        let digest = match (self, key) {
            (_, FillKey::Digest(digest)) if !store.blobs.may_have(digest) => return None,
            (Self::Blob(BlobSource { origin, name }), FillKey::Digest(digest)) => {
                let key = BlobKey::new(name, digest);
                let link = store.records.open(&key).await.ok()??;
                let now = SystemTime::now();
                if !is_fresh(link.checked_at, origin.link_ttl(), now) {
                    return None;
                }
                *digest
            }
            (Self::Blob(_), FillKey::Name(_)) => return None,
            // The right to it was checked before.
            (Self::Foreign(_), FillKey::Digest(digest)) => *digest,
            (Self::Foreign(foreign), FillKey::Name(_)) => foreign.committed_as().await?,
        };
        let store = store.clone();
        let opened = tokio::task::spawn_blocking(move || store.blobs.open(&digest, None));
        opened.await.ok()?.ok()?
    }

    /// Begins to ask whether a repository has the blob; call it before it is asked for the bytes.
    pub(super) fn ask_link(&self, store: &Store, key: &FillKey) -> Option<Question<BlobLink>> {
        let (_, name) = self.blob()?;
        let key = BlobKey::new(name, &key.digest()?);
        Some(store.records.ask(&key))
    }

    /// Records that a repository has the blob, as its upstream just said. Foreign content is recorded at commit.
    pub(super) async fn record_link(
        &self,
        store: &Store,
        claim: Option<&Question<BlobLink>>,
        size: Option<u64>,
    ) {
        let Some(claim) = claim else {
            return;
        };
        let link = BlobLink {
            checked_at: unix_seconds(SystemTime::now()),
            size,
        };
        store.records.answer(claim, link, Reach::Shared).await;
    }

    /// Tells a foreign source that its bytes were committed under this digest.
    pub(super) async fn committed(&self, digest: Digest, size: u64) {
        if let Self::Foreign(foreign) = self {
            foreign.committed(digest, size).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_a_digest() {
        let named = FillKey::named("a layer");
        let same_hash = FillKey::Digest(Digest::of(Algorithm::Sha256, b"a layer"));
        assert_eq!(named, FillKey::named("a layer"));
        assert_ne!(named, FillKey::named("another layer"));
        assert_ne!(named, same_hash);
        assert_eq!(named.digest(), None);
        assert_eq!(same_hash.digest(), Some(same_hash.partial_key()));
    }

    #[test]
    fn a_check_accepts_only_expected_digests() {
        let [right, wrong] = [b"right", b"wrong"].map(|body| Digest::of(Algorithm::Sha256, body));
        for (expected, actual, accepts, has_expected) in [
            (vec![], right, true, false),
            (vec![right], right, true, true),
            (vec![wrong, right], right, true, true),
            (vec![right], wrong, false, true),
        ] {
            let check = DigestCheck::new(Hasher::new(Algorithm::Sha256), expected.clone());
            assert_eq!(check.accepts(&actual), accepts, "{expected:?} {actual}");
            assert_eq!(check.has_expected(), has_expected);
            assert_eq!(check.expected(), expected.first().copied());
        }
    }
}
