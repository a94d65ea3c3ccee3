//! What the API tells of the cache: repositories, tags, manifests, the configuration, and the history of the traffic.

use serde_json::json;

use super::*;

#[test]
fn repositories_are_listed_searched_and_sorted() {
    let origin = Origin::start();
    let gateway = Gateway::mirror("docker.io", &origin.url(), ANYWHERE);
    for (seed, size) in [
        (1, 10_000_usize),
        (2, 300_000),
        (3, 20_000),
        (4, 5000),
        (5, 1000),
    ] {
        let name = format!("team/app-{seed}");
        let image = origin.push_image(&name, "1", &[random(seed, size)]);
        pull(&gateway, &image);
    }
    for _ in 0..3 {
        assert_eq!(fetch(&gateway, "/v2/team/app-4/manifests/1").status(), 200);
    }
    metrics_after(&gateway, "manifest", 8);
    let mut seen = Vec::new();
    let mut path = "/api/v1/repositories?limit=2".to_owned();
    loop {
        let page = read(&gateway, &path);
        assert_eq!(page["total"], 5);
        seen.extend(members(&page, "repository"));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!(
            "/api/v1/repositories?limit=2&after={}",
            next.replace(' ', "+")
        );
    }
    let all: Vec<String> = (1..=5).map(|n| format!("team/app-{n}")).collect();
    assert_eq!(seen, all);
    let names = |query: &str| {
        members(
            &read(&gateway, &format!("/api/v1/repositories?{query}")),
            "repository",
        )
    };
    assert_eq!(names("q=APP-2+team"), ["team/app-2"]);
    assert_eq!(names("q=nothing"), Vec::<String>::new());
    assert_eq!(names("registry=ghcr.io"), Vec::<String>::new());
    assert_eq!(names("sort=size&limit=2"), ["team/app-2", "team/app-3"]);
    assert_eq!(names("sort=pulls&limit=1"), ["team/app-4"]);
    assert_eq!(names("sort=recent").len(), 5);
    let row = &read(&gateway, "/api/v1/repositories?q=app-4")["items"][0];
    assert_eq!(
        (&row["tags"], &row["manifests"], &row["pulls"]),
        (&1.into(), &1.into(), &4.into())
    );
    assert!(row["cached_bytes"].as_u64() > Some(5000), "{row}");

    let purged = act(
        &gateway,
        "/api/v1/purge",
        r#"{"target": "docker.io/team/app-2"}"#,
    );
    assert_eq!(purged.status(), 200);
    assert_eq!(names("q=app-2"), Vec::<String>::new());
    assert_eq!(names("sort=size&limit=1"), ["team/app-3"]);
}

#[test]
fn tags_lead_to_platforms_and_layers() {
    let (origin, image, gateway) = scene(100_000, ANYWHERE);
    let index = origin.push_index("library/app", "index", &[&image]);
    for path in [index.tag_path(), image.tag_path(), image.blob_path(0)] {
        assert_eq!(fetch(&gateway, &path).status(), 200);
    }
    let of = "registry=docker.io&repository=library/app";
    let tags = read(&gateway, &format!("/api/v1/tags?{of}"));
    assert_eq!(members(&tags, "tag"), ["index", "latest"]);
    assert_eq!(tags["items"][1]["digest"], image.digest);
    assert_eq!(tags["items"][1]["state"], "fresh");
    let first = read(&gateway, &format!("/api/v1/tags?{of}&limit=1"));
    assert_eq!(
        (&first["next"], &first["total"]),
        (&"index".into(), &2.into())
    );
    let second = read(&gateway, &format!("/api/v1/tags?{of}&limit=1&after=index"));
    assert_eq!(
        (members(&second, "tag"), &second["next"]),
        (vec!["latest".to_owned()], &Value::Null)
    );
    assert_eq!(
        members(&read(&gateway, &format!("/api/v1/tags?{of}&q=LAT")), "tag"),
        ["latest"]
    );

    let requests = origin.count("*", "*");
    let found = read(&gateway, &format!("/api/v1/manifest?{of}&reference=index"));
    assert_eq!(
        (&found["digest"], &found["images_total"]),
        (&index.digest.as_str().into(), &1.into())
    );
    let listed = &found["images"][0];
    assert_eq!(
        (&listed["digest"], &listed["state"]),
        (&image.digest.as_str().into(), &"present".into())
    );
    assert_eq!(listed["config"]["state"], "present");
    let layer = &listed["layers"][0];
    assert_eq!(
        (&layer["digest"], &layer["size_bytes"]),
        (&image.layer(0).0.as_str().into(), &100_000.into())
    );
    assert_eq!(
        (&layer["state"], &layer["cached_bytes"]),
        (&"missing".into(), &0.into())
    );
    assert_eq!(listed["total_bytes"], 100_000 + image.blobs[0].1.len());
    assert_eq!(listed["cached_bytes"], image.blobs[0].1.len());
    let by_digest = read(
        &gateway,
        &format!("/api/v1/manifest?{of}&reference={}", image.digest),
    );
    assert_eq!(by_digest["tags"], json!(["latest"]));
    let command = by_digest["pull_commands"][0]["command"]
        .as_str()
        .expect("a command");
    let name = format!("/docker.io/library/app@{}", image.digest);
    assert!(
        command.starts_with("docker pull ") && command.ends_with(&name),
        "{command}"
    );
    assert_eq!(
        origin.count("*", "*"),
        requests,
        "nothing is asked upstream"
    );
}

