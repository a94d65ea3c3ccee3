//! What a record is, whom it concerns, and what becomes of an answer that would be one.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use runtime::generation;

/// A question about the record at a path; ask it before anybody else is asked.
pub type Question = generation::Question<String>;

/// What can be recorded.
pub trait Record: Serialize + DeserializeOwned + PartialEq + Send + Sync + 'static {
    /// When the upstream last confirmed it, in seconds since 1970, where that is noted.
    fn checked_at(&self) -> Option<u64> {
        None
    }

    /// Whether it says the same as another, whenever that was confirmed.
    fn says_the_same(&self, other: &Self) -> bool {
        self == other
    }
}

/// Whom a record concerns, where there is a bucket that gateways share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Every gateway: it is what the upstream said.
    Shared,
    /// This gateway: it is about what only it has.
    Here,
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<V> {
    /// It is the record now.
    Current(Arc<V>),
    /// It is good for who asked, and was not kept: something was written since.
    Outdated(Arc<V>),
}

impl<V> Outcome<V> {
    /// What was answered, kept or not.
    pub fn into_record(self) -> Arc<V> {
        match self {
            Self::Current(record) | Self::Outdated(record) => record,
        }
    }
}
