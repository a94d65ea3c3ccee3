//! The storage folders of other registries, taken into the store, so that a cache need not be filled again.
//!
//! [`Format::detect`] says whose folder it is, [`distribution::import`] reads those of distribution; the crate `v1` reads
//! those of docker-registry 0.9. Content is stored by its digest like a download, and what a repository claims as the
//! records that an answer of the registry would have made. What is damaged, or does not fit, is noted in the [`Journal`]
//! and left out; the rest is imported all the same, and an import that runs again does nothing twice.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

pub mod distribution;
mod journal;
mod repositories;

pub use journal::{Fault, Finding, Journal, Line, Report, Tally};

use runtime::folder::Folder;

/// The folder of distribution's content, below `rootdirectory`.
const V2: &str = "docker/registry/v2";
/// What a pull-through cache of distribution keeps beside it.
const SCHEDULER: &str = "scheduler-state.json";

/// Whose storage folder it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The registry of distribution, `registry:2`, that images are pushed to.
    Distribution,
    /// A pull-through cache of distribution.
    Proxy,
    /// docker-registry 0.9, a registry of the v1 API.
    V1,
}

impl Format {
    /// Looks at a folder; `None` if it is none of these.
    pub fn detect(folder: &Folder) -> Option<Self> {
        if folder.has_folder(V2) || is_v2(folder) {
            let is_proxy = folder.file(SCHEDULER).is_ok();
            Some(if is_proxy {
                Self::Proxy
            } else {
                Self::Distribution
            })
        } else {
            let is_v1 = folder.has_folder("images") && folder.has_folder("repositories");
            // A mirror stores images alone until something is pushed to it.
            (is_v1 || has_v1_image(folder)).then_some(Self::V1)
        }
    }

    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Distribution => "distribution",
            Self::Proxy => "proxy",
            Self::V1 => "v1",
        }
    }
}

/// Whether it is the folder below `docker/registry/v2` itself.
fn is_v2(folder: &Folder) -> bool {
    folder.has_folder("repositories") && folder.has_folder("blobs")
}

fn has_v1_image(folder: &Folder) -> bool {
    let images = folder.folder("images").and_then(|images| images.entries());
    images.is_ok_and(|mut images| {
        images.any(|entry| {
            let name = entry.ok().and_then(|entry| entry.name.into_string().ok());
            name.is_some_and(|name| name.parse::<oci::v1::ImageId>().is_ok())
        })
    })
}
