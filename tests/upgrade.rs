//! Upgrades: a new process takes over, and no client notices.

mod events;
mod failures;
mod writes;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use testkit::gateway::Gateway;
use testkit::http::{Raw, Web, get};
use testkit::image::random;
use testkit::origin::{Fault, Latch, MEDIA_MANIFEST, Origin};
use testkit::{sha256, until};

/// The commands reach the gateway by a socket file.
const ADMIN: &str = "admin: {address: \"unix:admin.sock\"}\n";
/// What the kernels may have of a connection that ends, in bytes.
const IN_FLIGHT: u64 = 1 << 20;
/// The size of a layer, from which a download leaves a partial.
const SIZE: usize = 3 << 20;

fn yaml(origin: &Origin, more: &str) -> String {
    let url = origin.url();
    format!("registries: [{{name: docker.io, v2: \"{url}\"}}]\n{ADMIN}{more}")
}

fn scene(more: &str) -> (Origin, testkit::origin::Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
    let gateway = Gateway::start(&yaml(&origin, more));
    (origin, image, gateway)
}

/// The gateway refuses, and goes on.
#[track_caller]
fn refused(gateway: &Gateway, code: i32) -> String {
    let output = gateway.roadstead(&["upgrade"]);
    assert_eq!(output.status.code(), Some(code));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn new_process_serves_at_the_same_addresses() {
    let (origin, image, mut gateway) = scene("");
    let path = image.layer_path(0);
    assert!(get(gateway.url(1), None, &path).is_complete());
    let first = gateway.pid();
    let mut idle = Raw::connect(gateway.url(1), None);
    assert_eq!(idle.get("/v2/").status(), 200);
    gateway.upgrade();
    assert_ne!(gateway.pid(), first);
    let reply = get(gateway.url(1), None, &path);
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    assert_eq!(origin.count("GET", "*/blobs/*"), 1, "the store is the same");
    // A connection that was idle is answered once more, by the process that it was opened to.
    let last = idle.get(&path);
    assert_eq!(
        (last.status(), last.header("connection")),
        (200, Some("close"))
    );
    until("the old process ends", || {
        gateway.process().first_has_ended()
    });
    assert!(gateway.roadstead(&["stats"]).status.success());
    assert!(gateway.dir().join("admin.sock").exists());
    assert!(gateway.terminate().success());
    assert!(!gateway.dir().join("admin.sock").exists());
}

#[test]
fn download_goes_on_in_the_new_process() {
    let (origin, image, mut gateway) = scene("");
    let half = SIZE as u64 / 2;
    let latch = Latch::new();
    let pause = Fault::PauseAt(half, latch.clone());
    let pause = origin.fault(pause.on("GET", "*/blobs/*"));
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &image.layer_path(0), &[]);
    let head = client.read_head().expect("a head");
    assert_eq!(head.length(), Some(SIZE as u64));
    let mut body = client.read_exactly(half);
    origin.heal(pause);
    gateway.upgrade();
    // A client of the new process joins the same download.
    let joined = get(gateway.url(1), None, &image.layer_path(0));
    assert!(joined.is_complete() && joined.body == image.layer(0).1);
    body.extend(client.read_exactly(half));
    assert!(body == image.layer(0).1);
    let ranges = origin.requests().into_iter();
    let ranges = ranges.filter(|request| request.path == image.layer_path(0));
    let ranges: Vec<_> = ranges
        .filter(|request| request.method == "GET")
        .map(|request| request.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some(format!("bytes={half}-"))]);
    drop(latch);
}

#[test]
fn old_process_goes_on_where_the_new_one_cannot_start() {
    let (origin, image, mut gateway) = scene("");
    let pid = gateway.pid();
    gateway.write_config("acess: off\n");
    let error = refused(&gateway, 78);
    assert!(error.contains("acess"), "{error}");
    gateway.signal(rustix::process::Signal::USR2);
    until("the new process has refused the file", || {
        let log = gateway.log();
        log.contains("not upgraded") && log.contains("the configuration has faults")
    });
    // Its address is another program's.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let listen = format!("listen: [{{address: \"127.0.0.1:{port}\"}}]\n");
    gateway.write_config(&yaml(&origin, &listen));
    let error = refused(&gateway, 1);
    assert!(error.contains("another program listens there"), "{error}");
    assert_eq!(gateway.pid(), pid);
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    gateway.write_config(&yaml(&origin, ""));
    gateway.upgrade();
    assert!(get(gateway.url(1), None, &image.layer_path(0)).is_complete());
}

