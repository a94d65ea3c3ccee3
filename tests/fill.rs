//! Fills: one download for many readers, and never a complete body that is wrong (laws 1 to 3).

use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Web, at_once};
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin};
use testkit::{sha512, until};

/// Well over the held-back tail of 64 KiB.
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
    // Who comes when it is over finds it here.
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
    assert!(late.is_silent(Duration::from_millis(100)));

    latch.release();
    assert!(first.read_exactly((SIZE - half) as u64) == layer[half..]);
    assert!(late.read_exactly((SIZE - half) as u64) == layer[half..]);
    assert_eq!(blob_gets(&origin, &image), 1);
}

#[test]
fn tail_is_withheld_until_the_digest_is_verified() {
    let (origin, image, gateway) = scene(SIZE);
    let latch = Latch::new();
    // Everything but the last byte has arrived.
    origin.fault(Fault::PauseAt(SIZE as u64 - 1, latch.clone()).on("GET", "*/blobs/*"));
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &image.layer_path(0), &[]);
    raw.read_head().expect("a head");
    let early = SIZE - TAIL;
    assert!(raw.read_exactly(early as u64) == image.layer(0).1[..early]);
    assert!(
        raw.is_silent(Duration::from_millis(200)),
        "the tail came before the last byte"
    );

    // A range that does not reach the end is released as it arrives; one that does waits.
    let mut inside = Raw::connect(gateway.url(1), None);
    let range = format!("bytes={}-{}", SIZE - TAIL, SIZE - 2);
    let part = inside.exchange("GET", &image.layer_path(0), &[("Range", &range)]);
    assert_eq!((part.status(), part.end.clone()), (206, End::Complete));
    assert!(part.body == image.layer(0).1[SIZE - TAIL..SIZE - 1]);
    let mut end = Raw::connect(gateway.url(1), None);
    end.request("GET", &image.layer_path(0), &[("Range", "bytes=-10")]);
    assert_eq!(end.read_head().expect("a head").status, 206);
    assert!(end.is_silent(Duration::from_millis(200)));

    latch.release();
    assert!(raw.read_exactly(TAIL as u64) == image.layer(0).1[early..]);
    assert!(end.read_exactly(10) == image.layer(0).1[SIZE - 10..]);
    assert_eq!(blob_gets(&origin, &image), 1);
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
    // What is not here is asked for each time: it may be gone.
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

/// 2 MiB at 16 KiB a second: what lies at the end is two minutes away. At most four readers get it from
/// requests beside the fill; who wants the tail waits for the verified file.
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
    let asked = origin
        .requests_for("GET", &path)
        .iter()
        .filter(|r| r.header("range").is_some())
        .count();
    assert!(asked >= 4, "{asked} side requests");
    let served = parts.iter().flatten().count();
    assert!(served >= 4, "{served} readers were served");
    // Four at a time: a fifth request may follow only where one had ended.
    assert!(asked <= 6, "{asked} side requests");
    origin.heal(slow);
}

/// Ways to drop a body, which a fill survives by resuming.
fn drops() -> Vec<(&'static str, Vec<Fault>)> {
    let size = SIZE as u64;
    let most = size * 6 / 10;
    vec![
        ("cut", vec![Fault::TruncateAt(most)]),
        (
            "cut before the last byte",
            vec![Fault::TruncateAt(size - 1)],
        ),
        ("reset", vec![Fault::ResetAt(most)]),
        (
            "chunked, cut",
            vec![Fault::Chunked, Fault::TruncateAt(most)],
        ),
        ("chunked, reset", vec![Fault::Chunked, Fault::ResetAt(most)]),
        (
            "chunked, without the last chunk",
            vec![Fault::Chunked, Fault::TruncateAt(size)],
        ),
        (
            "cut, without ranges",
            vec![Fault::TruncateAt(most), Fault::IgnoreRange],
        ),
    ]
}

/// Every lie that an upstream can tell about a body.
fn faults_of_a_body() -> Vec<(&'static str, Vec<Fault>)> {
    let size = SIZE as u64;
    let most = size * 6 / 10;
    vec![
        ("cut at once", vec![Fault::TruncateAt(0)]),
        (
            "until close, cut",
            vec![Fault::CloseDelimited, Fault::TruncateAt(most)],
        ),
        (
            "until close, cut before the last byte",
            vec![Fault::CloseDelimited, Fault::TruncateAt(size - 1)],
        ),
        ("overlong", vec![Fault::Overlong(10)]),
        (
            "overlong, chunked",
            vec![Fault::Chunked, Fault::Overlong(10)],
        ),
        (
            "overlong, until close",
            vec![Fault::CloseDelimited, Fault::Overlong(1)],
        ),
        ("a wrong first byte", vec![Fault::WrongByteAt(0)]),
        (
            "a wrong byte in the middle",
            vec![Fault::WrongByteAt(size / 2)],
        ),
        ("a wrong last byte", vec![Fault::WrongByteAt(size - 1)]),
        (
            "a wrong last byte, chunked",
            vec![Fault::Chunked, Fault::WrongByteAt(size - 1)],
        ),
        (
            "a wrong byte, and cut",
            vec![Fault::WrongByteAt(7), Fault::TruncateAt(most)],
        ),
        ("another body", vec![Fault::Body(random(9, SIZE))]),
        ("a shorter body", vec![Fault::Body(random(1, 1000))]),
        ("an empty body", vec![Fault::Body(Vec::new())]),
        ("gzip", vec![Fault::Gzip]),
    ]
}

