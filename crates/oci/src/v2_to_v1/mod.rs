//! Converts v2 images for v1 clients: to a chain of images with one layer each, whose ids and JSON it
//! derives. Pure.
//!
//! An id names the same content for ever, because a client that has it never fetches it again. The id of the
//! top image is derived from the digest that its tag points at and from the platform, so resolving a tag costs
//! one HEAD; the id of an ancestor is derived from the inputs of its JSON and layer, so images with the same
//! lower layers and history share ancestors.

mod chain;
mod image;
mod platform;

pub use chain::{ChainImage, EMPTY_LAYER, MAX_CHAIN, chain, top_id};
pub use image::{Compression, ImageManifest, LayerDescriptor};
pub use platform::{Candidate, ClientPlatform, choose};

/// Why an image cannot be served to v1 clients. The client is sent these messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum V2ToV1Error {
    /// It is not the JSON of a manifest or index.
    #[error("the manifest cannot be read")]
    Manifest,
    /// The configuration is no JSON object.
    #[error("the configuration of the image cannot be read")]
    Config,
    /// Its `artifactType`, or the media type of its configuration, is this one, and no container image's.
    #[error("this is an artifact ({0}), not a container image")]
    Artifact(String),
    /// The manifest is of schema 1.
    #[error(
        "the registry has only a schema 1 manifest of this image, which cannot be served to v1 clients"
    )]
    Schema1,
    /// An index has nothing for the client's platform.
    #[error("the image is not available for {0}")]
    Platform(ClientPlatform),
    /// An index lists an index, and so on, too often.
    #[error("the indexes of this image are nested too deep")]
    Nesting,
    /// It has this many layers.
    #[error("the image has {0} layers; v1 clients can use {MAX_CHAIN} at most")]
    Layers(usize),
    /// A layer of this media type lies on servers of its own, at URLs of the manifest.
    #[error("the image has a foreign layer ({0}), which v1 clients cannot download")]
    Foreign(String),
    /// A layer has this media type, which stands for no archive that is known here.
    #[error("a layer of the image has a type that v1 clients cannot read ({0})")]
    LayerType(String),
}
