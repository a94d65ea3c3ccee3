//! The contents of the model's store, and what can happen to them.

use std::sync::LazyLock;

use oci::digest::{Algorithm, Digest};
use proptest::prelude::*;

/// The contents that there can be.
pub const CONTENTS: u8 = 10;

/// Every second content is large enough to be resumed.
static ALL: LazyLock<Vec<(Vec<u8>, Digest)>> = LazyLock::new(|| {
    let make = |key: u8| {
        let length = if key.is_multiple_of(2) {
            (1 << 20) + usize::from(key) * 50_000
        } else {
            usize::from(key) * 9000
        };
        let bytes: Vec<u8> = (0..=250_u8)
            .map(|byte| byte ^ key)
            .cycle()
            .take(length)
            .collect();
        let algorithm = if key.is_multiple_of(5) {
            Algorithm::Sha512
        } else {
            Algorithm::Sha256
        };
        let digest = Digest::of(algorithm, &bytes);
        (bytes, digest)
    };
    (0..CONTENTS).map(make).collect()
});

pub fn content(key: u8) -> &'static [u8] {
    &ALL[usize::from(key)].0
}

pub fn digest(key: u8) -> Digest {
    ALL[usize::from(key)].1
}

#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Starts a download, with or without a length, or resumes its partial.
    Stage(u8, bool),
    /// Appends so many percent of what is missing.
    Append(u8, u8),
    /// Appends a wrong byte.
    AppendWrong(u8),
    Commit(u8),
    Park(u8),
    /// Drops the download.
    Drop(u8),
    /// Stores it whole, as manifests are.
    Store(u8),
    Open(u8),
    Close,
    /// An orderly restart, with another limit in MiB.
    Restart(u8),
    /// The process is killed: nothing is cleaned up.
    Crash,
    /// A byte on disk changes, or the end is cut off.
    Corrupt(u8, bool),
    /// A file is removed by hand.
    Delete(u8),
    /// Foreign files appear in the store.
    Litter,
    /// Adds so many names to the lists of a repository.
    Link(u8, u16),
    /// The folder of partials takes no file any more, until the next act of this kind.
    Break,
    Verify,
    /// Nothing was used for two days.
    Age,
    Sweep,
}

pub fn act() -> impl Strategy<Value = Act> {
    let key = 0..CONTENTS;
    prop_oneof![
        4 => (key.clone(), any::<bool>()).prop_map(|(key, sized)| Act::Stage(key, sized)),
        5 => (key.clone(), 1..=100_u8).prop_map(|(key, part)| Act::Append(key, part)),
        1 => key.clone().prop_map(Act::AppendWrong),
        5 => key.clone().prop_map(Act::Commit),
        2 => key.clone().prop_map(Act::Park),
        1 => key.clone().prop_map(Act::Drop),
        4 => key.clone().prop_map(Act::Store),
        5 => key.clone().prop_map(Act::Open),
        2 => Just(Act::Close),
        1 => (1..6_u8).prop_map(Act::Restart),
        2 => Just(Act::Crash),
        2 => (key.clone(), any::<bool>()).prop_map(|(key, cut)| Act::Corrupt(key, cut)),
        1 => key.prop_map(Act::Delete),
        1 => Just(Act::Litter),
        2 => (0..3_u8, 1..3000_u16).prop_map(|(of, many)| Act::Link(of, many)),
        1 => Just(Act::Break),
        1 => Just(Act::Verify),
        1 => Just(Act::Age),
        1 => Just(Act::Sweep),
    ]
}
