//! Syncs of a staged file while more bytes arrive, so that its commit, which holds back the tail, waits for few.

use std::io;

use tokio::task::JoinHandle;

use store::StagedBlob;

/// A sync begins when so many bytes are new, and the last one has ended.
const EVERY: u64 = 32 << 20;

/// The syncs of one download.
#[derive(Debug, Default)]
pub(super) struct EarlySync {
    running: Option<JoinHandle<io::Result<()>>>,
    /// The length of the file at the last one.
    at: u64,
}

impl EarlySync {
    /// Begins a sync, if one is due.
    ///
    /// # Errors
    /// Those of the last one. The kernel tells them once: the commit's own would succeed.
    pub async fn advance(&mut self, staged: &StagedBlob) -> io::Result<()> {
        // Less than before: another file was begun.
        if staged.written().abs_diff(self.at) < EVERY {
            return Ok(());
        }
        if self
            .running
            .as_ref()
            .is_some_and(|sync| !sync.is_finished())
        {
            return Ok(());
        }
        self.end().await?;
        self.at = staged.written();
        let file = staged.file();
        self.running = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        Ok(())
    }

    /// Waits for the last one.
    ///
    /// # Errors
    /// As [`Self::advance`].
    pub async fn end(&mut self) -> io::Result<()> {
        match self.running.take() {
            Some(sync) => sync.await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}