/// The three ways to read a blob whole: its bytes, or `None` when it visibly was not.
fn read_whole(gateway: &Gateway, path: &str) -> [Option<Vec<u8>>; 3] {
    let ca = gateway.ca_path();
    let url = format!("{}{path}", gateway.url(0));
    let plain = testkit::http::get(gateway.url(1), None, path);
    let whole = plain.status() == 200 && plain.is_complete();
    // A stream that is reset before its headers arrived is an error as well.
    let [h1, h2] = [Web::h1(Some(&ca)), Web::h2(Some(&ca))].map(|web| {
        let fetched = testkit::http::block_on(web.fetch_async("GET", &url, &[])).ok();
        fetched
            .filter(|fetched| fetched.status == 200 && fetched.broken.is_none())
            .map(|fetched| fetched.body)
    });
    [whole.then_some(plain.body), h1, h2]
}

#[test]
fn dropped_download_is_resumed_while_readers_wait() {
    for (name, faults) in drops() {
        let (origin, image, gateway) = scene(SIZE);
        for fault in faults {
            // Every answer but the last is dropped, for an upstream without ranges sends all again.
            let times = if name.contains("without ranges") {
                2
            } else {
                20
            };
            origin.fault(fault.on("GET", "*/blobs/*").times(times));
        }
        for body in read_whole(&gateway, &image.layer_path(0)) {
            assert!(body.is_some_and(|body| body == image.layer(0).1), "{name}");
        }
        let asked = origin.requests_for("GET", &image.layer_path(0));
        assert!(asked.len() >= 2 || name.ends_with("last chunk"), "{name}");
        assert_eq!(asked[0].header("range"), None);
        assert!(
            asked[1..]
                .iter()
                .all(|request| request.header("range").is_some()),
            "{name}"
        );
        // What was there is not fetched again, where the upstream knows ranges. (A reset loses what was
        // under way, so there it cannot be said.)
        let sent = origin.bytes_sent(&image.layer_path(0));
        let sparing = !name.contains("reset") && !name.contains("without ranges");
        assert!(
            !sparing || sent <= SIZE as u64 + (256 << 10),
            "{name}: {sent}"
        );
        committed(&gateway, 1);
    }
}

#[test]
fn digest_mismatch_is_never_served_complete_or_committed() {
    let (origin, image, gateway) = scene(SIZE);
    let path = image.layer_path(0);
    for (name, faults) in faults_of_a_body() {
        origin.heal_all();
        for fault in &faults {
            origin.fault(fault.clone().on("GET", "*/blobs/*"));
        }
        assert_eq!(read_whole(&gateway, &path), [None, None, None], "{name}");
        assert_eq!(
            gateway.log().matches("fill: committed").count(),
            0,
            "{name}"
        );
    }
    assert_eq!(files(&gateway.store().join("blobs")), 0);
    assert_eq!(files(&gateway.store().join("partials")), 0);
    // Once it tells the truth, it is believed.
    origin.heal_all();
    until("the truth", || {
        read_whole(&gateway, &path)
            .iter()
            .flatten()
            .all(|body| *body == image.layer(0).1)
    });
    assert!(read_whole(&gateway, &path).iter().all(Option::is_some));
}

