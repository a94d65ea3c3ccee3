//! Where a fill gets its bytes, what it is known by, and how its bytes are verified.
//!
//! A blob of a repository is named by its digest. A [`ForeignSource`] may have content of which only the end tells
//! the digest: its fill is known by a name, and the source says what its bytes are checked by.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::future::BoxFuture;

use super::freshness::{is_fresh, unix_seconds};
use super::origin::OriginView;
use oci::digest::{Algorithm, Digest, Hasher};
use oci::name::{Registry, Repository};
use store::{Blob, BlobKey, BlobLink, Question, Reach, Store};
use upstream::{BlobBody, UpstreamError};

/// What a fill is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FillKey {
    /// The digest of its content.
    Digest(Digest),
    /// A name, where only the content's end tells the digest.
    Name(ContentName),
}

/// The hash of a content's name, under which its partial is filed. No blob has it for a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentName(Digest);

impl FillKey {
    /// The key of a content that is named so.
    pub fn named(name: &str) -> Self {
        Self::Name(ContentName(Digest::of(Algorithm::Sha256, name.as_bytes())))
    }

    /// The digest of the content, where it is known before its end.
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Digest(digest) => Some(*digest),
            Self::Name(_) => None,
        }
    }

    /// What its partial is filed under.
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

/// A source that is no blob of a repository.
pub trait ForeignSource: fmt::Debug + Send + Sync {
    fn registry(&self) -> &Registry;

    /// The repository by whose right it is asked, where that is known.
    fn repository(&self) -> Option<&Repository>;

    /// Its name there. With registry and repository it tells one source from another.
    fn name(&self) -> &str;

    /// Fetches from byte `offset` up to `end` (excluded) or to the end, of `total` bytes where that is known. A
    /// body may begin before `offset`.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    fn fetch(
        &self,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> BoxFuture<'_, Result<BlobBody, UpstreamError>>;

    /// How a body is verified of which only the end tells the digest.
    fn check(&self) -> DigestCheck;

    /// The digest under which such content was committed before.
    fn committed_as(&self) -> BoxFuture<'_, Option<Digest>>;

    /// Its bytes were committed under this digest.
    fn committed(&self, digest: Digest, size: u64) -> BoxFuture<'_, ()>;
}

/// Where a fill can get its bytes.
#[derive(Clone, Debug)]
pub enum FillSource {
    /// A blob of a repository.
    Blob(BlobSource),
    Foreign(Arc<dyn ForeignSource>),
}

/// A repository of a v2 registry that may have a blob.
#[derive(Clone, Debug)]
pub struct BlobSource {
    pub(super) origin: OriginView,
    pub(super) repository: Repository,
}

/// How bytes are verified from their first on: not at all, or what is hashed must be one of these.
#[derive(Debug)]
pub struct DigestCheck {
    pub(super) hasher: Hasher,
    expected: Vec<Digest>,
}

impl DigestCheck {
    /// What `hasher` comes to with a whole body must be one of `expected`, if there are any.
    pub const fn new(hasher: Hasher, expected: Vec<Digest>) -> Self {
        Self { hasher, expected }
    }

    fn for_digest(digest: &Digest) -> Self {
        Self::new(Hasher::new(digest.algorithm()), vec![*digest])
    }

    pub(super) fn accepts(&self, actual: &Digest) -> bool {
        self.expected.is_empty() || self.expected.contains(actual)
    }

    /// Whether there is anything to compare with.
    pub(super) fn has_expected(&self) -> bool {
        !self.expected.is_empty()
    }

    /// The first of what it could be.
    pub(super) fn expected(&self) -> Option<Digest> {
        self.expected.first().copied()
    }
}

