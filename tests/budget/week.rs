//! A simulation: 20 hosts of a CI pull from 200 images, whose tags move every other day, through a gateway that Docker Hub
//! allows 100 pulls in six hours. The registry counts them as the Hub does, in a sliding window, and says so in its headers.
//!
//! No client ever gets a 429 for what was pulled before, and what was not is pulled as the quota allows. Time is scaled: a
//! window of six hours takes 10 s, and the simulation a day, unless `ROADSTEAD_BUDGET` gives the seconds of a week
//! (`make test-long`: 1008). The series that docs/figures/budget.svg shows is written to target/budget.csv.

#![allow(
    clippy::disallowed_methods,
    reason = "hosts pause on threads of their own"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, RwLock};
use std::time::Instant;

use testkit::origin::PullCounter;
use testkit::sha256;

use super::*;

const HOSTS: usize = 20;
const IMAGES: usize = 200;
/// The images that exist from the start; the others appear one after the other.
const AT_FIRST: usize = 150;
const LIMIT: usize = 100;
const WINDOWS_PER_DAY: u32 = 4;
const WINDOWS_PER_WEEK: u32 = 7 * WINDOWS_PER_DAY;
/// The mean time between two jobs of a host, in hours; each pulls up to three images.
const JOB_EVERY: f64 = 0.5;
/// The mean time between two moves of a tag, in days.
const MOVE_EVERY: f64 = 2.0;
/// A refused pull is tried again after so many hours.
const RETRY_AFTER: f64 = 1.0;
/// Every second image is an index of these.
const PLATFORMS: [&str; 2] = ["amd64", "arm64"];

/// How long the simulation takes.
#[derive(Clone, Copy)]
struct Scale {
    window: Duration,
    windows: u32,
}

impl Scale {
    fn of_environment() -> Self {
        let week = std::env::var("ROADSTEAD_BUDGET").ok();
        match week.and_then(|seconds| seconds.parse::<u32>().ok()) {
            // The registry tells its window in whole seconds.
            Some(seconds) => Self {
                window: Duration::from_secs((seconds / WINDOWS_PER_WEEK).max(6).into()),
                windows: WINDOWS_PER_WEEK,
            },
            None => Self {
                window: Duration::from_secs(10),
                windows: WINDOWS_PER_DAY,
            },
        }
    }

    fn length(self) -> Duration {
        self.window * self.windows
    }

    fn hours(self, hours: f64) -> Duration {
        self.window.mul_f64(hours / 6.0)
    }

    /// In simulated hours.
    fn in_hours(self, time: Duration) -> f64 {
        time.as_secs_f64() / self.window.as_secs_f64() * 6.0
    }
}

/// A tag of the registry, and what it points at now.
struct Tag {
    repository: String,
    is_index: bool,
    path: String,
    /// The digest now, and when it moved there.
    current: Mutex<(String, Instant)>,
}

impl Tag {
    /// Pushes another image, or index of images, to the tag.
    fn push(&self, origin: &Origin, seed: u64) {
        let image = |tag: &str, seed| origin.push_image(&self.repository, tag, &[random(seed, 64)]);
        let pushed = if self.is_index {
            let images: Vec<Image> = PLATFORMS
                .iter()
                .zip(0..)
                .map(|(platform, number)| image(platform, seed * 2 + number))
                .collect();
            let images: Vec<&Image> = images.iter().collect();
            origin.push_index(&self.repository, "latest", &images)
        } else {
            image("latest", seed * 2)
        };
        *lock(&self.current) = (pushed.digest, Instant::now());
    }
}

/// What became of all pulls.
#[derive(Default)]
struct Tally {
    /// Pulls, without those that were tried again.
    jobs: u64,
    served: u64,
    /// Complete, with what the tag pointed at before.
    outdated: u64,
    longest_lag: Duration,
    /// Got a 429, for what was never pulled before.
    refused: u64,
    /// The pulls that the hosts would have got a 429 for without the gateway.
    refused_without: u64,
    counter: PullCounter,
    /// The tags that were asked for at first at these times, and those that were pulled, by platform.
    asked: BTreeMap<usize, Instant>,
    pulled: BTreeSet<(usize, &'static str)>,
    wrong: Vec<String>,
}

struct Simulation {
    scale: Scale,
    began: Instant,
    seed: u64,
    origin: Origin,
    tags: RwLock<Vec<Tag>>,
    tally: Mutex<Tally>,
    stop: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panicked")
}

/// Whether a pull was refused before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    First,
    Again,
}

