//! A soak: a catalogue larger than the store, requested with a realistic distribution (a few images often, most rarely)
//! by 32 clients over TLS, from an upstream that drops, stalls, corrupts and fails, with purges and two SIGKILLs. No
//! wrong bytes are ever delivered as complete, the cap always holds, and neither memory nor descriptors grow.
//!
//! 45 seconds; `ROADSTEAD_SOAK` sets another duration (`make test-long`: 600).

#![allow(
    clippy::disallowed_methods,
    reason = "clients and observers pause on threads of their own"
)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use testkit::gateway::Gateway;
use testkit::http::{Connect, End, Raw};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::sha256;

const CLIENTS: usize = 32;
const IMAGES: usize = 60;
/// The catalogue has some 120 MiB.
const MAX_SIZE: u64 = 48 << 20;
const BLOCK: u64 = 4096;
/// The bytes of a blob held back until it is verified.
const TAIL: u64 = 64 << 10;

/// The clients' results.
#[derive(Default)]
struct Tally {
    whole: AtomicU64,
    bytes: AtomicU64,
    parts: AtomicU64,
    /// Visibly incomplete.
    cut: AtomicU64,
    /// Complete error responses.
    errors: AtomicU64,
    /// The gateway was not running.
    away: AtomicU64,
    wrong: Mutex<Vec<String>>,
}

/// The sampler's results.
#[derive(Default)]
struct Peaks {
    store: u64,
    samples: u64,
    rss_kib: u64,
    descriptors: usize,
}

#[test]
fn store_survives_long_load() {
    let seconds = std::env::var("ROADSTEAD_SOAK").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(45);
    let length = Duration::from_secs(seconds);
    let seed = std::env::var("ROADSTEAD_SEED").ok();
    let seed = seed
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("ROADSTEAD_SEED={seed}");
    let origin = Origin::start();
    let images = catalogue(&origin, seed);
    let mut gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", tag_ttl: 2s, missing_ttl: 1s}}]\n\
         store: {{max_size: 48MiB, min_free: 0}}\nlog: {{access: false, level: error}}\n\
         admin: {{address: \"unix:admin.sock\"}}\n",
        origin.url()
    ));
    let (tally, stop) = (Tally::default(), AtomicBool::new(false));
    let url = RwLock::new(gateway.url(0).to_owned());
    let ca = gateway.ca_path();
    let mut peaks = Peaks::default();
    let (mut kills, mut purges) = (0, 0);
    let mut early = 0;
    std::thread::scope(|threads| {
        for client in 0..CLIENTS {
            let (images, tally, stop, url, ca) = (&images, &tally, &stop, &url, &ca);
            threads.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ (client as u64 + 1));
                while !stop.load(Relaxed) {
                    let url = url.read().expect("a URL").clone();
                    if !visit(&mut random, images, tally, &url, ca) {
                        // As refused clients do.
                        std::thread::sleep(Duration::from_millis(100));
                    }
                }
            });
        }
        let started = Instant::now();
        let mut chaos = fastrand::Rng::with_seed(seed);
        let mut next = Duration::ZERO;
        while started.elapsed() < length {
            sample(&gateway, &mut peaks);
            let now = started.elapsed();
            if now >= length / 3 * (kills + 1) && kills < 2 {
                gateway.kill();
                gateway.restart();
                gateway.url(0).clone_into(&mut url.write().expect("a URL"));
                kills += 1;
            } else if now >= next {
                next = now + Duration::from_secs(1);
                misbehave(&origin, &mut chaos);
                if chaos.u8(0..8) == 0 {
                    purge(&gateway, &images[chaos.usize(0..IMAGES)]);
                    purges += 1;
                }
            }
            // The first seconds of the last process, and its last ones.
            if early == 0 && kills == 2 && now > length / 3 * 2 + length / 10 {
                early = gateway.rss_kib();
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Relaxed);
        origin.heal_all();
    });
    let late = gateway.rss_kib();
    let descriptors = testkit::eventually("the clients' connections to end", || {
        Some(gateway.open_fds()).filter(|open| *open < 60)
    });
    let ended = Ended {
        seconds,
        kills,
        purges,
        early,
        late,
        descriptors,
        upstream: origin.bytes_sent("*"),
    };
    report(&tally, &peaks, &ended);
    let wrong = tally.wrong.into_inner().expect("no thread panicked");
    assert_eq!(wrong, Vec::<String>::new());
    assert!(
        peaks.store <= MAX_SIZE,
        "{} bytes in the store",
        peaks.store
    );
    assert!(tally.whole.load(Relaxed) > 500, "it was a soak");
    assert!(
        late < early + early / 4 + (8 << 10),
        "memory grows: {early} to {late} KiB"
    );
}

