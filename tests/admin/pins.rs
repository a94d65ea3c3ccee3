//! Pinned images: they are not evicted, survive a restart, and end with a purge.

use super::*;
use testkit::until;

/// Room for one layer and a half.
const SMALL: &str = "store: {max_size: 1MiB}\n";

#[track_caller]
fn pin(gateway: &Gateway, image: &str) -> Value {
    let reply = act(
        gateway,
        "/api/v1/pins",
        &format!("{{\"image\": \"{image}\"}}"),
    );
    assert_eq!(reply.status(), 200, "{reply:?}");
    serde_json::from_slice(&reply.body).expect("JSON")
}

#[track_caller]
fn unpin(gateway: &Gateway, image: &str) -> u16 {
    let mut raw = Raw::connect(gateway.operators("admin.address"), None);
    let path = format!("/api/v1/pins?image={image}");
    let headers = [("X-Roadstead-Request", "1")];
    raw.exchange("DELETE", &path, &headers).status()
}

fn pinned(gateway: &Gateway) -> Vec<String> {
    members(&read(gateway, "/api/v1/pins"), "image")
}

#[test]
fn pinned_images_stay_in_a_full_store() {
    let (origin, image, mut gateway) = scene(400 << 10, &format!("{ANYWHERE}{SMALL}"));
    pull(&gateway, &image);
    let name = "docker.io/library/app:latest";
    let size = (400 << 10) + image.blobs[0].1.len() + image.manifest.len();
    let told = pin(&gateway, "app");
    assert_eq!(told["image"], name);
    assert_eq!(
        (&told["total_bytes"], &told["cached_bytes"]),
        (&size.into(), &size.into())
    );
    assert_eq!(
        read(&gateway, "/api/v1/overview")["store"]["pinned_bytes"],
        size
    );

    // Whatever is pulled, before and after a restart.
    for seed in 0..4 {
        let other = origin.push_blob("library/app", random(seed + 2, 400 << 10));
        let path = format!("/v2/library/app/blobs/{other}");
        assert_eq!(fetch(&gateway, &path).status(), 200);
        if seed == 1 {
            gateway.restart();
            assert_eq!(pinned(&gateway), [name]);
        }
    }
    until("the layers that are not pinned to make room", || {
        Metrics::of(&gateway).get("roadstead_store_evicted_total") > 0
    });
    for path in [image.tag_path(), image.blob_path(0), image.layer_path(0)] {
        assert!(fate(&gateway, &path).starts_with("hit"), "{path}");
    }
    let queue = members(&read(&gateway, "/api/v1/eviction-queue"), "digest");
    assert!(!queue.contains(&image.layer(0).0), "{queue:?}");
    let repositories = read(&gateway, "/api/v1/repositories");
    assert_eq!(repositories["items"][0]["pinned"], true);

    assert_eq!(unpin(&gateway, name), 204);
    assert_eq!(unpin(&gateway, name), 404);
    let queue = members(&read(&gateway, "/api/v1/eviction-queue"), "digest");
    assert!(queue.contains(&image.layer(0).0), "{queue:?}");
    assert_eq!(
        read(&gateway, "/api/v1/overview")["store"]["pinned_bytes"],
        0
    );
}

#[test]
fn unused_pinned_images_are_not_swept() {
    let more = format!("{ANYWHERE}store: {{unused_ttl: 8s}}\n");
    let (origin, image, gateway) = scene(1000, &more);
    let other = origin.push_image("library/other", "latest", &[random(7, 1000)]);
    pull(&gateway, &image);
    pull(&gateway, &other);
    pin(&gateway, "app");
    let minute = Duration::from_secs(60);
    testkit::eventually_within(minute, "what is not pinned to be swept", || {
        let objects = Metrics::of(&gateway).get("roadstead_store_objects");
        (objects <= 3).then_some(())
    });
    let queue = members(&read(&gateway, "/api/v1/eviction-queue"), "digest");
    assert_eq!(queue, Vec::<String>::new(), "only what is pinned is left");
    for path in [image.tag_path(), image.blob_path(0), image.layer_path(0)] {
        assert!(fate(&gateway, &path).starts_with("hit"), "{path}");
    }
}