/// One of the hosts.
struct Host {
    number: usize,
    url: String,
    random: fastrand::Rng,
    /// Refused pulls, by when they are tried again.
    retries: Vec<(Instant, usize)>,
}

impl Host {
    fn platform(&self) -> &'static str {
        PLATFORMS[usize::from(self.number.is_multiple_of(4))]
    }

    /// Runs jobs until the end.
    fn run(&mut self, simulation: &Simulation) {
        let scale = simulation.scale;
        let mut next = Instant::now() + scale.hours(JOB_EVERY).mul_f64(self.random.f64());
        while !simulation.stop.load(Relaxed) {
            let now = Instant::now();
            let due = self.retries.iter().position(|(at, _)| *at <= now);
            if let Some(due) = due {
                let (_, tag) = self.retries.swap_remove(due);
                self.pull(simulation, tag, Try::Again);
            } else if now >= next {
                for _ in 0..self.random.usize(1..=3) {
                    let tag = self.choose(simulation);
                    self.pull(simulation, tag, Try::First);
                }
                next += scale.hours(-JOB_EVERY * (1.0 - self.random.f64()).ln());
            } else {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    /// A tag that exists: the n-th most popular one is asked for about 1/n as often as the first.
    fn choose(&mut self, simulation: &Simulation) -> usize {
        let existing = simulation.tags.read().expect("no thread panicked").len();
        loop {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "from 1 to 200"
            )]
            let rank = (IMAGES as f64 + 1.0).powf(self.random.f64()) as usize;
            // New images are neither the most popular ones nor the least.
            let number = rank * 67 % IMAGES;
            if number < existing {
                return number;
            }
        }
    }

    /// Pulls an image as a client does, and notes what became of it.
    fn pull(&mut self, simulation: &Simulation, number: usize, which: Try) {
        let platform = self.platform();
        let (path, repository, cost) = {
            let tags = simulation.tags.read().expect("no thread panicked");
            let tag = &tags[number];
            let cost = if tag.is_index { 2 } else { 1 };
            (tag.path.clone(), tag.repository.clone(), cost)
        };
        let was_pulled = {
            let mut tally = lock(&simulation.tally);
            let (quota, now) = (simulation.quota(), Instant::now());
            // Without the gateway the hosts share the same quota. What they would try again is left out.
            if which == Try::First {
                let refused = (0..cost).any(|_| !tally.counter.pull(&quota, now));
                tally.refused_without += u64::from(refused);
                tally.jobs += 1;
            }
            tally.asked.entry(number).or_insert(now);
            tally.pulled.contains(&(number, platform))
        };
        let asked_at = Instant::now();
        let outcome = self.requests(&path, &repository, platform);
        let mut tally = lock(&simulation.tally);
        match outcome {
            Ok(digest) => {
                tally.served += 1;
                tally.pulled.insert((number, platform));
                let tags = simulation.tags.read().expect("no thread panicked");
                let (current, moved_at) = lock(&tags[number].current).clone();
                // One that moved meanwhile was not outdated.
                if current != digest && moved_at < asked_at {
                    tally.outdated += 1;
                    tally.longest_lag = tally.longest_lag.max(asked_at - moved_at);
                }
            }
            Err((429, _)) if !was_pulled => {
                tally.refused += 1;
                let wait = simulation.scale.hours(RETRY_AFTER);
                self.retries.push((Instant::now() + wait, number));
            }
            Err((status, what)) => {
                let host = self.number;
                tally.wrong.push(format!(
                    "host {host}: {status} for {what}, of a pull of {path} for {platform}, pulled before: {was_pulled}"
                ));
            }
        }
    }

    /// The requests of a pull: the digest of the tag, or the status and path of what failed.
    fn requests(
        &self,
        path: &str,
        repository: &str,
        platform: &str,
    ) -> Result<String, (u16, String)> {
        let mut raw = Raw::connect(&self.url, None);
        let mut get = |path: String| {
            let reply = raw.get(&path);
            match reply.status() {
                200 => Ok(reply),
                status => Err((status, path)),
            }
        };
        let manifest_path = |digest: &str| format!("/v2/{repository}/manifests/{digest}");
        // Docker asks for the tag, containerd for its digest first.
        let mut manifest = if self.number.is_multiple_of(2) {
            get(path.to_owned())?
        } else {
            let head = Raw::connect(&self.url, None).head(path);
            match digest(&head) {
                Some(digest) if head.status() == 200 => get(manifest_path(digest))?,
                _ => return Err((head.status(), format!("HEAD {path}"))),
            }
        };
        let tag = sha256(&manifest.body);
        let mut parsed: Value = serde_json::from_slice(&manifest.body).expect("a manifest");
        if let Some(images) = parsed["manifests"].as_array() {
            let image = images
                .iter()
                .find(|image| image["platform"]["architecture"] == platform);
            let image = image.expect("an image of the platform");
            let image = image["digest"].as_str().expect("a digest");
            manifest = get(manifest_path(image))?;
            assert_eq!(sha256(&manifest.body), image);
            parsed = serde_json::from_slice(&manifest.body).expect("a manifest");
        }
        let config = parsed["config"]["digest"].as_str().expect("a digest");
        get(format!("/v2/{repository}/blobs/{config}"))?;
        Ok(tag)
    }
}

