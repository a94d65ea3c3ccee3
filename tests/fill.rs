//! Fills: one download for many readers, and never a complete body with wrong bytes (invariants 1 to 3).

mod corruption;
mod without_room;

use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Web, at_once};
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin};
use testkit::until;

/// Well over the withheld tail of 64 KiB.
const SIZE: usize = 2 << 20;

const TAIL: usize = 64 << 10;

fn scene(size: usize) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, size)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    (origin, image, gateway)
}

fn blob_gets(origin: &Origin, image: &Image) -> usize {
    origin.count("GET", &image.layer_path(0))
}

fn committed(gateway: &Gateway, n: usize) {
    until(&format!("{n} committed fills"), || {
        gateway.log().matches("fill: committed").count() >= n
    });
}

#[test]
fn sixteen_clients_cost_one_upstream_request() {
    let (origin, image, gateway) = scene(SIZE);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(SIZE as u64 / 2, latch.clone()).on("GET", "*/blobs/*"));
    let url = format!("{}{}", gateway.url(0), image.layer_path(0));
    let (h1, h2) = (
        Web::h1(Some(&gateway.ca_path())),
        Web::h2(Some(&gateway.ca_path())),
    );
    let release = std::thread::spawn({
        let latch = latch.clone();
        move || {
            latch.wait_reached(1);
            latch.release();
        }
    });
    let bodies = at_once(16, |i| {
        if i % 2 == 0 {
            h1.get(&url)
        } else {
            h2.get(&url)
        }
    });
    release.join().expect("the latch was reached");
    for fetched in &bodies {
        assert_eq!((fetched.status, &fetched.broken), (200, &None));
        assert!(fetched.body == image.layer(0).1, "other bytes");
    }
    assert_eq!(blob_gets(&origin, &image), 1);
    assert_eq!(origin.count("HEAD", "*/blobs/*"), 0);
    let collapsed = bodies.iter().filter(|fetched| {
        let status = fetched.header("cache-status").unwrap_or_default();
        status.starts_with("roadstead; fwd=uri-miss; stored; collapsed")
    });
    // A client that comes afterwards is served from the store.
    assert!(collapsed.count() > 0);
}

#[test]
fn fill_streams_to_early_and_late_readers() {
    let (origin, image, gateway) = scene(SIZE);
    let latch = Latch::new();
    let half = SIZE / 2;
    origin.fault(Fault::PauseAt(half as u64, latch.clone()).on("GET", "*/blobs/*"));
    let path = image.layer_path(0);
    let layer = &image.layer(0).1;
    let mut first = Raw::connect(gateway.url(0), Some(&gateway.ca_path()));
    first.request("GET", &path, &[]);
    assert_eq!(
        first.read_head().expect("a head").length(),
        Some(SIZE as u64)
    );
    assert!(first.read_exactly(half as u64) == layer[..half]);

    let mut late = Raw::connect(gateway.url(1), None);
    late.request("GET", &path, &[]);
    late.read_head().expect("a head");
    assert!(late.read_exactly(half as u64) == layer[..half]);

    latch.release();
    assert!(first.read_exactly((SIZE - half) as u64) == layer[half..]);
    assert!(late.read_exactly((SIZE - half) as u64) == layer[half..]);
    assert_eq!(blob_gets(&origin, &image), 1);
}

#[test]
fn tail_is_withheld_until_the_digest_is_verified() {
    for is_right in [true, false] {
        let (origin, image, gateway) = scene(SIZE);
        let latch = Latch::new();
        // Everything except the last byte has arrived.
        let last = SIZE as u64 - 1;
        origin.fault(Fault::PauseAt(last, latch.clone()).on("GET", "*/blobs/*"));
        if !is_right {
            origin.fault(Fault::WrongByteAt(last).on("GET", "*/blobs/*"));
            origin.fault(Fault::status(404).on("GET", "*/blobs/*").after(1));
        }
        let mut raw = Raw::connect(gateway.url(1), None);
        raw.request("GET", &image.layer_path(0), &[]);
        raw.read_head().expect("a head");
        let early = SIZE - TAIL;
        assert!(raw.read_exactly(early as u64) == image.layer(0).1[..early]);
        // A range that does not reach the end is released as it arrives: after it the gateway has all but the last byte.
        let mut inside = Raw::connect(gateway.url(1), None);
        let range = format!("bytes={}-{}", SIZE - TAIL, SIZE - 2);
        let part = inside.exchange("GET", &image.layer_path(0), &[("Range", &range)]);
        assert_eq!((part.status(), part.end.clone()), (206, End::Complete));
        assert!(part.body == image.layer(0).1[SIZE - TAIL..SIZE - 1]);
        // A range that reaches the end waits.
        let mut end = Raw::connect(gateway.url(1), None);
        end.request("GET", &image.layer_path(0), &[("Range", "bytes=-10")]);
        assert_eq!(end.read_head().expect("a head").status, 206);

        latch.release();
        if is_right {
            assert!(raw.read_exactly(TAIL as u64) == image.layer(0).1[early..]);
            assert!(end.read_exactly(10) == image.layer(0).1[SIZE - 10..]);
            assert_eq!(blob_gets(&origin, &image), 1);
        } else {
            // No byte of the tail was sent, neither before the digest was known to be wrong nor after.
            assert!(raw.read_to_end().0.is_empty());
            assert!(end.read_to_end().0.is_empty());
        }
    }
}