/// The counts at the end.
struct Ended {
    seconds: u64,
    kills: u32,
    purges: u64,
    /// Memory of the last process in KiB, soon after its start and at its end.
    early: u64,
    late: u64,
    descriptors: usize,
    upstream: u64,
}

/// The summary.
fn report(tally: &Tally, peaks: &Peaks, ended: &Ended) {
    println!("| soak of {} s | |\n|---|---:|", ended.seconds);
    for (what, figure) in [
        ("bodies whole and right", tally.whole.load(Relaxed)),
        ("MiB in them", tally.bytes.load(Relaxed) >> 20),
        ("ranges right", tally.parts.load(Relaxed)),
        ("visibly incomplete", tally.cut.load(Relaxed)),
        ("errors told as such", tally.errors.load(Relaxed)),
        ("gateway away", tally.away.load(Relaxed)),
        (
            "wrong as complete",
            tally.wrong.lock().expect("a list").len() as u64,
        ),
        ("SIGKILLs", ended.kills.into()),
        ("purges", ended.purges),
        ("MiB sent by the upstream", ended.upstream >> 20),
        ("samples of the store", peaks.samples),
        ("most in the store, MiB", peaks.store >> 20),
        ("max_size, MiB", MAX_SIZE >> 20),
        ("most memory, MiB", peaks.rss_kib >> 10),
        (
            "memory of the last process, early and late, MiB",
            ended.early >> 10,
        ),
        ("", ended.late >> 10),
        ("most descriptors", peaks.descriptors as u64),
        ("descriptors at the end", ended.descriptors as u64),
    ] {
        println!("| {what} | {figure} |");
    }
}

/// Images of two layers, from some kilobytes to some megabytes.
fn catalogue(origin: &Origin, seed: u64) -> Vec<Image> {
    let mut sizes = fastrand::Rng::with_seed(seed);
    let image = |i: usize| {
        let layer = |n: u64, size| random(seed ^ (i as u64 * 7 + n), size);
        let layers = [
            layer(1, sizes.usize(1000..200_000)),
            layer(2, sizes.usize(1..4 << 20)),
        ];
        origin.push_image(&format!("library/app{i}"), "latest", &layers)
    };
    (0..IMAGES).map(image).collect()
}