impl Simulation {
    fn new(scale: Scale, seed: u64) -> Self {
        let origin = Origin::start();
        let simulation = Self {
            scale,
            began: Instant::now(),
            seed,
            origin,
            tags: RwLock::default(),
            tally: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        simulation.origin.limit_pulls(simulation.quota());
        for _ in 0..AT_FIRST {
            simulation.add_tag();
        }
        simulation
    }

    fn quota(&self) -> Quota {
        Quota {
            limit: LIMIT,
            window: self.scale.window,
            is_stated: true,
        }
    }

    fn add_tag(&self) {
        let mut tags = self.tags.write().expect("no thread panicked");
        let number = tags.len();
        let repository = format!("library/image-{number}");
        let tag = Tag {
            path: format!("/v2/{repository}/manifests/latest"),
            repository,
            is_index: number.is_multiple_of(2),
            current: Mutex::new((String::new(), Instant::now())),
        };
        tag.push(&self.origin, number as u64);
        tags.push(tag);
    }

    /// Moves tags and adds new ones until the end; returns a row of the series for each step.
    fn change_images(&self) -> Vec<Row> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let steps = self.scale.windows * 12;
        let step = self.scale.length() / steps;
        let steps_per_day = f64::from(steps / (self.scale.windows / WINDOWS_PER_DAY));
        let mut rows = vec![self.row()];
        let mut seed = IMAGES as u64;
        for number in 1..=steps {
            let until = self.began + step * number;
            std::thread::sleep(until.saturating_duration_since(Instant::now()));
            let tags = self.tags.read().expect("no thread panicked");
            for tag in tags.iter() {
                if random.f64() * steps_per_day * MOVE_EVERY < 1.0 {
                    seed += 1;
                    tag.push(&self.origin, seed);
                }
            }
            let existing = tags.len();
            drop(tags);
            let due = AT_FIRST + (IMAGES - AT_FIRST) * number as usize / steps as usize;
            for _ in existing..due {
                self.add_tag();
            }
            self.origin.clear_requests();
            rows.push(self.row());
        }
        rows
    }

    fn row(&self) -> Row {
        let left = self.origin.pulls_left("anonymous");
        let gets = self.origin.pull_totals().pulls;
        let tally = lock(&self.tally);
        let images: BTreeSet<usize> = tally.pulled.iter().map(|(tag, _)| *tag).collect();
        Row {
            hours: self.scale.in_hours(self.began.elapsed()),
            left,
            gets,
            images: images.len(),
            served: tally.served,
            outdated: tally.outdated,
            refused: tally.refused,
            refused_without: tally.refused_without,
        }
    }
}

/// The sums at one time.
#[derive(Clone, Copy)]
struct Row {
    hours: f64,
    left: usize,
    gets: usize,
    images: usize,
    served: u64,
    outdated: u64,
    refused: u64,
    refused_without: u64,
}

