//! Read access to the store for extensions while a purge is planned.

use oci::digest::Digest;
use oci::manifest::MAX_MANIFEST;
use oci::name::Registry;

use crate::blobs::{Blob, Blobs};
use crate::record::{ExtensionKey, ExtensionKind, RecordKey, StoredValue};
use crate::records::{RecordStore, Visited};

/// Reads records and small blobs. Blocks on the disk.
#[derive(Clone, Copy, Debug)]
pub struct RecordSurvey<'a> {
    pub(super) records: &'a RecordStore,
    pub(super) blobs: &'a Blobs,
}

impl RecordSurvey<'_> {
    /// Visits the records of one kind and registry.
    pub fn each(
        &self,
        kind: &'static ExtensionKind,
        registry: &Registry,
        mut visit: impl FnMut(ExtensionKey, StoredValue<'_>),
    ) {
        self.records.walk_registry(kind, registry, &mut |visited| {
            let Visited::Record { path, entry, .. } = visited else {
                return;
            };
            if let Some(RecordKey::Extension(key)) = self.records.parse(path)
                && key.kind().is(kind)
            {
                let file = entry.path();
                let read = || std::fs::read(&file).ok();
                visit(key, StoredValue::new(&read));
            }
        });
    }

    /// The bytes of a blob, up to the length of a manifest.
    pub fn blob(&self, digest: &Digest) -> Option<Vec<u8>> {
        use std::io::Read as _;

        let Blob { file, .. } = &self.blobs.open(digest, None).ok()??;
        let mut bytes = Vec::new();
        (&***file)
            .take(MAX_MANIFEST as u64)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    }
}