/// A reader of the first process, whose download is the third's in the end.
#[test]
fn download_goes_on_through_two_upgrades() {
    let (origin, image, mut gateway) = scene("");
    let third = SIZE as u64 / 3;
    let path = image.layer_path(0);
    // The first two responses stop after a third of the blob.
    let latches = [0, 1].map(|number| {
        let latch = Latch::new();
        let pause = Fault::PauseAt(third, latch.clone()).on("GET", "*/blobs/*");
        origin.fault(pause.after(number).times(1));
        latch
    });
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &path, &[]);
    client.read_head().expect("a head");
    let mut body = client.read_exactly(third);
    latches[0].wait_reached(1);
    gateway.upgrade();
    // What the second process has fetched, its predecessor's client gets.
    body.extend(client.read_exactly(third - (64 << 10)));
    latches[1].wait_reached(1);
    gateway.upgrade();
    let left = SIZE as u64 - body.len() as u64;
    body.extend(client.read_exactly(left));
    assert!(body == image.layer(0).1);
    let joined = get(gateway.url(1), None, &path);
    assert!(joined.is_complete() && joined.body == image.layer(0).1);
    assert_eq!(
        origin.count("GET", "*/blobs/*"),
        3,
        "a part for each process"
    );
}

/// The process that has taken over is killed while its predecessor still has a client.
#[test]
fn client_of_the_old_process_survives_the_new_one() {
    let (origin, image, mut gateway) = scene("");
    let half = SIZE as u64 / 2;
    let latch = Latch::new();
    let pause = origin.fault(Fault::PauseAt(half, latch.clone()).on("GET", "*/blobs/*"));
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &image.layer_path(0), &[]);
    client.read_head().expect("a head");
    let mut body = client.read_exactly(half);
    gateway.upgrade();
    latch.wait_reached(2);
    origin.heal(pause);
    gateway.signal(rustix::process::Signal::KILL);
    // Without the store, what its client misses passes through.
    body.extend(client.read_exactly(SIZE as u64 - half));
    assert!(body == image.layer(0).1);
    drop(client);
    until("the old process ends", || {
        gateway.process().first_has_ended()
    });
}

/// A new process that has the lock of the store, and cannot open it.
#[test]
fn old_process_takes_the_store_back() {
    let (origin, image, mut gateway) = scene("");
    let half = SIZE as u64 / 2;
    let latch = Latch::new();
    origin.fault(
        Fault::PauseAt(half, latch.clone())
            .on("GET", "*/blobs/*")
            .times(1),
    );
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &image.layer_path(0), &[]);
    client.read_head().expect("a head");
    let mut body = client.read_exactly(half);
    let version = gateway.store().join("VERSION");
    let known = std::fs::read(&version).expect("readable");
    std::fs::write(&version, "7\n").expect("writable");
    let error = refused(&gateway, 1);
    assert!(error.contains("layout version \"7\""), "{error}");
    std::fs::write(&version, known).expect("writable");
    // The download goes on where it was.
    body.extend(client.read_exactly(half));
    assert!(body == image.layer(0).1);
    until("the blob is stored", || {
        let reply = get(gateway.url(1), None, &image.layer_path(0));
        assert!(reply.is_complete() && reply.body == image.layer(0).1);
        origin.count("GET", "*/blobs/*") == 2
    });
    gateway.upgrade();
    assert!(get(gateway.url(1), None, &image.layer_path(0)).is_complete());
    assert_eq!(origin.count("GET", "*/blobs/*"), 2);
}

#[test]
fn signal_upgrades() {
    let (_origin, image, mut gateway) = scene("");
    let first = gateway.pid();
    gateway.signal(rustix::process::Signal::USR2);
    until("the first process ends", || {
        gateway.process().first_has_ended()
    });
    let children = gateway.log();
    let started = children.split("process=").nth(1).expect("a process");
    let pid = started.split(|c: char| !c.is_ascii_digit()).next();
    let pid = pid.and_then(|pid| pid.parse().ok()).expect("a number");
    assert_ne!(pid, first);
    gateway.process().succeeded_by(pid);
    let reply = get(gateway.url(1), None, &image.layer_path(0));
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
}

