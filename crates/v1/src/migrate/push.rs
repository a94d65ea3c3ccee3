//! Blobs of a migration: looked for on the v2 side, mounted, or sent.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::image::failed;
use super::{Migration, MigrationLine};
use mirror::{FallbackBlob, FillKey, StoredBlob};
use oci::digest::Digest;
use oci::name::{Repository, RepositoryName};
use store::{OpenFile, read_at};
use upstream::{Begun, Body, Feed, UpstreamError};

/// How much is read of a layer at once, in bytes.
const PIECE: usize = 256 << 10;

/// Where the bytes of a blob are.
enum Content {
    Memory(Bytes),
    File(Arc<OpenFile>),
}

impl Migration<'_> {
    /// Makes the v2 side have a layer, which the store has, or had.
    pub(super) async fn layer(
        &mut self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<(), String> {
        if self.has_or_mounts(&name.repository, digest).await? {
            return Ok(());
        }
        let content = self.open(name, digest, size).await?;
        self.send(&name.repository, digest, size, content).await
    }

    /// Makes the v2 side have a small blob.
    pub(super) async fn bytes(
        &mut self,
        repository: &Repository,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<(), String> {
        if self.has_or_mounts(repository, digest).await? {
            return Ok(());
        }
        let size = bytes.len() as u64;
        self.send(repository, digest, size, Content::Memory(bytes))
            .await
    }

    /// Whether the repository has a blob on the v2 side, if need be from another one that has it.
    async fn has_or_mounts(
        &mut self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<bool, String> {
        match self.v2.blob_head(repository, digest).await {
            Ok(_) => {
                self.known.insert(*digest, repository.clone());
                self.report.blobs_present += 1;
                return Ok(true);
            }
            Err(UpstreamError::NotFound) => {}
            Err(error) => return Err(failed("the v2 side cannot be asked for a blob", &error)),
        }
        let Some(from) = self.known.get(digest).filter(|from| from != repository) else {
            return Ok(false);
        };
        match self.v2.begin_upload(repository, digest, Some(&from)).await {
            Ok(Begun::Mounted) => {
                self.report.blobs_mounted += 1;
                Ok(true)
            }
            // The upload that it began instead ends by itself.
            Ok(Begun::Upload(_)) | Err(_) => Ok(false),
        }
    }

    /// A layer's bytes, fetched again if they were evicted.
    async fn open(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<Content, String> {
        let contents = &self.registries.contents;
        if let Some(stored) = contents.open(digest, Some(size)).await {
            return Ok(content(stored));
        }
        let source = match self.registries.blob_of_v1(name, digest).await {
            Some(FallbackBlob::Source(source)) => source,
            Some(FallbackBlob::Rebuilt(bytes)) => return Ok(Content::Memory(bytes)),
            None => return Err(format!("its layer {digest} is lost")),
        };
        let filled = contents.fill_whole(FillKey::Digest(*digest), source).await;
        filled.map_err(|error| failed("a layer cannot be fetched again", &error))?;
        let stored = contents.open(digest, Some(size)).await;
        stored
            .map(content)
            .ok_or_else(|| "the store has no room for its layers".to_owned())
    }

    async fn send(
        &mut self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<(), String> {
        let refused = |error: &UpstreamError| failed("the v2 side did not take a blob", error);
        let begun = self.v2.begin_upload(repository, digest, None).await;
        let upload = match begun.map_err(|error| refused(&error))? {
            Begun::Mounted => return Ok(()),
            Begun::Upload(upload) => upload,
        };
        let (feed, body) = Body::new(Some(size));
        let feeding = tokio::spawn(feed_all(feed, content, size));
        let finished = self
            .v2
            .finish_upload(repository, upload, digest, body)
            .await;
        feeding.abort();
        finished.map_err(|error| refused(&error))?;
        self.known.insert(*digest, repository.clone());
        self.report.blobs_sent += 1;
        self.report.bytes_sent += size;
        (self.tell)(MigrationLine::Progress(&self.report));
        Ok(())
    }
}

fn content(stored: StoredBlob) -> Content {
    match stored {
        StoredBlob::Memory(bytes) => Content::Memory(bytes),
        StoredBlob::File(blob) => Content::File(blob.file),
    }
}

/// Sends all bytes of a blob. If they cannot be read, the request is broken off.
async fn feed_all(feed: Feed, content: Content, size: u64) {
    let file = match content {
        Content::Memory(bytes) => {
            feed.send(bytes).await;
            return feed.end().await;
        }
        Content::File(file) => file,
    };
    let mut offset = 0;
    while offset < size {
        let buffer = BytesMut::zeroed(PIECE);
        let Ok((mut buffer, read)) = read_at(&file, buffer, offset).await else {
            return;
        };
        if read == 0 {
            return;
        }
        buffer.truncate(read);
        offset += read as u64;
        if !feed.send(buffer.freeze()).await {
            return;
        }
    }
    feed.end().await;
}
