//! `/api/v1/warm` and `roadstead warm`.

use super::*;
use testkit::origin::{Fault, Latch};
use testkit::{eventually, private_address, until};

/// Pulls everything of an image, all of it from the cache.
#[track_caller]
fn pull_offline(gateway: &Gateway, image: &Image) {
    let manifest = fetch(gateway, &image.tag_path());
    assert!(manifest.body == image.manifest, "{manifest:?}");
    for index in 0..image.blobs.len() {
        let blob = fetch(gateway, &image.blob_path(index));
        assert!(blob.body == image.blobs[index].1, "{blob:?}");
        assert_eq!(blob.header("cache-status"), Some("roadstead; hit"));
    }
}

#[test]
fn warmed_image_is_cached() {
    let origin = Origin::start();
    let layers = [random(1, 300_000), random(2, 70_000), random(3, 10)];
    let image = origin.push_image("library/app", "latest", &layers);
    let other = origin.push_image("me/tool", "1", &layers[..2]);
    let mut origin = origin;
    let gateway = Gateway::mirror("docker.io", &origin.url(), SOCKET);
    let bytes: usize = image.blobs.iter().map(|(_, bytes)| bytes.len()).sum();

    let warm = command(&gateway, &["warm", "app"]);
    assert_eq!(warm.status.code(), Some(0), "{warm:?}");
    let all = kib(bytes);
    assert_eq!(
        text(&warm.stdout),
        format!("app: 4 blobs, {all}; {all} fetched\n")
    );
    // Without a terminal it prints lines; the last one reports completion.
    let told = text(&warm.stderr);
    let last = told.lines().last().expect("a line");
    assert_eq!(
        last,
        format!("app  100 %  {all} of {all}, 4 of 4 blobs"),
        "{told}"
    );
    assert!(!told.contains('\r'), "{told}");

    // The second time nothing is fetched; of another image, only what they do not share.
    origin.clear_requests();
    let again = command(
        &gateway,
        &["warm", "docker.io/library/app:latest", "me/tool:1"],
    );
    assert_eq!(again.status.code(), Some(0), "{again:?}");
    let config = other.blobs[0].1.len();
    let second = kib(config + 370_000);
    assert_eq!(
        text(&again.stdout),
        format!(
            "docker.io/library/app:latest: 4 blobs, {all}; 0 B fetched\n\
             me/tool:1: 3 blobs, {second}; {config} B fetched\n\
             2 of 2 images are stored; {config} B fetched\n"
        )
    );
    assert_eq!(origin.count("GET", "*/blobs/*"), 1);

    origin.down();
    pull_offline(&gateway, &image);
    pull_offline(&gateway, &other);
}

#[test]
fn warm_fetches_the_requested_platforms() {
    let origin = Origin::start();
    let images = [
        origin.push_image("library/app", "amd64", &[random(1, 5000)]),
        origin.push_image("library/app", "arm64", &[random(2, 5000)]),
    ];
    let index = origin.push_index("library/app", "1", &[&images[0], &images[1]]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), SOCKET);
    let here = |image: &Image| {
        let manifest = fetch(&gateway, &image.digest_path());
        assert_eq!(manifest.status(), 200);
        manifest.header("cache-status") == Some("roadstead; hit")
    };
    let host = match std::env::consts::ARCH {
        "aarch64" => 1,
        _ => 0,
    };
    let warm = |more: &[&str]| {
        let arguments = [&["warm", "app:1"], more].concat();
        let output = command(&gateway, &arguments);
        let told = (text(&output.stdout), text(&output.stderr));
        (output.status.code(), told.0, told.1)
    };
    let (code, out, err) = warm(&[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.starts_with("app:1: 2 blobs, "), "{out}");
    assert_eq!(origin.count("GET", "*/blobs/*"), 2);
    assert!(here(&index) && here(&images[host]) && !here(&images[1 - host]));

    let (code, out, _) = warm(&["--platform", "linux/arm64/v8"]);
    let fetched = if host == 1 {
        "; 0 B fetched"
    } else {
        " KiB fetched"
    };
    assert!(
        code == Some(0) && out.trim_end().ends_with(fetched),
        "{out}"
    );
    let (code, out, _) = warm(&["--platform", "all"]);
    assert_eq!(code, Some(0), "{out}");
    assert!(out.starts_with("app:1: 4 blobs, "), "{out}");
    assert_eq!(origin.count("GET", "*/blobs/*"), 4);

    let (code, out, err) = warm(&["--platform", "windows/amd64"]);
    assert_eq!((code, &*out), (Some(1), ""));
    let words = "roadstead: app:1: it has no image for windows/amd64; there are: linux/amd64, linux/arm64\n";
    assert!(err.ends_with(words), "{err}");
}

/// An image that is not available does not prevent the warming of others.
#[test]
fn warm_reports_failures_and_continues() {
    let (origin, _, gateway) = scene(1000, SOCKET);
    let broken = origin.push_image("library/broken", "1", &[random(5, 1000)]);
    origin.fault(Fault::status(403).on("GET", &format!("*{}", broken.layer(0).0)));
    let output = command(
        &gateway,
        &["warm", "app", "nothing:1", "broken:1", "app:absent"],
    );
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(out.starts_with("app: 2 blobs, "), "{out}");
    assert!(
        out.lines()
            .last()
            .is_some_and(|line| line.starts_with("1 of 4 images are stored; ")),
        "{out}"
    );
    for words in [
        "roadstead: nothing:1: the manifest is unknown to the registry",
        "roadstead: broken:1: denied by the upstream registry: it refused the gateway's account",
        "roadstead: app:absent: the manifest is unknown to the registry",
    ] {
        assert!(
            err.lines().any(|line| line.starts_with(words)),
            "{words}: {err}"
        );
    }
}

