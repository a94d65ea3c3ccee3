//! Kinds of records that another crate adds to the store, and what a purge means to them.

use std::fmt;

use crate::purge::{RecordSurvey, Target};
use crate::record::{ExtensionKey, ExtensionKind};

/// The records of another crate. The store treats them by what their kinds declare; `also_purged` says what a
/// purge takes beyond that.
#[derive(Clone, Copy)]
pub struct Extension {
    pub kinds: &'static [&'static ExtensionKind],
    /// Further records that a purge of this target removes: not those of a registry or repository that is purged,
    /// nor those that refer to a digest that is. Blocks on the disk.
    pub also_purged: fn(&Target, &RecordSurvey<'_>) -> Vec<ExtensionKey>,
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kinds.fmt(f)
    }
}
