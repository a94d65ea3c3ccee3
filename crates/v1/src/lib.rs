//! Docker up to 1.12: cached reads of the v1 API, v1 images for v2 clients, and v2 images for v1 clients.
//!
//! [`Registries`] are the v1 sides of registries: requests pass through to them, their content is cached, and
//! as the mirror's [`Fallback`](mirror::Fallback) they serve their images to v2 clients. [`V1`] adds the
//! reverse: it reads v2 images through the mirror, whose rights, fills, freshness and links apply.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod body_fetch;
mod cached;
mod claim;
mod client;
mod dry_run;
mod import;
mod layer;
mod layer_source;
mod migrate;
mod origin;
mod pass_through;
mod records;
mod v1_to_v2;
mod v2_to_v1;

use std::collections::HashSet;
use std::sync::Arc;

pub use body_fetch::V1Answer;
pub use claim::Claim;
pub use client::V1Pass;
pub use dry_run::{PlannedImage, PlannedLayer, PlannedV1Pull, V1Source};
pub use migrate::{
    MigratedImage, MigrationError, MigrationLine, MigrationOutcome, MigrationReport, Selection,
};
pub use origin::V1Settings;
pub use pass_through::v1_list;
pub use records::{RECORDS, V1ImageRecord};
pub use v2_to_v1::{BridgeError, IdScope, V1Image, V1ImageLayer};

use mirror::{Contents, Mirror, MirrorError};
use oci::name::Registry;
use origin::{V1Origin, V1Origins};
use store::Store;
use upstream::SetUpError;

/// The settings of all v1 sides.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One for each registry with `v1`.
    pub registries: Vec<V1Settings>,
    /// Registries whose v2 images are served to v1 clients.
    pub bridged: HashSet<Registry>,
}

/// The v1 sides of all registries.
#[derive(Debug)]
pub struct Registries {
    contents: Contents,
    store: Arc<Store>,
    origins: V1Origins,
    bridged: HashSet<Registry>,
    fetches: body_fetch::BodyFetches,
    conversions: Arc<v1_to_v2::Conversions>,
}

impl Registries {
    /// # Errors
    /// [`SetUpError`] if an upstream client cannot be set up.
    pub fn new(settings: Settings, contents: Contents) -> Result<Arc<Self>, SetUpError> {
        Ok(Arc::new(Self {
            store: contents.store().clone(),
            contents,
            origins: V1Origin::all(settings.registries, &V1Origins::new())?,
            bridged: settings.bridged,
            fetches: body_fetch::BodyFetches::default(),
            conversions: Arc::new(v1_to_v2::Conversions::new()),
        }))
    }

    /// The v1 sides after a change of the configuration. A registry whose settings are the same keeps its connections and
    /// tokens.
    ///
    /// # Errors
    /// [`SetUpError`] if an upstream client cannot be set up; nothing has changed then.
    pub fn reconfigured(&self, settings: Settings) -> Result<Arc<Self>, SetUpError> {
        let mut after = Self {
            store: self.store.clone(),
            contents: self.contents.clone(),
            origins: V1Origin::all(settings.registries, &self.origins)?,
            bridged: settings.bridged,
            fetches: self.fetches.clone(),
            conversions: self.conversions.clone(),
        };
        if !self.changed_in(&after).is_empty() {
            // No request joins one that was sent before.
            after.fetches = body_fetch::BodyFetches::default();
            after.conversions = Arc::new(v1_to_v2::Conversions::new());
        }
        Ok(Arc::new(after))
    }

    /// The registries whose v1 side is gone, new or another one in `after`.
    pub fn changed_in(&self, after: &Self) -> Vec<Registry> {
        let all: HashSet<&Registry> = self.origins.keys().chain(after.origins.keys()).collect();
        let is_changed = |registry: &&Registry| {
            let of = |registries: &Self| registries.origins.get(*registry).map(Arc::as_ptr);
            of(self) != of(after)
        };
        all.into_iter().filter(is_changed).cloned().collect()
    }

    fn store(&self) -> &Store {
        &self.store
    }
}

/// Everything that v1 clients are served. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct V1 {
    registries: Arc<Registries>,
    mirror: Mirror,
    preparing: Arc<v2_to_v1::LayerPreparations>,
}

impl V1 {
    /// `mirror` reads the v2 images.
    pub fn new(registries: Arc<Registries>, mirror: Mirror) -> Self {
        Self {
            registries,
            mirror,
            preparing: Arc::default(),
        }
    }

    /// The same with other registries, and the mirror that reads theirs.
    #[must_use]
    pub fn reconfigured(&self, registries: Arc<Registries>, mirror: Mirror) -> Self {
        Self {
            registries,
            mirror,
            preparing: self.preparing.clone(),
        }
    }

    /// The v1 sides.
    pub fn registries(&self) -> &Registries {
        &self.registries
    }

    fn store(&self) -> &Store {
        &self.registries.store
    }

    fn origin(&self, registry: &Registry) -> Result<Arc<V1Origin>, MirrorError> {
        let origin = self.registries.origins.get(registry);
        origin.cloned().ok_or(MirrorError::NotServed)
    }
}
