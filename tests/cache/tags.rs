//! Tags: fresh for their TTL, then revalidated.

use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Latch, Origin};

use super::{cache_status, plain, scene};

#[test]
fn fresh_tag_is_cached_and_stale_tag_costs_one_head() {
    let (origin, image, mut gateway) = scene("store: {tag_ttl: 1h}\n");
    assert_eq!(
        cache_status(&get(gateway.url(1), None, &image.tag_path())),
        "roadstead; fwd=uri-miss; stored"
    );
    let fresh = get(gateway.url(1), None, &image.tag_path());
    assert!(
        cache_status(&fresh).starts_with("roadstead; hit; ttl=3"),
        "{}",
        cache_status(&fresh)
    );
    let counts = |origin: &Origin| (origin.count("HEAD", "*"), origin.count("GET", "*"));
    assert_eq!(counts(&origin), (1, 1));

    let yaml = |ttl: &str| {
        format!(
            "registries: [{{name: docker.io, v2: \"{}\", tag_ttl: {ttl}}}]\n",
            origin.url()
        )
    };
    // The records survive a restart.
    gateway.restart_with(&yaml("1h"));
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert_eq!(counts(&origin), (1, 1));

    gateway.restart_with(&yaml("0s"));
    let revalidated = get(gateway.url(1), None, &image.tag_path());
    assert_eq!(
        cache_status(&revalidated),
        "roadstead; fwd=stale; detail=revalidated"
    );
    assert!(revalidated.body == image.manifest);
    assert_eq!(counts(&origin), (2, 1));

    // The tag moves: a HEAD, and a GET by digest.
    let moved = origin.push_image("library/app", "latest", &[random(2, 1000)]);
    let reply = get(gateway.url(1), None, &image.tag_path());
    assert_eq!(
        cache_status(&reply),
        "roadstead; fwd=stale; stored; detail=moved"
    );
    assert!(reply.body == moved.manifest);
    assert_eq!(
        (counts(&origin), origin.count("GET", &moved.digest_path())),
        ((3, 2), 1)
    );

    // It moves back: the bytes are stored, so no GET.
    origin.tag("library/app", "latest", &image.digest);
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert_eq!(counts(&origin), (4, 2));

    // A client's HEAD costs a GET where it moves a tag whose manifest is stored: the client's next request is for the new one.
    let third = origin.push_image("library/app", "latest", &[random(3, 1000)]);
    let head = plain(&gateway).head(&image.tag_path());
    assert_eq!(head.header("docker-content-digest"), Some(&*third.digest));
    assert_eq!(counts(&origin), (5, 3));
    assert_eq!(plain(&gateway).head(&image.tag_path()).status(), 200);
    assert_eq!(counts(&origin), (6, 3));

    // For a tag that nobody pulled it never does.
    let other = origin.push_image("library/other", "latest", &[random(4, 1000)]);
    for _ in 0..2 {
        assert_eq!(plain(&gateway).head(&other.tag_path()).status(), 200);
        origin.push_image("library/other", "latest", &[random(5, 1000)]);
    }
    assert_eq!(counts(&origin), (8, 3));
}

#[test]
fn concurrent_clients_share_one_revalidation() {
    let (origin, image, gateway) = scene("");
    let latch = Latch::new();
    origin.fault(Fault::Hold(latch.clone()).on("HEAD", "*"));
    let mut clients: Vec<Raw> = (0..16).map(|_| plain(&gateway)).collect();
    for raw in &mut clients {
        raw.request("GET", &image.tag_path(), &[]);
    }
    latch.wait_reached(1);
    latch.release();
    for raw in &mut clients {
        assert!(raw.reply("GET").body == image.manifest);
    }
    assert_eq!(
        (origin.count("HEAD", "*"), origin.count("GET", "*")),
        (1, 1)
    );
}
