//! `/api/v1/overview` and `/api/v1/traffic`: the state of the gateway, and its traffic over time.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::disk::{blocking, unreadable};
use super::error::Problem;
use super::query::Parameters;
use super::report::{BucketState, Overview, Pulls, StoreState, TrafficWindows};
use super::time::{rfc3339, rfc3339_of, unix};
use super::traffic::{Counts, History, Moment, Point, TrafficLog, Window};
use super::{Admin, CurrentAdmin};
use store::{Store, StoreUsage};
use telemetry::metrics::{self, BucketFigures, ContentFigures, Figures};

/// The interval between samples of the counters, and how many of them pass between writes of the history.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);
const SAMPLES_PER_WRITE: u32 = 30;
/// The state file of the history.
const TRAFFIC: &str = "traffic.json";

/// `GET /api/v1/traffic`
#[derive(Debug, Serialize)]
pub(super) struct TrafficSeries {
    window: &'static str,
    step_seconds: u64,
    from: String,
    to: String,
    points: Vec<TrafficPoint>,
}

#[derive(Debug, Serialize)]
struct TrafficPoint {
    at: String,
    requests: u64,
    hits: u64,
    served_bytes: u64,
    fetched_bytes: u64,
    errors: u64,
    denials: u64,
}

impl Admin {
    /// # Errors
    /// 503 if the disk cannot be read.
    pub(super) async fn overview(self: &Arc<Self>) -> Result<Overview, Problem> {
        let now = moment();
        let counted = metrics::figures();
        let traffic = {
            let log = self.sampled(now, &counted);
            TrafficWindows {
                now: log.now(now.unix),
                hour: log.sum(Window::Hour, now.unix),
                day: log.sum(Window::Day, now.unix),
            }
        };
        let ready = self.ready().await;
        let writable = self.writable().await.is_ok();
        let admin = self.clone();
        let usage = move || Ok((admin.store.usage(), admin.pins.bytes()));
        let (usage, pinned) = blocking(usage).await.map_err(|error| unreadable(&error))?;
        Ok(Overview {
            at: rfc3339(SystemTime::now()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: rfc3339_of(metrics::started_at()),
            ready: ready.is_ok(),
            not_ready_because: ready.err(),
            draining: *self.draining.borrow(),
            traffic,
            blobs: pulls(counted.blob),
            manifests: pulls(counted.manifest),
            store: self.store_state(&counted, usage, pinned, writable),
            fills_in_flight: counted.fills_in_flight,
            fills_limit: self.settings.fills as u64,
            fills_resumed: counted.resumed,
            verify_failures_upstream: counted.wrong_bytes_upstream,
            verify_failures_disk: counted.wrong_bytes_disk,
            stale_served: counted.stale.into_iter().collect::<BTreeMap<_, _>>(),
            bucket: counted.bucket.map(bucket),
            event_listeners: self.events.connected() as u64,
            event_listeners_limit: super::events::MAX_SUBSCRIBERS as u64,
        })
    }

    fn store_state(
        &self,
        counted: &Figures,
        usage: StoreUsage,
        pinned_bytes: u64,
        writable: bool,
    ) -> StoreState {
        StoreState {
            used_bytes: usage.used,
            max_bytes: self.settings.max_bytes,
            free_bytes: usage.free.map(|(free, _)| free),
            min_free_bytes: usage.free.map(|(_, least)| least),
            blobs: usage.blobs,
            partial_bytes: usage.partials,
            record_bytes: usage.records,
            quarantine_bytes: usage.quarantined,
            pinned_bytes,
            evicted_blobs: counted.evicted,
            evicted_bytes: counted.evicted_bytes,
            writable,
            scanning: !usage.is_scanned,
        }
    }

    /// # Errors
    /// 400 for an unknown window.
    pub(super) fn traffic(&self, parameters: &Parameters) -> Result<TrafficSeries, Problem> {
        let windows = [("hour", Window::Hour), ("day", Window::Day)];
        let window = parameters.choice("window", &windows)?;
        let now = moment();
        let points = self
            .sampled(now, &metrics::figures())
            .points(window, now.unix);
        Ok(TrafficSeries {
            window: window.name(),
            step_seconds: window.step(),
            from: rfc3339_of(now.unix.saturating_sub(window.seconds())),
            to: rfc3339_of(now.unix),
            points: points.into_iter().map(point).collect(),
        })
    }

    /// The traffic, sampled at `now`.
    fn sampled(&self, now: Moment, counted: &Figures) -> MutexGuard<'_, TrafficLog> {
        let (errors, denials) = self.history.failure_counts();
        let mut log = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        log.sample(now, counts(counted, errors, denials));
        log
    }

    /// Samples the counters for ever, and writes the history once a minute.
    pub async fn keep_history(current: CurrentAdmin) {
        let mut until_write = SAMPLES_PER_WRITE;
        loop {
            tokio::time::sleep(SAMPLE_EVERY).await;
            let admin = current.borrow().clone();
            drop(admin.sampled(moment(), &metrics::figures()));
            until_write -= 1;
            if until_write == 0 {
                until_write = SAMPLES_PER_WRITE;
                let _ = tokio::task::spawn_blocking(move || admin.write_history()).await;
            }
        }
    }

    /// Writes the history of the traffic. Blocks on the disk.
    pub fn write_history(&self) {
        let json = {
            let log = self.sampled(moment(), &metrics::figures());
            serde_json::to_vec(log.history()).unwrap_or_default()
        };
        if let Err(error) = self.store.write_state(TRAFFIC, &json) {
            store::warn_degraded("the history of the traffic cannot be written", &error);
        }
    }
}

/// The history that an earlier process wrote. Blocks on the disk.
pub(super) fn read_history(store: &Store) -> TrafficLog {
    let history: History = store.read_state(TRAFFIC).unwrap_or_default();
    TrafficLog::resume(history, moment())
}

/// The time by the system's clock, and by one that nobody sets.
fn moment() -> Moment {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);

    let steady = START.elapsed().as_secs();
    let unix = unix(SystemTime::now());
    Moment { unix, steady }
}

fn counts(counted: &Figures, errors: u64, denials: u64) -> Counts {
    Counts {
        pulls: pulls(counted.blob).plus(pulls(counted.manifest)),
        errors,
        denials,
    }
}

fn pulls(of: ContentFigures) -> Pulls {
    Pulls {
        requests: of.requests,
        hits: of.hits,
        misses: of.misses,
        coalesced: of.coalesced,
        served_bytes: of.pushed,
        fetched_bytes: of.pulled,
    }
}

fn bucket(of: BucketFigures) -> BucketState {
    BucketState {
        hits: of.hits,
        misses: of.misses,
        failures: of.failures,
        verify_failures: of.wrong_bytes,
        uploads: of.uploads,
        uploads_dropped: of.uploads_dropped,
        records_dropped: of.records_dropped,
        lease_timeouts: of.lease_timeouts,
    }
}

fn point(point: Point) -> TrafficPoint {
    let Point { at, counts } = point;
    TrafficPoint {
        at: rfc3339_of(at),
        requests: counts.pulls.requests,
        hits: counts.pulls.hits,
        served_bytes: counts.pulls.served_bytes,
        fetched_bytes: counts.pulls.fetched_bytes,
        errors: counts.errors,
        denials: counts.denials,
    }
}