/// Pulls and pushes over both versions of HTTP, in loops, through five upgrades.
#[test]
fn five_upgrades_lose_no_request() {
    let origin = Origin::start();
    origin.take_pushes();
    let warm = origin.push_image("team/app", "latest", &[random(1, SIZE)]);
    let cold: Vec<String> = (0..400)
        .map(|number| origin.push_blob("team/app", random(1000 + number, 1_200_000)))
        .collect();
    // Slow enough that downloads are in progress whenever a process takes over.
    origin.fault(Fault::Throttle(2 << 20).on("GET", "*/blobs/*"));
    let url = origin.url();
    let yaml = format!(
        "registries: [{{name: hosted, v2: \"{url}\", push: true}}]\n{ADMIN}limits: {{drain: 30s}}\n\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, push]}}]}}\n"
    );
    let mut gateway = Gateway::start(&yaml);
    let (base, ca) = (gateway.url(0).to_owned(), gateway.ca_path());
    let (is_over, requests, next) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let fetch = |web: &Web, path: &str, headers: &[(&str, &str)]| {
        let fetched = web.fetch("GET", &format!("{base}{path}"), headers);
        assert_eq!(fetched.broken, None, "{path}");
        requests.fetch_add(1, Ordering::Relaxed);
        fetched
    };
    let pull_warm = |web: &Web| {
        assert_eq!(fetch(web, &warm.tag_path(), &[]).body, warm.manifest);
        assert!(fetch(web, &warm.layer_path(0), &[]).body == warm.layer(0).1);
    };
    let pull_cold = |web: &Web| {
        let number = next.fetch_add(1, Ordering::Relaxed) % cold.len();
        let digest = &cold[number];
        let fetched = fetch(web, &format!("/v2/team/app/blobs/{digest}"), &[]);
        assert_eq!(
            (fetched.status, sha256(&fetched.body)),
            (200, digest.clone())
        );
    };
    let pull_range = |web: &Web| {
        let number = next.fetch_add(1, Ordering::Relaxed) % cold.len();
        let path = format!("/v2/team/app/blobs/{}", cold[number]);
        let part = fetch(web, &path, &[("Range", "bytes=600000-700000")]);
        let whole = random(1000 + number as u64, 1_200_000);
        assert_eq!(part.status, 206, "{:?}", part.headers);
        assert!(part.body == whole[600_000..=700_000]);
    };
    let push = |web: &Web| {
        let body = random(fastrand::u64(..), 300_000);
        let send = |method: reqwest::Method, path: &str, kind: &str, body: Vec<u8>| {
            let url = if path.starts_with("http") {
                path.to_owned()
            } else {
                format!("{base}{path}")
            };
            let request = web.client().request(method, url);
            let request = request.header("Content-Type", kind).body(body).send();
            let answer = testkit::http::block_on(request);
            let answer =
                answer.unwrap_or_else(|error| panic!("{path}: {}", testkit::http::chain(&error)));
            requests.fetch_add(1, Ordering::Relaxed);
            answer
        };
        let digest = sha256(&body);
        let upload = send(
            reqwest::Method::POST,
            "/v2/team/app/blobs/uploads/",
            "",
            Vec::new(),
        );
        assert_eq!(upload.status(), 202);
        let location = upload.headers()["location"]
            .to_str()
            .expect("text")
            .to_owned();
        let joined = if location.contains('?') { '&' } else { '?' };
        let finish = format!("{location}{joined}digest={digest}");
        let put = send(
            reqwest::Method::PUT,
            &finish,
            "application/octet-stream",
            body.clone(),
        );
        assert_eq!(put.status(), 201);
        // The next pull of a tag finds what was pushed, whichever process took it.
        let tag = format!("/v2/team/app/manifests/t{}", fastrand::u32(..8));
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": MEDIA_MANIFEST,
            "config": {"mediaType": "application/octet-stream", "size": body.len(), "digest": digest},
            "layers": [],
        });
        let manifest = manifest.to_string().into_bytes();
        let put = send(reqwest::Method::PUT, &tag, MEDIA_MANIFEST, manifest);
        assert_eq!(put.status(), 201);
    };
    let tasks: [&(dyn Fn(&Web) + Sync); 4] = [&pull_warm, &pull_cold, &pull_range, &push];
    let processes = std::thread::scope(|scope| {
        for task in tasks {
            for web in [Web::h1(Some(&ca)), Web::h2(Some(&ca))] {
                let is_over = &is_over;
                scope.spawn(move || {
                    let _runtime = testkit::http::runtime().enter();
                    while !is_over.load(Ordering::Relaxed) {
                        task(&web);
                    }
                });
            }
        }
        let mut processes = vec![gateway.pid()];
        for _ in 0..5 {
            let so_far = requests.load(Ordering::Relaxed);
            until("requests are answered", || {
                requests.load(Ordering::Relaxed) > so_far + 100
            });
            gateway.upgrade();
            processes.push(gateway.pid());
        }
        let so_far = requests.load(Ordering::Relaxed);
        until("the last process answers", || {
            requests.load(Ordering::Relaxed) > so_far + 100
        });
        is_over.store(true, Ordering::Relaxed);
        processes
    });
    let total = requests.load(Ordering::Relaxed);
    println!("{total} requests through the processes {processes:?}");
    // Each blob crossed the line once, whichever process fetched it, but for what was on its way at the handover.
    let size = 1_200_000;
    for (number, digest) in cold.iter().enumerate().take(next.load(Ordering::Relaxed)) {
        let sent = origin.bytes_sent(&format!("/v2/team/app/blobs/{digest}"));
        assert!(sent <= size + IN_FLIGHT, "blob {number}: {sent} bytes");
    }
}
