//! The entries of the index, packed so that a million of them take under 100 MB.

use oci::digest::Digest;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// How many bytes a size takes.
const SIZE: usize = 5;

/// The largest size that an entry can hold.
pub const LARGEST: u64 = (1 << 40) - 1;

/// What a blob is, as far as it matters for the order in which blobs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobKind {
    /// A layer, a configuration, or content of an unknown kind.
    Layer,
    /// An index, an image's manifest or a referrer.
    Manifest,
}

/// What is known of an entry, in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    Free,
    /// Found on disk.
    FoundLayer,
    FoundManifest,
    /// Its digest was seen to be right by this process.
    VerifiedLayer,
    VerifiedManifest,
}

impl EntryState {
    pub fn found(kind: BlobKind) -> Self {
        match kind {
            BlobKind::Layer => Self::FoundLayer,
            BlobKind::Manifest => Self::FoundManifest,
        }
    }

    pub fn verified(kind: BlobKind) -> Self {
        match kind {
            BlobKind::Layer => Self::VerifiedLayer,
            BlobKind::Manifest => Self::VerifiedManifest,
        }
    }

    pub fn kind(self) -> BlobKind {
        match self {
            Self::Free | Self::FoundLayer | Self::VerifiedLayer => BlobKind::Layer,
            Self::FoundManifest | Self::VerifiedManifest => BlobKind::Manifest,
        }
    }

    pub fn is_verified(self) -> bool {
        matches!(self, Self::VerifiedLayer | Self::VerifiedManifest)
    }
}

#[derive(Debug)]
pub(super) struct IndexEntry {
    pub digest: Digest,
    pub state: EntryState,
    /// Which of the configured lives it has; see `BlobIndex::mark`.
    pub ttl_index: u8,
    pub size: [u8; SIZE],
    /// Seconds since 1970, as it stands in the file's mtime.
    pub persisted_use: u32,
    pub newer: u32,
    pub older: u32,
    /// How many readers there are; a pinned entry is not evicted.
    pub pins: u32,
}

impl IndexEntry {
    pub fn size(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..SIZE].copy_from_slice(&self.size);
        u64::from_le_bytes(bytes)
    }

    /// The size as an entry holds it.
    pub fn packed(size: u64) -> [u8; SIZE] {
        let mut packed = [0; SIZE];
        packed.copy_from_slice(&size.min(LARGEST).to_le_bytes()[..SIZE]);
        packed
    }
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListEnds {
    pub newest: u32,
    pub oldest: u32,
    /// What all of it takes, and what of it is pinned.
    pub bytes: u64,
    pub pinned: u64,
}

impl ListEnds {
    pub const NONE: Self = Self {
        newest: NONE,
        oldest: NONE,
        bytes: 0,
        pinned: 0,
    };
}