#[test]
fn purge_ends_the_pin() {
    let (_origin, image, gateway) = scene(1000, ANYWHERE);
    pull(&gateway, &image);
    let by_digest = format!("docker.io/library/app@{}", image.digest);
    pin(&gateway, "app:latest");
    pin(&gateway, &by_digest);
    let tag = "docker.io/library/app:latest".to_owned();
    assert_eq!(pinned(&gateway), [tag, by_digest.clone()]);
    let purge = |target: &str| {
        let reply = act(
            &gateway,
            "/api/v1/purge",
            &format!("{{\"target\": \"{target}\"}}"),
        );
        assert_eq!(reply.status(), 200, "{reply:?}");
    };
    purge("app:latest");
    assert_eq!(pinned(&gateway), [by_digest]);
    purge("docker.io");
    assert_eq!(pinned(&gateway), Vec::<String>::new());
    // What was held is free.
    Metrics::of(&gateway).assert(&[("roadstead_store_objects", 0), ("roadstead_store_bytes", 0)]);
}

/// Whatever is in the file, the gateway starts, and no later list replaces it.
#[test]
fn damaged_list_is_moved_aside() {
    let (_origin, image, mut gateway) = scene(1000, ANYWHERE);
    pull(&gateway, &image);
    pin(&gateway, "app");
    let name = "docker.io/library/app:latest";
    let file = gateway.store().join("state/pins.json");
    let whole = std::fs::read_to_string(&file).expect("a list");
    let deep = "[".repeat(100_000);
    for damage in ["", "{", "null", &whole[..whole.len() - 5], &deep] {
        gateway.kill();
        std::fs::write(&file, damage).expect("writable");
        gateway.restart();
        assert_eq!(pinned(&gateway), Vec::<String>::new());
        assert_eq!(take_aside(&gateway, "pins.json"), [damage.as_bytes()]);
        assert!(!file.exists());
        pin(&gateway, "app");
        assert_eq!(pinned(&gateway), [name]);
    }
    // A line of the log for each.
    let log = gateway.log();
    let said = log.matches("a state file is damaged").count();
    assert_eq!(said, 5, "{log}");
    // The entries that are right are used.
    gateway.kill();
    let entry = r#"{"registry": "docker.io", "repository": "No Name", "reference": "1", "pinned_at": "", "note": ""}"#;
    let mixed = whole.replacen('[', &format!("[{entry},"), 1);
    std::fs::write(&file, &mixed).expect("writable");
    for _ in 0..2 {
        gateway.restart();
        assert_eq!(pinned(&gateway), [name]);
    }
    assert_eq!(take_aside(&gateway, "pins.json"), [mixed.as_bytes()]);
}

#[test]
fn commands_pin_list_and_unpin() {
    let address = testkit::private_address();
    let (_origin, image, gateway) = scene(1 << 20, &format!("admin: {{address: \"{address}\"}}\n"));
    let said = |arguments: &[&str]| {
        let output = gateway.roadstead(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        )
    };
    let (code, _, error) = said(&["pin", "app"]);
    assert_eq!(code, Some(1));
    assert!(
        error.contains("is not in the cache; warm it first"),
        "{error}"
    );
    pull(&gateway, &image);
    assert_eq!(said(&["pin"]).1, "no image is pinned\n");
    let (code, out, _) = said(&["pin", "app", "--note", "base of every build"]);
    let line = "docker.io/library/app:latest  1.0 MiB  base of every build\n";
    assert_eq!((code, out), (Some(0), format!("pinned {line}")));
    assert_eq!(said(&["pin"]).1, line);
    let (code, out, _) = said(&["unpin", "docker.io/library/app:latest"]);
    assert_eq!(
        (code, &*out),
        (Some(0), "unpinned docker.io/library/app:latest\n")
    );
    let (code, _, error) = said(&["unpin", "app"]);
    assert_eq!(code, Some(1));
    assert!(error.contains("is not pinned"), "{error}");
    assert_eq!(said(&["unpin", "app:UPPER/"]).0, Some(2));
}
