//! Docker up to 1.12: cached reads of the v1 API, v1 images for clients of v2, and v2 images for clients of v1.
//!
//! [`Registries`] are the v1 sides: what is passed on to them, what of them is cached, and, as the mirror's
//! [`Fallback`](mirror::Fallback), their images for clients of v2. [`V1`] adds the reverse, for which it reads v2
//! images by the mirror: rights, fills, freshness and links are the mirror's.

mod cached;
mod client;
mod layer;
mod layer_source;
mod records;
mod registry;
mod v1_to_v2;
mod v2_to_v1;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub use cached::V1Answer;
pub use client::V1Pass;
pub use records::{RECORDS, V1ImageRecord};
pub use registry::{Claim, V1Settings, v1_list};
pub use v2_to_v1::{BridgeError, IdScope, V1Image, V1ImageLayer};

use mirror::{Contents, Mirror, MirrorError};
use oci::name::Registry;
use registry::V1Origin;
use store::Store;
use upstream::SetUpError;

#[derive(Clone, Debug)]
pub struct Settings {
    pub registries: Vec<V1Settings>,
    /// Registries whose v2 images are served to clients of v1.
    pub bridged: HashSet<Registry>,
}

/// The v1 sides of all registries.
#[derive(Debug)]
pub struct Registries {
    contents: Contents,
    store: Arc<Store>,
    origins: HashMap<Registry, Arc<V1Origin>>,
    bridged: HashSet<Registry>,
    fetches: cached::BodyFetches,
    conversions: v1_to_v2::Conversions,
}

impl Registries {
    /// # Errors
    /// When a client cannot be set up.
    pub fn new(settings: Settings, contents: Contents) -> Result<Arc<Self>, SetUpError> {
        Ok(Arc::new(Self {
            store: contents.store().clone(),
            contents,
            origins: V1Origin::all(settings.registries)?,
            bridged: settings.bridged,
            fetches: cached::BodyFetches::default(),
            conversions: v1_to_v2::Conversions::new(),
        }))
    }
}

/// Everything that clients of v1 are served. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct V1 {
    registries: Arc<Registries>,
    mirror: Mirror,
    preparing: Arc<v2_to_v1::LayerPreparations>,
}

impl V1 {
    /// `mirror` is where v2 images are read.
    pub fn new(registries: Arc<Registries>, mirror: Mirror) -> Self {
        Self {
            registries,
            mirror,
            preparing: Arc::default(),
        }
    }

    fn store(&self) -> &Store {
        &self.registries.store
    }

    fn origin(&self, registry: &Registry) -> Result<Arc<V1Origin>, MirrorError> {
        let origin = self.registries.origins.get(registry);
        origin.cloned().ok_or(MirrorError::NotServed)
    }
}