/// Where all cores are busy, cached answers go before downloads.
#[test]
fn threads_of_fills_are_nicer_than_those_of_connections() {
    let (_origin, image, gateway) = scene(1000);
    let reply = testkit::http::get(gateway.url(1), None, &image.layer_path(0));
    assert_eq!(reply.status(), 200);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("threads");
    let nice = |name: &str, task: &std::path::Path| {
        let stat = std::fs::read_to_string(task.join("stat")).ok()?;
        let (named, fields) = stat.rsplit_once(')')?;
        let nice: i32 = fields.split_whitespace().nth(16)?.parse().ok()?;
        named.ends_with(&format!("({name}")).then_some(nice)
    };
    let tasks: Vec<_> = tasks.map(|task| task.expect("a thread").path()).collect();
    let of = |name| tasks.iter().filter_map(move |task| nice(name, task));
    let (fills, connections) = (of("fill").min(), of("serve").max());
    assert!(fills > connections, "{fills:?} {connections:?}");
}

#[test]
fn fill_continues_after_its_client_disconnects() {
    let (origin, image, gateway) = scene(SIZE);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(SIZE as u64 / 2, latch.clone()).on("GET", "*/blobs/*"));
    let mut raw = Raw::connect(gateway.url(0), Some(&gateway.ca_path()));
    raw.request("GET", &image.layer_path(0), &[]);
    raw.read_exactly(1);
    drop(raw);
    latch.wait_reached(1);
    latch.release();
    committed(&gateway, 1);
    let warm = testkit::http::get(gateway.url(1), None, &image.layer_path(0));
    assert_eq!(warm.header("cache-status"), Some("roadstead; hit"));
    assert!(warm.body == image.layer(0).1);
    assert_eq!(blob_gets(&origin, &image), 1);
}

#[test]
fn head_starts_no_fill() {
    let (origin, image, gateway) = scene(SIZE);
    let mut raw = Raw::connect(gateway.url(1), None);
    // Content that is not stored is checked each time: it may be gone.
    for _ in 0..2 {
        let head = raw.head(&image.layer_path(0));
        assert_eq!(
            (head.status(), head.head.length()),
            (200, Some(SIZE as u64))
        );
        let expected = Some("roadstead; fwd=uri-miss");
        assert_eq!(head.header("cache-status"), expected);
        assert_eq!(head.header("accept-ranges"), Some("bytes"));
        assert_eq!(
            head.header("docker-content-digest"),
            Some(&*image.layer(0).0)
        );
    }
    assert_eq!(
        (origin.count("HEAD", "*"), origin.count("GET", "*")),
        (2, 0)
    );
}

#[test]
fn near_range_waits_for_the_fill() {
    let (origin, image, gateway) = scene(SIZE);
    let mut raw = Raw::connect(gateway.url(1), None);
    let (first, last) = (SIZE / 2, SIZE / 2 + 99);
    let range = format!("bytes={first}-{last}");
    let part = raw.exchange("GET", &image.layer_path(0), &[("Range", &range)]);
    assert_eq!(part.status(), 206);
    let expected = format!("bytes {first}-{last}/{SIZE}");
    assert_eq!(part.header("content-range"), Some(&*expected));
    assert!(part.body == image.layer(0).1[first..=last]);
    let requests = origin.requests_for("GET", "*/blobs/*");
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].header("range"), None, "the fill is whole");
}