/// What a source that lied once costs: its bytes again, and only who has a wrong byte hears of it.
#[test]
fn digest_mismatch_is_retried_once() {
    let size = SIZE as u64;
    for (name, corrupt, survives) in [
        ("in the tail", Fault::WrongByteAt(size - 1), true),
        ("overlong", Fault::Overlong(10), false),
        ("another body", Fault::Body(random(9, SIZE)), false),
        ("at the beginning", Fault::WrongByteAt(0), false),
    ] {
        let (origin, image, gateway) = scene(SIZE);
        origin.fault(corrupt.on("GET", "*/blobs/*").times(1));
        let path = image.layer_path(0);
        let replies = at_once(4, |i| {
            if i == 0 {
                testkit::http::get(gateway.url(1), None, &path)
            } else {
                testkit::http::get(gateway.url(0), Some(&gateway.ca_path()), &path)
            }
        });
        committed(&gateway, 1);
        assert_eq!(blob_gets(&origin, &image), 2, "{name}");
        for reply in replies {
            // Who had read nothing yet when the lie was found gets what came after it.
            assert!(reply.is_complete() || !survives, "{name}");
            assert!(
                !reply.is_complete() || reply.body == image.layer(0).1,
                "{name}"
            );
        }
        let after = testkit::http::get(gateway.url(1), None, &path);
        assert!(after.is_complete() && after.body == image.layer(0).1);
        assert_eq!(blob_gets(&origin, &image), 2, "{name}");
    }
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

#[test]
fn correct_bodies_are_complete_in_every_framing_and_size() {
    let origin = Origin::start();
    let sizes = [0, 1, 100, TAIL - 1, TAIL, TAIL + 1, 3 * TAIL];
    let framings = [vec![], vec![Fault::Chunked], vec![Fault::CloseDelimited]];
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let h2 = Web::h2(Some(&gateway.ca_path()));
    let mut seed = 0;
    for faults in framings {
        origin.heal_all();
        for fault in &faults {
            origin.fault(fault.clone().on("GET", "*/blobs/*"));
        }
        for size in sizes {
            for sha512_too in [false, true] {
                seed += 1;
                let bytes = random(seed, size);
                let digest = if sha512_too {
                    sha512(&bytes)
                } else {
                    testkit::sha256(&bytes)
                };
                origin.push_blob_as("library/app", &digest, bytes.clone());
                let path = format!("/v2/library/app/blobs/{digest}");
                let case = format!("{size} bytes, {faults:?}, {digest}");
                let cold = testkit::http::get(gateway.url(1), None, &path);
                assert_eq!(
                    (cold.status(), cold.end.clone()),
                    (200, End::Complete),
                    "{case}"
                );
                assert!(cold.body == bytes, "{case}");
                // An empty body is whole before it is committed.
                until("the commit", || {
                    gateway
                        .log()
                        .contains(&format!("committed digest={digest}"))
                });
                let warm = h2.get(&format!("{}{path}", gateway.url(0)));
                assert_eq!((warm.status, &warm.broken), (200, &None), "{case}");
                assert!(warm.body == bytes, "{case}");
                assert_eq!(
                    warm.header("content-length"),
                    Some(&*size.to_string()),
                    "{case}"
                );
                assert_eq!(
                    warm.header("cache-status"),
                    Some("roadstead; hit"),
                    "{case}"
                );
                assert_eq!(origin.count("GET", &path), 1, "{case}");
            }
        }
    }
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
    // Four slots, of which one registry may have two.
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
    // Another registry has slots of its own.
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
    // A slot that is free again is taken.
    latch.release();
    for raw in &mut running {
        assert_eq!(raw.reply("GET").end, End::Complete);
    }
    assert_eq!(get(&digests[2]).reply("GET").end, End::Complete);
}

#[test]
fn bodies_without_room_pass_through_verified() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 1MiB}\n");
    let path = image.layer_path(0);
    for n in 1..=2 {
        let reply = testkit::http::get(gateway.url(1), None, &path);
        assert_eq!((reply.status(), reply.end.clone()), (200, End::Complete));
        assert!(reply.body == image.layer(0).1);
        let status = reply.header("cache-status").expect("a status").to_owned();
        assert!(status.contains("detail=no-room"), "{n}: {status}");
    }
    let mut raw = Raw::connect(gateway.url(1), None);
    for (range, from, to) in [("bytes=5-9", 5, 10), ("bytes=-7", SIZE - 7, SIZE)] {
        let part = raw.exchange("GET", &path, &[("Range", range)]);
        assert_eq!((part.status(), part.end.clone()), (206, End::Complete));
        assert!(part.body == image.layer(0).1[from..to]);
    }
    origin.fault(Fault::WrongByteAt(7).on("GET", "*/blobs/*"));
    let corrupt = testkit::http::get(gateway.url(1), None, &path);
    assert!(
        !corrupt.is_complete() && corrupt.body.len() <= SIZE - TAIL,
        "{}",
        corrupt.body.len()
    );
    assert_eq!(files(&gateway.store().join("blobs")), 0);
    assert_eq!(files(&gateway.store().join("partials")), 0);
}

/// The length that the client was told is the first answer's, the bytes are the second one's.
#[test]
fn pass_through_with_a_changed_length_is_cut_off() {
    for framing in [None, Some(Fault::Chunked)] {
        let origin = Origin::start();
        let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
        let short = image.layer(0).1[..SIZE / 2].to_vec();
        origin.fault(Fault::Body(short).on("GET", "*/blobs/*").times(1));
        if let Some(framing) = framing {
            origin.fault(framing.on("GET", "*/blobs/*").after(1));
        }
        let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 64KiB}\n");
        let reply = testkit::http::get(gateway.url(1), None, &image.layer_path(0));
        assert_eq!(origin.count("GET", "*/blobs/*"), 2);
        assert!(!reply.is_complete() || reply.status() >= 500, "{reply:?}");
    }
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
