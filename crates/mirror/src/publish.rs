//! Publishes the progress of a download, to its readers and in the log.

use std::time::{Duration, Instant};

use super::ahead::Extents;
use super::download::Download;
use super::progress::Phase;
use store::StagedBlob;

/// Progress is published when the upstream pauses, or in steps of this many bytes.
const PUBLISH_EVERY: u64 = 256 << 10;
/// The size in bytes from which a fill logs its progress, and how often.
const REPORT_FROM: u64 = 8 << 20;
const REPORT_EVERY: Duration = Duration::from_secs(5);

impl Download {
    /// Publishes a staged file to the readers.
    pub(super) fn publish_file(&mut self, staged: &StagedBlob) {
        self.published = true;
        self.generation += 1;
        let (generation, since) = (self.generation, Instant::now());
        self.fill.progress.send_modify(|progress| {
            progress.total = staged.total();
            progress.written = staged.written();
            progress.segments = None;
            progress.generation = generation;
            progress.phase = Phase::Streaming {
                file: staged.file(),
                since,
                resumed: staged.written(),
            };
        });
    }

    /// Publishes and logs that contiguous bytes were added.
    pub(super) fn progressed(&mut self, staged: &StagedBlob) {
        if self.published {
            self.publish_progress(staged, PUBLISH_EVERY);
            self.report(staged);
        }
    }

    /// Publishes the progress, if at least `step` bytes are new.
    pub(super) fn publish_progress(&self, staged: &StagedBlob, step: u64) {
        self.fill.progress.send_if_modified(|progress| {
            let more = staged.written() - progress.written >= step;
            if more {
                progress.written = staged.written();
            }
            more
        });
    }

    /// Publishes what further connections have brought, once a reader has asked for bytes ahead.
    pub(super) fn publish_segments(&self, staged: &mut StagedBlob) {
        let shown = if self.connections.has_readers_ahead {
            staged.segments()
        } else {
            Vec::new()
        };
        let shown = Some(Extents::new(shown));
        self.fill.progress.send_if_modified(|progress| {
            let is_new = progress.segments != shown;
            if is_new {
                progress.segments = shown;
            }
            is_new
        });
    }

    /// Logs the progress of a large download.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn report(&mut self, staged: &StagedBlob) {
        let Some(total) = staged.total().filter(|total| *total >= REPORT_FROM) else {
            return;
        };
        if self.reported.elapsed() < REPORT_EVERY {
            return;
        }
        self.reported = Instant::now();
        let rate =
            staged.written() as f64 / self.started.elapsed().as_secs_f64() / f64::from(1 << 20);
        tracing::info!(
            target: "fill",
            digest = %self.fill.key,
            percent = staged.written() * 100 / total,
            bytes = staged.written(),
            total,
            mib_per_s = format!("{rate:.1}"),
            "under way",
        );
    }
}
