//! Background maintenance on two threads: one scans, evicts and sweeps, the other hashes every blob again. They end
//! with the store.

#![allow(
    clippy::disallowed_methods,
    reason = "sleeps on a thread of the store, which holds no event loop"
)]

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use super::Store;
use super::space::Trimmed;

/// How often free space is checked, whether or not anything is written.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// The shortest and the longest interval between sweeps.
const SWEEP_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// The interval as a fraction of the shortest `unused_ttl`.
const SWEEP_PART: u32 = 30;
/// The first and the longest wait after the disk refused a removal.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest sleep: dropping the store waits as long.
const MAX_SLEEP: Duration = Duration::from_millis(500);

/// The wait after a refusal of the disk: doubled each time, even if the loop is woken meanwhile.
#[derive(Debug, Default)]
struct Backoff {
    wait: Duration,
}

impl Backoff {
    /// The wait after a round.
    fn after(&mut self, refused: bool) -> Duration {
        self.wait = match (refused, self.wait) {
            (false, _) => Duration::ZERO,
            (true, Duration::ZERO) => BACKOFF.0,
            (true, wait) => (wait * 2).min(BACKOFF.1),
        };
        self.wait
    }
}

impl Store {
    /// Starts the scan and the maintenance, which runs until the store is dropped.
    ///
    /// # Errors
    /// When a thread cannot be created.
    pub fn start_maintenance(self: &Arc<Self>) -> std::io::Result<()> {
        let name = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let store = Arc::downgrade(self);
        name("store").spawn(move || maintain(&store))?;
        let store = Arc::downgrade(self);
        name("scrub").spawn(move || scrub_repeatedly(&store))?;
        Ok(())
    }

    /// Evicts down to the limits, and frees headroom for the next fills. False when the disk refused. Blocks on the
    /// disk.
    pub fn trim(&self) -> bool {
        loop {
            match self.space.trim() {
                Trimmed::More => {}
                _ if self.space.is_over() && self.blobs.drop_oldest_partial() => {}
                Trimmed::Enough => return true,
                Trimmed::Refused => return false,
            }
        }
    }

    /// Sweeps. False when there are too many records and none could be deleted.
    fn sweep_now(&self) -> bool {
        let started = Instant::now();
        let swept = self.sweep(SystemTime::now());
        if swept != super::Swept::default() {
            let (records, blobs, bytes) = (swept.records, swept.blobs, swept.bytes);
            let ms = telemetry::ms(started);
            tracing::info!(records, blobs, bytes, ms, "unused content was deleted");
        }
        swept.records > 0 || self.space.excess_record_blocks() == 0
    }
}

fn maintain(store: &Weak<Store>) {
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
    let mut every = sweep_interval(&first);
    // The first sweep is soon after the start, so that a daily restart does not prevent it.
    let mut sweep_at = Instant::now() + every.min(CHECK_EVERY);
    drop(first);
    let mut backoff = Backoff::default();
    while let Some(this) = store.upgrade() {
        if this.is_handed_over() {
            drop(this);
            sleep(CHECK_EVERY, store);
            continue;
        }
        this.blobs.drop_expired_partials(SystemTime::now());
        if this.retention.advance() {
            every = sweep_interval(&this);
            sweep_at = sweep_at.min(Instant::now() + every.min(CHECK_EVERY));
        }
        let mut refused = !this.trim();
        if sweep_at <= Instant::now() || this.space.excess_record_blocks() > 0 {
            refused |= !this.sweep_now();
            sweep_at = Instant::now() + every;
        }
        let space = this.space.clone();
        drop(this);
        sleep(backoff.after(refused), store);
        let left = sweep_at.saturating_duration_since(Instant::now());
        space.wait_for_work(left.min(CHECK_EVERY));
    }
}

/// The time between two sweeps.
fn sweep_interval(store: &Store) -> Duration {
    let shortest = store.retention.current().shortest();
    shortest.map_or(SWEEP_EVERY.1, |ttl| {
        (ttl / SWEEP_PART).clamp(SWEEP_EVERY.0, SWEEP_EVERY.1)
    })
}

/// Sleeps, at most until the store is dropped.
fn sleep(mut left: Duration, store: &Weak<Store>) {
    while !left.is_zero() && store.strong_count() > 0 {
        let nap = left.min(MAX_SLEEP);
        std::thread::sleep(nap);
        left -= nap;
    }
}

fn scrub_repeatedly(store: &Weak<Store>) {
    let mut noted = None;
    loop {
        let Some(this) = store.upgrade() else { return };
        let every = *this.scrub_every.borrow();
        let is_due = this.space.is_scanned() && !this.is_handed_over();
        if let Some(every) = every.filter(|_| is_due) {
            let pass = noted.get_or_insert_with(|| this.read_pass());
            // Stops as soon as this thread is the last owner, or the interval changed.
            this.scrub_some(pass, every, &|| {
                Arc::strong_count(&this) == 1
                    || *this.scrub_every.borrow() != Some(every)
                    || this.is_handed_over()
            });
        } else {
            drop(this);
            std::thread::sleep(every.map_or(MAX_SLEEP, |_| Duration::from_millis(100)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_with_each_refusal() {
        let mut backoff = Backoff::default();
        let mut waits = |refused: bool, rounds: usize| {
            let waits = (0..rounds).map(|_| backoff.after(refused).as_secs());
            waits.collect::<Vec<_>>()
        };
        assert_eq!(waits(false, 2), [0, 0]);
        assert_eq!(waits(true, 8), [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(waits(false, 1), [0]);
        assert_eq!(waits(true, 1), [1]);
    }
}