impl FillSource {
    /// The repository of a v2 registry that it is, if it is one.
    pub(super) fn blob(&self) -> Option<(&OriginView, &Repository)> {
        match self {
            Self::Blob(BlobSource { origin, repository }) => Some((origin, repository)),
            Self::Foreign(_) => None,
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        match self {
            Self::Blob(blob) => &blob.origin.registry(),
            Self::Foreign(foreign) => foreign.registry(),
        }
    }

    /// The repository or the foreign name, for the log.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Blob(blob) => blob.repository.as_str(),
            Self::Foreign(foreign) => foreign.name(),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            // What one caller is given says nothing of another.
            (Self::Blob(one), Self::Blob(other)) => {
                one.repository == other.repository
                    && one.origin.registry() == other.origin.registry()
                    && one.origin.caller_key() == other.origin.caller_key()
            }
            (Self::Foreign(one), Self::Foreign(other)) => {
                one.name() == other.name()
                    && one.repository() == other.repository()
                    && one.registry() == other.registry()
            }
            (Self::Blob(_), Self::Foreign(_)) | (Self::Foreign(_), Self::Blob(_)) => false,
        }
    }

    /// Begins to fetch from byte `offset` up to `end` (excluded) or to the end, of `total` bytes where that is
    /// known.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub(super) async fn body(
        &self,
        key: &FillKey,
        offset: u64,
        end: Option<u64>,
        total: Option<u64>,
    ) -> Result<BlobBody, UpstreamError> {
        match (self, key) {
            (Self::Blob(BlobSource { origin, repository }), FillKey::Digest(digest)) => {
                let upstream = origin.upstream()?;
                upstream.blob(repository, digest, offset, end).await
            }
            // A repository has no content but by digest.
            (Self::Blob(_), FillKey::Name(_)) => Err(UpstreamError::NotFound),
            (Self::Foreign(foreign), _) => foreign.fetch(offset, end, total).await,
        }
    }

    /// Whether it still has it, where that is not known from elsewhere.
    ///
    /// # Errors
    /// What the upstream said, or why it could not be asked.
    pub(super) async fn confirm(&self, key: &FillKey) -> Result<(), UpstreamError> {
        match (self, key) {
            (Self::Blob(BlobSource { origin, repository }), FillKey::Digest(digest)) => {
                let size = origin.upstream()?.blob_head(repository, digest).await;
                size.map(drop)
            }
            (Self::Blob(_), FillKey::Name(_)) => Err(UpstreamError::NotFound),
            // Who may have it was decided before its fill was joined.
            (Self::Foreign(_), _) => Ok(()),
        }
    }

    /// How a body is verified that is read from its first byte on.
    pub(super) fn check(&self, key: &FillKey) -> DigestCheck {
        match (self, key) {
            (Self::Foreign(foreign), FillKey::Name(_)) => foreign.check(),
            (_, key) => DigestCheck::for_digest(&key.partial_key()),
        }
    }

    /// What another fill committed meanwhile, if this source is known to have it.
    pub(super) async fn committed_meanwhile(
        &self,
        store: &Arc<Store>,
        key: &FillKey,
    ) -> Option<Blob> {
        let digest = match (self, key) {
            (Self::Blob(BlobSource { origin, repository }), FillKey::Digest(digest)) => {
                let key = BlobKey::new(origin.registry(), repository, digest);
                let link = store.records.open(&key).await.ok()??;
                let now = SystemTime::now();
                if !is_fresh(link.checked_at, origin.link_ttl(), now) {
                    return None;
                }
                *digest
            }
            (Self::Blob(_), FillKey::Name(_)) => return None,
            // Who may have it was decided before.
            (Self::Foreign(_), FillKey::Digest(digest)) => *digest,
            (Self::Foreign(foreign), FillKey::Name(_)) => foreign.committed_as().await?,
        };
        let store = store.clone();
        let opened = tokio::task::spawn_blocking(move || store.blobs.open(&digest, None));
        opened.await.ok()?.ok()?
    }

    /// Begins to ask whether it has a blob, of a repository; call it before it is asked for the bytes.
    pub(super) fn ask_link(&self, store: &Store, key: &FillKey) -> Option<Question<BlobLink>> {
        let (origin, repository) = self.blob()?;
        let key = BlobKey::new(origin.registry(), repository, &key.digest()?);
        Some(store.records.ask(&key))
    }

    /// It has it: its upstream just said so. What a foreign source has is noted once it is whole.
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

    /// The bytes are committed under this digest.
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
    fn a_name_is_no_digest() {
        let named = FillKey::named("a layer");
        let same_hash = FillKey::Digest(Digest::of(Algorithm::Sha256, b"a layer"));
        assert_eq!(named, FillKey::named("a layer"));
        assert_ne!(named, FillKey::named("another layer"));
        assert_ne!(named, same_hash);
        assert_eq!(named.digest(), None);
        assert_eq!(same_hash.digest(), Some(same_hash.partial_key()));
    }

    #[test]
    fn a_body_is_one_of_the_digests_it_is_checked_by() {
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
