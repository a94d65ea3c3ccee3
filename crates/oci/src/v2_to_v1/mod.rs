//! Images of the v2 API as clients of the v1 API see them: a chain of images with one layer each, whose ids
//! and descriptions are made up here. Pure.
//!
//! An id stands for one content for ever, since whoever has it never asks again. That of the top image is made
//! of the digest that its tag points at and of the platform, so that a tag's costs nothing but a HEAD; that of
//! one below is made of everything that its description and its layer come from, so that images which share
//! their lower layers and their history share their ids as well.

mod chain;
mod image;
mod platform;

pub use chain::{ChainImage, EMPTY_LAYER, MAX_CHAIN, chain, top_id};
pub use image::{Compression, ImageManifest, LayerDescriptor};
pub use platform::{Candidate, ClientPlatform, choose};

/// Why an image cannot be shown to clients of v1. They are told these words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum V2ToV1Error {
    #[error("the manifest cannot be read")]
    Manifest,
    #[error("the configuration of the image cannot be read")]
    Config,
    #[error("this is no container image but an artifact ({0})")]
    Artifact(String),
    #[error(
        "the registry has this image in the first schema only, which is not served to clients of v1"
    )]
    Schema1,
    #[error("the image is not there for {0}")]
    Platform(ClientPlatform),
    #[error("indexes are nested too deep in this image")]
    Nesting,
    #[error("the image has {0} layers; clients of v1 can use {MAX_CHAIN} at most")]
    Layers(usize),
    #[error("a layer of the image is kept elsewhere ({0}), and clients of v1 cannot be sent there")]
    Foreign(String),
    #[error("a layer of the image has a type that clients of v1 cannot read ({0})")]
    LayerType(String),
}
