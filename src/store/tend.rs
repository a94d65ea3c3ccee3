//! What is done in the background, on two threads of the store's own: one scans, evicts and sweeps, the other
//! hashes everything again. They end with the store.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::Store;
use crate::telemetry;

/// How often the disk is looked at, whether or not anything is written.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// How often what nobody asked for is removed, at most and at least.
const SWEEP_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// A part of the shortest time that anything is kept.
const SWEEP_PART: u32 = 30;

impl Store {
    /// Begins to scan, and goes on to keep the store in its limits until it is dropped.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn tend(self: &Arc<Self>) -> std::io::Result<()> {
        let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let store = Arc::downgrade(self);
        name("store").spawn(move || keep(&store))?;
        if let Some(every) = self.scrub_every {
            let store = Arc::downgrade(self);
            name("scrub").spawn(move || scrub(&store, every))?;
        }
        Ok(())
    }

    /// Gives up what is too much, and what makes room for the next fills. Blocks on the disk.
    pub fn trim(&self) {
        while self.space.trim() || (self.space.is_over() && self.blobs.drop_partial()) {}
    }
}

fn keep(store: &Weak<Store>) {
    let started = Instant::now();
    let Some(first) = store.upgrade() else { return };
    let blobs = first.scan();
    tracing::info!(
        blobs,
        records = first.space.records(),
        bytes = first.space.used(),
        ms = telemetry::ms(started),
        "the store is known"
    );
    let every = first.lives.shortest().map_or(SWEEP_EVERY.1, |ttl| {
        (ttl / SWEEP_PART).clamp(SWEEP_EVERY.0, SWEEP_EVERY.1)
    });
    // Soon after the start: who restarts daily has his sweeps as well.
    let mut sweep_at = Instant::now() + every.min(LOOK_EVERY);
    drop(first);
    while let Some(store) = store.upgrade() {
        store.trim();
        if sweep_at <= Instant::now() || store.space.excess_records() > 0 {
            let started = Instant::now();
            let swept = store.sweep(SystemTime::now());
            if swept != super::Swept::default() {
                let (records, blobs, bytes) = (swept.records, swept.blobs, swept.bytes);
                let ms = telemetry::ms(started);
                tracing::info!(records, blobs, bytes, ms, "what nobody asked for is gone");
            }
            sweep_at = Instant::now() + every;
        }
        let space = store.space.clone();
        drop(store);
        let left = sweep_at.saturating_duration_since(Instant::now());
        space.wait_for_work(left.min(LOOK_EVERY));
    }
}

fn scrub(store: &Weak<Store>, every: Duration) {
    loop {
        let Some(this) = store.upgrade() else { return };
        if this.space.is_settled() {
            // The last one to hold it, it holds up nobody.
            this.scrub_some(every, &|| Arc::strong_count(&this) == 1);
        } else {
            drop(this);
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}