/// Pulls one image, chosen by its rank in the catalogue (Zipf). False if the gateway was not running.
fn visit(
    random: &mut fastrand::Rng,
    images: &[Image],
    tally: &Tally,
    url: &str,
    ca: &Path,
) -> bool {
    let weight = |i: usize| 1.0 / (f64::from(u32::try_from(i).expect("few")) + 1.0);
    let all: f64 = (0..images.len()).map(weight).sum();
    let mut left = random.f64() * all;
    let chosen = (0..images.len()).find(|i| {
        left -= weight(*i);
        left <= 0.0
    });
    let image = &images[chosen.unwrap_or(0)];
    let connect = Connect {
        ca: Some(ca),
        ..Connect::default()
    };
    let Ok(mut raw) = Raw::connect_with(url, connect) else {
        tally.away.fetch_add(1, Relaxed);
        return false;
    };
    let blobs =
        (0..image.blobs.len()).map(|blob| (image.blob_path(blob), &image.blobs[blob].1[..]));
    let paths = std::iter::once((image.tag_path(), &image.manifest[..])).chain(blobs);
    for (path, right) in paths {
        let part = (random.u8(0..5) == 0 && path.contains("/blobs/") && right.len() > 1)
            .then(|| random.usize(0..right.len() - 1));
        let range = part
            .map(|first| format!("Range: bytes={first}-\r\n"))
            .unwrap_or_default();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{range}\r\n");
        if raw.try_send(request).is_err() {
            tally.away.fetch_add(1, Relaxed);
            return false;
        }
        let Ok(head) = raw.read_head() else {
            tally.away.fetch_add(1, Relaxed);
            return false;
        };
        if random.u8(0..20) == 0 {
            // Some clients leave in the middle.
            return true;
        }
        let (body, end) = raw.read_body("GET", &head);
        let wanted = match (head.status, part) {
            (206, Some(first)) => &right[first..],
            (200, _) => right,
            _ => {
                tally.errors.fetch_add(1, Relaxed);
                if end != End::Complete {
                    return true;
                }
                continue;
            }
        };
        if end != End::Complete {
            tally.cut.fetch_add(1, Relaxed);
            // With a wrong length announced, that many bytes are held back.
            let kept_back = head
                .length()
                .is_some_and(|length| body.len() as u64 + TAIL <= length);
            if !wanted.starts_with(&body) && part.is_none() && !kept_back {
                let told = format!("the tail of {path}");
                tally.wrong.lock().expect("a list").push(told);
            }
            return true;
        }
        if body != wanted {
            let told = format!("{path}: {} bytes, {}", body.len(), sha256(&body));
            tally.wrong.lock().expect("a list").push(told);
            return true;
        }
        if head.status == 206 {
            tally.parts.fetch_add(1, Relaxed);
        } else {
            tally.whole.fetch_add(1, Relaxed);
        }
        tally.bytes.fetch_add(body.len() as u64, Relaxed);
    }
    true
}

/// Adds a fault for the next few requests.
fn misbehave(origin: &Origin, random: &mut fastrand::Rng) {
    if random.u8(0..4) == 0 {
        origin.heal_all();
    }
    let at = random.u64(0..1 << 20);
    let fault = match random.u8(0..9) {
        0 => Fault::TruncateAt(at),
        1 => Fault::ResetAt(at),
        2 => Fault::WrongByteAt(at),
        3 => Fault::Overlong(at + 1),
        4 => Fault::StallAt(at),
        5 => Fault::status(503),
        6 => Fault::status_with(429, "Retry-After", "1"),
        7 => Fault::Hangup,
        _ => Fault::Throttle(4 << 20),
    };
    origin.fault(fault.on("*", "*").times(random.usize(1..4)));
}

fn purge(gateway: &Gateway, image: &Image) {
    let reference = format!("docker.io/{}:{}", image.repository, image.tag);
    let told = gateway.roadstead(&["purge", &reference]);
    assert!(told.status.success(), "{told:?}");
}

fn sample(gateway: &Gateway, peaks: &mut Peaks) {
    // Files may come and go during the walk, so an excess is measured again.
    let store = gateway.store();
    let mut size = size_of(&store);
    for _ in 0..5 {
        if size > MAX_SIZE {
            size = size.min(size_of(&store));
        }
    }
    peaks.store = peaks.store.max(size);
    peaks.samples += 1;
    peaks.rss_kib = peaks.rss_kib.max(gateway.rss_kib());
    peaks.descriptors = peaks.descriptors.max(gateway.open_fds());
}

/// The blocks of the files below a folder. A file that is renamed meanwhile counts once.
fn size_of(folder: &Path) -> u64 {
    let mut files = HashMap::new();
    measure(folder, &mut files);
    files.values().sum()
}

fn measure(folder: &Path, files: &mut HashMap<u64, u64>) {
    use std::os::unix::fs::MetadataExt as _;

    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => measure(&entry.path(), files),
            Ok(meta) => drop(files.insert(meta.ino(), meta.len().div_ceil(BLOCK) * BLOCK)),
            Err(_) => {}
        }
    }
}