#[test]
fn warm_refuses_invalid_images() {
    let (_origin, _, mut gateway) = scene(1, SOCKET);
    for (arguments, words) in [
        (&["warm", "Not A Name"][..], "roadstead: "),
        (
            &["warm", "app", "docker.io"],
            "docker.io is no image; write [registry/]repository[:tag|@digest]",
        ),
        (&["warm", "app@sha256:00"], "[registry/]repository"),
        (&["warm"], "<IMAGE>..."),
        (
            &["warm", "app", "--platform", "linux"],
            "write os/architecture, as in linux/amd64",
        ),
    ] {
        let output = command(&gateway, arguments);
        let told = text(&output.stderr);
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(2), 0),
            "{told}"
        );
        assert!(told.contains(words), "{arguments:?}: {told}");
    }
    gateway.terminate();
    let output = command(&gateway, &["warm", "app", "me/tool"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{told}");
    assert_eq!(told.matches("is the gateway running?").count(), 1, "{told}");
    // The API validates requests, whatever the command sent.
    let (_origin, _, gateway) = scene(1, ANYWHERE);
    for json in [
        r#"{"image": "docker.io"}"#,
        r#"{"image": "app", "platform": "x"}"#,
        r#"{"image": "app", "platfrom": "all"}"#,
        "{}",
        "no",
    ] {
        let reply = act(&gateway, "/api/v1/warm", json);
        assert_eq!(reply.status(), 400, "{json}: {reply:?}");
    }
}

/// A registry that asks clients to wait is obeyed, and the operator is informed.
#[test]
fn warm_waits_for_busy_registries() {
    let (origin, image, gateway) = scene(1000, SOCKET);
    origin.fault(
        Fault::status_with(429, "Retry-After", "1")
            .on("*", "*/manifests/*")
            .times(1),
    );
    let output = command(&gateway, &["warm", "app"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(
        told.contains("; waiting: the upstream registry limits requests; try again later\n"),
        "{told}"
    );
    pull_offline(&gateway, &image);
}

/// Blobs are fetched concurrently, in one fill with other clients, and continue after the command has left.
#[test]
fn progress_is_lines_of_json() {
    let origin = Origin::start();
    let layers = [random(1, 600_000), random(2, 600_000)];
    let image = origin.push_image("library/app", "latest", &layers);
    let gateway = Gateway::mirror("docker.io", &origin.url(), ANYWHERE);
    let latch = Latch::new();
    for index in 0..2 {
        let pause = Fault::PauseAt(300_000, latch.clone());
        origin.fault(pause.on("GET", &format!("*{}", image.layer(index).0)));
    }
    let mut listening = Raw::connect(gateway.operators("admin.address"), None);
    let json = r#"{"image": "app", "platform": "all"}"#;
    listening.send(format!(
        "POST /api/v1/warm HTTP/1.1\r\nHost: localhost\r\nX-Roadstead-Request: 1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{json}",
        json.len()
    ));
    let head = listening.read_head().expect("an answer");
    assert_eq!(head.header("content-type"), Some("application/x-ndjson"));
    let mut read = Vec::new();
    let both = eventually("both layers half here", || {
        read.extend(listening.read_some(1 << 16).expect("lines"));
        let told = String::from_utf8_lossy(&read).into_owned();
        let lines = told
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.into_iter().find(|line| {
            let in_flight = line["in_flight"].as_array().map_or(&[][..], Vec::as_slice);
            let half =
                |blob: &&serde_json::Value| blob["bytes"].as_u64().is_some_and(|it| it >= 200_000);
            in_flight.iter().filter(half).count() == 2
        })
    });
    assert_eq!(both["blobs_total"], 3);
    // The configuration may be listed too.
    let sizes = both["in_flight"].as_array().into_iter().flatten();
    let halves = sizes.filter(|blob| blob["size_bytes"] == 600_000).count();
    assert_eq!(halves, 2, "{both}");
    assert!(both["done"].is_null());
    drop(listening);
    latch.release();
    until("both layers whole", || {
        let stored = |index: usize| fetch(&gateway, &image.layer_path(index));
        (0..2).all(|index| stored(index).body == layers[index])
    });
    assert_eq!(origin.count("GET", "*/blobs/*"), 3);
}

#[test]
fn warm_refuses_uncached_registries() {
    let origin = Origin::start();
    origin.push_image("app", "1", &[random(1, 100)]);
    let address = private_address();
    let gateway = Gateway::start(&format!(
        "registries:
- {{name: retained, v2: \"{0}\", default: true}}
- {{name: passed, v2: \"{0}\", cache: false, push: true}}
- {{name: asked, v2: \"{0}\", visibility: caller, hosts: [asked.example]}}
admin: {{address: \"{address}\"}}
",
        origin.url()
    ));
    for (image, code, words) in [
        ("app:1", 0, ""),
        (
            "passed/app:1",
            2,
            "passed has `cache: false`: its content is not stored",
        ),
        (
            "asked/app:1",
            1,
            "visibility: caller; only a client's own login can pull it",
        ),
    ] {
        let output = command(&gateway, &["warm", image]);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{image}: {told}");
        assert!(told.contains(words), "{image}: {told}");
    }
}