/// The series, for scripts/budget.py.
fn write_series(rows: &[Row]) {
    let mut text = String::from("hours,left,gets,images,served,outdated,refused,refused_without\n");
    for row in rows {
        let Row {
            hours,
            left,
            gets,
            images,
            served,
            outdated,
            refused,
            refused_without,
        } = row;
        let _ = writeln!(
            text,
            "{hours:.2},{left},{gets},{images},{served},{outdated},{refused},{refused_without}"
        );
    }
    let file = testkit::root().join("target/budget.csv");
    std::fs::write(&file, text).expect("writable");
    println!("the series is in {}", file.display());
}

#[test]
fn quota_of_one_address_lasts_for_a_ci() {
    let _heavy = crate::heavy_test();
    let scale = Scale::of_environment();
    let seed = std::env::var("ROADSTEAD_SEED").ok();
    let seed = seed
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("ROADSTEAD_SEED={seed}");
    let mut simulation = Simulation::new(scale, seed);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\"}}]\n\
         store: {{tag_ttl: {}ms, missing_ttl: 0s}}\nlog: {{access: false}}\n",
        simulation.origin.url(),
        // Ten minutes.
        scale.hours(1.0 / 6.0).as_millis()
    ));
    simulation.began = Instant::now();
    let simulation = &simulation;
    let rows = std::thread::scope(|threads| {
        for number in 0..HOSTS {
            let mut host = Host {
                number,
                url: gateway.url(1).to_owned(),
                random: fastrand::Rng::with_seed(seed ^ (number as u64 + 1)),
                retries: Vec::new(),
            };
            threads.spawn(move || host.run(simulation));
        }
        let rows = simulation.change_images();
        simulation.stop.store(true, Relaxed);
        rows
    });
    write_series(&rows);
    let tally = lock(&simulation.tally);
    let totals = simulation.origin.pull_totals();
    report(&tally, rows.last().expect("rows"), totals.refused, scale);
    assert_eq!(tally.wrong, Vec::<String>::new(), "of {}", tally.served);
    assert_quota_was_used(&rows);
    // Whatever was asked for before the last window is there, as far as it could be tried again since.
    let before = simulation.began + scale.window * (scale.windows - 1);
    let asked = tally.asked.iter().filter(|(_, at)| **at < before);
    let asked: BTreeSet<usize> = asked.map(|(tag, _)| *tag).collect();
    let pulled: BTreeSet<usize> = tally.pulled.iter().map(|(tag, _)| *tag).collect();
    let missing = asked.difference(&pulled).count();
    assert!(missing * 20 <= asked.len(), "{missing} of {}", asked.len());
    // The hosts by themselves would have got most of their pulls refused. On the first day nearly everything is new.
    let days = u64::from(scale.windows / WINDOWS_PER_DAY);
    assert!(
        tally.refused * (days + 1) < tally.refused_without,
        "{} and {}",
        tally.refused,
        tally.refused_without
    );
}

/// While something new is refused, the quota is used up.
#[track_caller]
fn assert_quota_was_used(rows: &[Row]) {
    let mut windows: HashMap<u32, (usize, u64)> = HashMap::new();
    for (earlier, later) in rows.iter().zip(&rows[1..]) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small number"
        )]
        let window = (earlier.hours / 6.0) as u32;
        let (gets, refused) = windows.entry(window).or_default();
        *gets += later.gets - earlier.gets;
        *refused += later.refused - earlier.refused;
    }
    for (window, (gets, refused)) in windows {
        // A few refusals may be those of the last moments before pulls left the window.
        assert!(
            refused < 5 || gets >= LIMIT * 7 / 10,
            "window {window}: {gets} pulls, {refused} refused"
        );
    }
}

fn report(tally: &Tally, last: &Row, asked_in_vain: usize, scale: Scale) {
    println!("| {:.0} simulated hours | |", last.hours);
    println!("|---|---|");
    println!("| pulls | {} |", tally.jobs);
    println!(
        "| refused without the gateway | {} |",
        tally.refused_without
    );
    println!(
        "| refused with it, of images never pulled before, the hourly tries included | {} |",
        tally.refused
    );
    println!(
        "| refused with it, of images pulled before | {} |",
        tally.wrong.len()
    );
    println!("| images pulled, of {IMAGES} | {} |", last.images);
    println!("| pulls that the registry counted | {} |", last.gets);
    println!("| requests that it refused | {asked_in_vain} |");
    println!(
        "| served with an earlier state of the tag | {} |",
        tally.outdated
    );
    let lag = scale.in_hours(tally.longest_lag);
    println!("| the oldest of these, in hours | {lag:.1} |");
}
