//! The records of the v1 API in both directions: their kinds, and what a purge removes of them.
//!
//! A pointer of the v1 API or a derived layer claims its bytes as a link does. Conversions claim nothing: they
//! record how bytes are rebuilt.

mod bodies;
mod images;
mod v1_to_v2;
mod v2_to_v1;

use std::collections::BTreeSet;

use oci::digest::Digest;
use oci::name::{RepositoryName, Tag};

use store::{Extension, ExtensionKey, PurgeTarget, RecordSurvey};

pub use bodies::{BodyPointer, BodyRecords};
pub use images::ImageRecords;
pub use v1_to_v2::{ConvertedKind, ConvertedManifest, ConvertedRecords, SourceImage};
pub use v2_to_v1::{PreparedLayer, V1ImageRecord, V1ImageRecords};

use bodies::{NAMED, PARTS};
use images::{IMAGE_LISTS, ImageIds};
use v1_to_v2::{DIGESTS, IMAGES, TOPS};
use v2_to_v1::{LAYERS, V1_IMAGES};

/// The records of the v1 API, for [`store::Store::open`].
pub static RECORDS: Extension = Extension {
    kinds: &[
        &IMAGE_LISTS,
        &PARTS,
        &NAMED,
        &V1_IMAGES,
        &LAYERS,
        &IMAGES,
        &TOPS,
        &DIGESTS,
    ],
    also_purged,
};

fn also_purged(target: &PurgeTarget, survey: &RecordSurvey<'_>) -> Vec<ExtensionKey> {
    match target {
        PurgeTarget::Repository(name) => {
            let mut gone = parts_of(survey, name);
            gone.extend(issued_images(survey, name));
            gone
        }
        PurgeTarget::Tag(name, tag) => tagged(survey, name, tag),
        PurgeTarget::Registry(_) | PurgeTarget::Content(..) | PurgeTarget::Everywhere(_) => {
            Vec::new()
        }
    }
}

/// The image parts that no other repository of the registry is linked to.
fn parts_of(survey: &RecordSurvey<'_>, name: &RepositoryName) -> Vec<ExtensionKey> {
    let (mut own, mut others) = (BTreeSet::new(), BTreeSet::new());
    survey.each(&IMAGE_LISTS, &name.registry, |key, value| {
        let ImageIds(ids) = value.parse().unwrap_or_default();
        let is_own = key.repository() == Some(name);
        (if is_own { &mut own } else { &mut others }).extend(ids);
    });
    own.retain(|id| !others.contains(id));
    let mut gone = Vec::new();
    survey.each(&PARTS, &name.registry, |key, _| {
        let id = key.name().split('/').next();
        if id.is_some_and(|id| own.contains(id)) {
            gone.push(key);
        }
    });
    gone
}

/// The bridged images of an open registry that are read from the repository.
fn issued_images(survey: &RecordSurvey<'_>, name: &RepositoryName) -> Vec<ExtensionKey> {
    let mut gone = Vec::new();
    survey.each(&V1_IMAGES, &name.registry, |key, value| {
        let image: Option<V1ImageRecord> = value.parse();
        let is_own = image.is_some_and(|image| image.repository == name.repository.as_str());
        if key.repository().is_none() && is_own {
            gone.push(key);
        }
    });
    gone
}

/// The records of a tag, and the list of tags if it may name the tag.
fn tagged(survey: &RecordSurvey<'_>, name: &RepositoryName, tag: &Tag) -> Vec<ExtensionKey> {
    let mut gone = Vec::new();
    let (plain, json) = (format!("tag/{tag}"), format!("tag-json/{tag}"));
    survey.each(&NAMED, &name.registry, |key, value| {
        let is_named = key.name() == plain || key.name() == json;
        let is_listed = || {
            let list: Option<BodyPointer> = value.parse();
            key.name() == "tags" && lists(survey, list.map(|list| list.digest), tag)
        };
        if key.repository() == Some(name) && (is_named || is_listed()) {
            gone.push(key);
        }
    });
    gone
}

/// Whether a list of tags may name this tag: the list has one of two JSON forms, and both quote names.
fn lists(survey: &RecordSurvey<'_>, list: Option<Digest>, tag: &Tag) -> bool {
    let bytes = list.and_then(|digest| survey.blob(&digest));
    let quoted = format!("\"{tag}\"");
    bytes.is_none_or(|bytes| {
        let mut windows = bytes.windows(quoted.len());
        windows.any(|window| window == quoted.as_bytes())
    })
}

#[cfg(test)]
pub(crate) mod tests;