/// Looking at content is no use of it.
#[test]
fn reads_do_not_change_the_order_of_eviction() {
    let (origin, image, gateway) = scene(1000, ANYWHERE);
    let other = origin.push_image("library/other", "latest", &[random(7, 1000)]);
    pull(&gateway, &image);
    pull(&gateway, &other);
    let queue = || members(&read(&gateway, "/api/v1/eviction-queue"), "digest");
    // The pulls are noted behind their responses. Reads that were uses would move one image behind the other.
    until("reads leave the order as it is", || {
        ["library/app", "library/other"].into_iter().all(|name| {
            let before = queue();
            let of = format!("registry=docker.io&repository={name}");
            for path in [
                format!("/api/v1/tags?{of}"),
                format!("/api/v1/manifest?{of}&reference=latest"),
                "/api/v1/repositories?sort=size".to_owned(),
            ] {
                read(&gateway, &path);
            }
            before.len() == 6 && queue() == before
        })
    });
}

#[test]
fn configuration_is_the_one_in_force_without_secrets() {
    let origin = Origin::start();
    let yaml = format!(
        "registries: [{{name: docker.io, v2: \"{}\", visibility: public, \
         credentials: {{username: spy-7, password: open-sesame}}}}]\n{SOCKET}store: {{tag_ttl: 7m}}\n",
        origin.url()
    );
    let gateway = Gateway::start(&yaml);
    let told = read(&gateway, "/api/v1/config");
    let served = told["yaml"].as_str().expect("a text");
    let printed = command(&gateway, &["config"]);
    assert_eq!(printed.status.code(), Some(0), "{printed:?}");
    assert_eq!(text(&printed.stdout), served);
    for part in [
        "tag_ttl: 7m\n",
        "missing_ttl: 10s  # default\n",
        "username: spy-7\n",
        "password: \"********\"\n",
    ] {
        assert!(served.contains(part), "{part} in\n{served}");
    }
    assert!(!served.contains("sesame"), "{served}");
    assert!(
        told["path"]
            .as_str()
            .is_some_and(|path| path.ends_with("roadstead.yaml"))
    );
}

#[test]
fn traffic_survives_a_restart() {
    let (_origin, image, mut gateway) = scene(100_000, ANYWHERE);
    pull(&gateway, &image);
    pull(&gateway, &image);
    metrics_after(&gateway, "blob", 4);
    let sum = |gateway: &Gateway, window: &str, name: &str| -> u64 {
        let series = read(gateway, &format!("/api/v1/traffic?window={window}"));
        let points = series["points"].as_array().expect("points").iter();
        points
            .map(|point| point[name].as_u64().expect("a number"))
            .sum()
    };
    let fetched = sum(&gateway, "hour", "fetched_bytes");
    assert!(fetched > 100_000, "{fetched}");
    assert_eq!(gateway.terminate().code(), Some(0));
    gateway.restart();
    let overview = read(&gateway, "/api/v1/overview");
    assert_eq!(overview["blobs"]["requests"], 0, "counters begin anew");
    for window in ["hour", "day"] {
        assert_eq!(sum(&gateway, window, "requests"), 6, "{window}");
        assert_eq!(sum(&gateway, window, "fetched_bytes"), fetched, "{window}");
        assert_eq!(overview["traffic"][window]["hits"], 3, "{window}");
    }
    // A broken file costs the history, not the start.
    gateway.kill();
    let file = gateway.store().join("state/traffic.json");
    std::fs::write(&file, "{").expect("writable");
    gateway.restart();
    assert_eq!(sum(&gateway, "hour", "requests"), 0);
    assert_eq!(take_aside(&gateway, "traffic.json"), [b"{"]);
}

/// However many layers the images of an index have, an answer lists a bounded number of blobs.
#[test]
fn manifest_lists_a_bounded_number_of_blobs() {
    use testkit::origin::{MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST};

    const LAYERS: u64 = 150;
    let (origin, _, gateway) = scene(1, ANYWHERE);
    let layer = |image: u64, number: u64| {
        let digest = testkit::sha256(&(image * LAYERS + number).to_le_bytes());
        json!({"mediaType": MEDIA_LAYER, "digest": digest, "size": 7})
    };
    let images: Vec<Value> = (0..20)
        .map(|image| {
            let layers: Vec<Value> = (0..LAYERS).map(|number| layer(image, number)).collect();
            let manifest =
                json!({"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "layers": layers});
            let bytes = manifest.to_string();
            let size = bytes.len();
            let digest = origin.push_manifest("library/app", None, MEDIA_MANIFEST, bytes);
            json!({"mediaType": MEDIA_MANIFEST, "digest": digest, "size": size})
        })
        .collect();
    let index = json!({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": images});
    origin.push_manifest("library/app", Some("many"), MEDIA_INDEX, index.to_string());
    for image in &images {
        let digest = image["digest"].as_str().expect("a digest");
        let path = format!("/v2/library/app/manifests/{digest}");
        assert_eq!(fetch(&gateway, &path).status(), 200, "{path}");
    }
    let tag = "/v2/library/app/manifests/many";
    assert_eq!(fetch(&gateway, tag).status(), 200);
    let path = "/api/v1/manifest?registry=docker.io&repository=library/app&reference=many";
    let told = read(&gateway, path);
    let listed = told["images"].as_array().expect("images");
    assert_eq!((listed.len(), &told["images_total"]), (20, &json!(20)));
    let layers = |image: &Value| image["layers"].as_array().expect("layers").len();
    assert_eq!(listed.iter().map(layers).sum::<usize>(), 2000);
    assert_eq!(listed[0]["total_bytes"], 7 * LAYERS);
    assert_eq!(listed[19]["total_bytes"], Value::Null);
}
