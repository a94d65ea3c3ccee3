//! Kinds of records that another crate adds to the store, and their part in a purge.

use std::fmt;

use crate::purge::{PurgeTarget, RecordSurvey};
use crate::record::{ExtensionKey, ExtensionKind};

/// The records of another crate. Their kinds declare how the store treats them; `also_purged` adds records to a
/// purge.
#[derive(Clone, Copy)]
pub struct Extension {
    /// Every kind of record that the crate writes.
    pub kinds: &'static [&'static ExtensionKind],
    /// Further records that a purge of this target removes. Those of a purged registry or repository, and those that
    /// refer to a purged digest, are removed anyway. Blocks on the disk.
    pub also_purged: fn(&PurgeTarget, &RecordSurvey<'_>) -> Vec<ExtensionKey>,
}

impl fmt::Debug for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kinds.fmt(f)
    }
}
