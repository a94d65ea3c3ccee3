//! The migration of one image: converted, compared with the v2 side, and pushed, its manifest last.

use super::{MigratedImage, Migration, MigrationOutcome};
use crate::records::{ConvertedKind, ConvertedRecords};
use crate::v1_to_v2::converted;
use mirror::MirrorError;
use oci::digest::Digest;
use oci::manifest::{AcceptClass, DOCKER_MANIFEST};
use oci::name::{Reference, RepositoryName};
use oci::v1::ImageId;
use oci::v1_to_v2::ConvertedImage;
use upstream::UpstreamError;

impl Migration<'_> {
    /// Migrates one image.
    ///
    /// # Errors
    /// Why it cannot be migrated, for people.
    pub(super) async fn image(
        &mut self,
        image: &MigratedImage,
        top: &ImageId,
    ) -> Result<MigrationOutcome, String> {
        let name = RepositoryName::new(self.registry, &image.repository);
        let source = self.source(&image.repository);
        let source = source.ok_or("its name is another one in the v1 API")?;
        let reference = Reference::Tag(image.tag.clone());
        let head = self
            .v2
            .manifest_head(&image.repository, &reference, AcceptClass::Full);
        let current = match head.await {
            Ok(head) => Some(
                head.digest
                    .ok_or("the v2 side does not say what its tag points at")?,
            ),
            Err(UpstreamError::NotFound) => None,
            Err(error) => return Err(failed("the v2 side cannot be asked", &error)),
        };
        let cannot = |error: &MirrorError| failed("it cannot be converted", error);
        let registries = self.registries;
        let manifest = registries.clone().convert(source, top.clone()).await;
        let manifest = manifest.map_err(|error| cannot(&error))?.manifest;
        match current {
            Some(current) if current == manifest => return Ok(MigrationOutcome::Present(current)),
            // Its tag has moved on the v1 side since an earlier migration, or somebody pushed another image.
            Some(current) if !self.is_conversion(&current).await => {
                return Ok(MigrationOutcome::Kept(current));
            }
            _ => {}
        }
        // Evicted layers are fetched again as those of this repository.
        let linked = registries.link_converted(&name, top).await;
        linked.map_err(|error| cannot(&error))?;
        let chain = registries.chain(self.registry, top).await;
        let chain = chain.ok_or("the store lost its conversion")?;
        let whole = converted(&chain).map_err(|error| cannot(&error))?;
        let mut sent = Vec::new();
        for (_, link) in chain.iter().filter(|(_, link)| !link.layer.is_empty) {
            if !sent.contains(&link.layer.digest) {
                sent.push(link.layer.digest);
                self.layer(&name, &link.layer.digest, link.layer.size)
                    .await?;
            }
        }
        self.push_rest(image, whole).await?;
        Ok(MigrationOutcome::Pushed(manifest))
    }

    /// Pushes the configuration and the manifest.
    async fn push_rest(
        &mut self,
        image: &MigratedImage,
        converted: ConvertedImage,
    ) -> Result<(), String> {
        let config = converted.config_digest;
        self.bytes(&image.repository, &config, converted.config.into())
            .await?;
        let pushed = self.v2.push_manifest(
            &image.repository,
            &image.tag,
            DOCKER_MANIFEST,
            converted.manifest.into(),
        );
        let pushed = pushed.await;
        pushed.map_err(|error| failed("the v2 side did not take its manifest", &error))
    }

    /// Whether a manifest of the v2 side is a conversion that an earlier migration pushed.
    async fn is_conversion(&self, digest: &Digest) -> bool {
        let conversions = ConvertedRecords::of(self.registries.store());
        let origin = conversions.origin_of(self.registry, digest).await;
        origin.is_ok_and(|origin| origin.is_some_and(|it| it.kind == ConvertedKind::Manifest))
    }
}

pub(super) fn failed(what: &str, error: &dyn std::error::Error) -> String {
    format!("{what}: {}", telemetry::chain(error))
}