/// 2 MiB at 16 KiB per second: the end is two minutes away. At most four readers get it from side requests; a reader of
/// the tail waits for the verified file.
#[test]
fn far_ranges_use_at_most_four_side_requests() {
    let (origin, image, gateway) = scene(SIZE);
    let slow = origin.fault(Fault::Throttle(16 << 10).on("GET", "*/blobs/*"));
    let path = image.layer_path(0);
    let mut filler = Raw::connect(gateway.url(1), None);
    filler.request("GET", &path, &[]);
    filler.read_exactly(1);
    let side = Fault::Throttle(64 << 10)
        .on("GET", "*/blobs/*")
        .with_header("Range");
    origin.fault(side);
    let parts = at_once(6, |i| {
        let first = SIZE - (200 << 10) + i;
        let range = format!("bytes={first}-{}", first + 65_535);
        let mut raw = Raw::connect(gateway.url(1), None);
        raw.request("GET", &path, &[("Range", &range)]);
        raw.read_head().expect("a head");
        let _ = raw.read_timeout(Duration::from_secs(8));
        match raw.read_some(1) {
            Ok(byte) => Some(byte == image.layer(0).1[first..=first]),
            Err(_) => None,
        }
    });
    assert!(!parts.contains(&Some(false)), "wrong bytes");
    let count = origin
        .requests_for("GET", &path)
        .iter()
        .filter(|r| r.header("range").is_some())
        .count();
    assert!(count >= 4, "{count} side requests");
    let served = parts.iter().flatten().count();
    assert!(served >= 4, "{served} readers were served");
    // Four at a time: a fifth request may only follow one that ended.
    assert!(count <= 6, "{count} side requests");
    origin.heal(slow);
}

#[test]
fn fills_are_limited_and_waiting_too_long_gets_503() {
    let origin = Origin::start();
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1, latch.clone()).on("GET", "*/blobs/*"));
    let digests: Vec<String> = (0..3)
        .map(|seed| origin.push_blob("library/app", random(seed, SIZE)))
        .collect();
    let other = Origin::start();
    let elsewhere = other.push_blob("a/b", random(7, 1000));
    // Four slots, of which one registry may use two.
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", default: true}}, {{name: other, v2: \"{}\"}}]\n\
         limits: {{fills: 4}}\n",
        origin.url(),
        other.url()
    ));
    let get = |digest: &str| {
        let mut raw = Raw::connect(gateway.url(1), None);
        let _ = raw.read_timeout(Duration::from_secs(30));
        raw.request("GET", &format!("/v2/library/app/blobs/{digest}"), &[]);
        raw
    };
    let mut running = [get(&digests[0]), get(&digests[1])];
    latch.wait_reached(2);
    // Another registry has its own slots.
    let free = testkit::http::get(
        gateway.url(1),
        None,
        &format!("/v2/other/a/b/blobs/{elsewhere}"),
    );
    assert_eq!(free.status(), 200);
    let started = std::time::Instant::now();
    let busy = get(&digests[2]).reply("GET");
    assert_eq!(busy.status(), 503);
    assert_eq!(busy.error_code().as_deref(), Some("UNAVAILABLE"));
    assert!(
        busy.header("retry-after")
            .is_some_and(|wait| wait.parse::<u32>().is_ok())
    );
    assert!(
        started.elapsed() >= Duration::from_secs(19),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(origin.count("GET", "*/blobs/*"), 2);
    // A freed slot is used.
    latch.release();
    for raw in &mut running {
        assert_eq!(raw.reply("GET").end, End::Complete);
    }
    assert_eq!(get(&digests[2]).reply("GET").end, End::Complete);
}

#[test]
fn long_fill_logs_progress() {
    let (origin, image, gateway) = scene(9 << 20);
    origin.fault(Fault::Throttle(1500 << 10).on("GET", "*/blobs/*"));
    assert_eq!(
        testkit::http::get(gateway.url(1), None, &image.layer_path(0)).end,
        End::Complete
    );
    committed(&gateway, 1);
    let reports = gateway.log().matches("fill: under way").count();
    assert_eq!(reports, 1, "six seconds, a report every five");
}

/// The files below a folder.
fn files(folder: &std::path::Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| {
            if entry.path().is_dir() {
                files(&entry.path())
            } else {
                1
            }
        })
        .sum()
}
