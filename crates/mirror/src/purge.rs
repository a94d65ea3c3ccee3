//! Operations on the whole cache: purging content and verifying digests, with the in-memory caches kept in step.

use std::io;
use std::ops::ControlFlow;
use std::time::SystemTime;

use super::Mirror;
use store::{Purge, PurgeTarget, Verified};

/// Whether a purge removes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeMode {
    /// It removes what it reports.
    Remove,
    /// It only reports what it would remove.
    DryRun,
}

impl Mirror {
    /// Removes what `target` names, or only lists it.
    ///
    /// # Errors
    /// If something cannot be removed; the rest is removed.
    pub async fn purge(&self, target: PurgeTarget, mode: PurgeMode) -> io::Result<Purge> {
        let store = self.state.store.clone();
        let mirror = self.clone();
        let work = tokio::task::spawn_blocking(move || {
            if mode == PurgeMode::DryRun {
                return Ok(store.plan(&target));
            }
            // Answers in flight are from before, and so are peers' records: they are not stored.
            store.end_generations();
            let purge = store.plan(&target);
            for origin in mirror.state.origins.values() {
                origin.record_write(SystemTime::now());
            }
            if let (PurgeTarget::Everywhere(digest), Some(bucket)) = (&target, store.bucket()) {
                bucket.remove_blob(digest);
            }
            let outcome = store.purge(&purge);
            mirror.invalidate_memory(&target, &purge);
            outcome.map(|()| purge)
        });
        work.await
            .map_err(io::Error::other)
            .and_then(|outcome| outcome)
    }

    /// Drops from memory what was removed from the store.
    fn invalidate_memory(&self, target: &PurgeTarget, purge: &Purge) {
        let state = &self.state;
        for (digest, _) in &purge.files {
            state.contents.memory.remove(digest);
        }
        state
            .missing
            .remove_where(|(name, ..)| target.concerns(name));
        if let Some(fallback) = &state.fallback {
            fallback.invalidate(target);
        }
        state
            .list_generations
            .write_where(|name| target.concerns(name), || ());
        for (key, _) in &state.pages {
            if target.concerns(&key.0) {
                state.pages.invalidate(&*key);
            }
        }
    }

    /// Rehashes all stored blobs, and quarantines damaged ones. Blocks for as long as that takes.
    pub fn verify(&self, mut progress: impl FnMut(&Verified)) -> Verified {
        let verified = self.state.store.verify(|verified| {
            progress(verified);
            ControlFlow::Continue(())
        });
        for digest in &verified.damaged {
            self.state.contents.memory.remove(digest);
        }
        verified
    }
}
