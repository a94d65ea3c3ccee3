//! The entries of the index, packed so that a million of them take under 100 MB.

use oci::digest::Digest;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// The length of a packed size, in bytes.
const SIZE: usize = 5;

/// The largest size that an entry can hold.
pub const LARGEST: u64 = (1 << 40) - 1;

/// What is known of a stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobStatus {
    /// In bytes.
    pub size: u64,
    /// The last use, as far as it is written: up to an hour ago.
    pub last_use: u64,
}

/// The kind of a blob, as far as it matters for the order of eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobKind {
    /// A layer, a configuration, or content of an unknown kind.
    Layer,
    /// An index, an image's manifest or a referrer.
    Manifest,
}

/// The state of an entry, in one byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryState {
    Free,
    /// Found on disk.
    FoundLayer,
    FoundManifest,
    /// Its digest was verified by this process.
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
    /// The index of its TTL; see `BlobIndex::mark`.
    pub ttl_index: u8,
    pub size: [u8; SIZE],
    /// The file's mtime, in seconds since 1970.
    pub persisted_use: u32,
    pub newer: u32,
    pub older: u32,
    /// The number of readers; a pinned entry is not evicted.
    pub pins: u32,
}

impl IndexEntry {
    pub fn size(&self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..SIZE].copy_from_slice(&self.size);
        u64::from_le_bytes(bytes)
    }

    /// Its size and last use.
    pub fn status(&self) -> BlobStatus {
        BlobStatus {
            size: self.size(),
            last_use: self.persisted_use.into(),
        }
    }

    /// Packs a size for an entry.
    pub fn packed(size: u64) -> [u8; SIZE] {
        let mut packed = [0; SIZE];
        packed.copy_from_slice(&size.min(LARGEST).to_le_bytes()[..SIZE]);
        packed
    }
}

/// The ends of a list of entries.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListEnds {
    pub newest: u32,
    pub oldest: u32,
    /// The bytes of all entries, and those of pinned ones.
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
