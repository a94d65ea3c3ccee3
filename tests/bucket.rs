//! `store.bucket`: content that one gateway fetched costs the next one no upstream request, and a bucket that is down,
//! slow, full or returns wrong bytes is ignored.

mod operators;
mod rights;
mod withdrawals;

use std::time::{Duration, Instant};

use operators::counted;
use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Auth, Fault, Image, Latch, Origin};
use testkit::real::{ObjectStore, found};
use testkit::s3::{Ill, S3, blob_key};
use testkit::{eventually_within, sha256, until};

/// Larger than a part, so that it is uploaded in several.
const BIG: usize = 9 << 20;
const SMALL: usize = 300 << 10;
/// Covers the longest wait for another node on a slow machine.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

fn gateway(origin: &Origin, store: &str) -> Gateway {
    Gateway::mirror(
        "docker.io",
        &origin.url(),
        &format!(
            "admin: {{address: \"unix:admin.sock\", metrics: \"127.0.0.1:0\"}}\n\
             store: {{min_free: 0B, {store}}}\n"
        ),
    )
}

fn scene(size: usize) -> (Origin, Image, S3, Gateway) {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/app", "latest", &[random(1, size)]);
    let gateway = gateway(&origin, &s3.yaml());
    (origin, image, s3, gateway)
}

fn ask(gateway: &Gateway, path: &str) -> Reply {
    get(gateway.url(1), None, path)
}

/// Pulls by tag: the manifest, its configuration, its layer.
#[track_caller]
fn pull(gateway: &Gateway, image: &Image) {
    let manifest = ask(gateway, &image.tag_path());
    assert_eq!(manifest.status(), 200, "{}", manifest.text());
    assert!(manifest.body == image.manifest && manifest.is_complete());
    for (index, (_, bytes)) in image.blobs.iter().enumerate() {
        let blob = ask(gateway, &image.blob_path(index));
        assert_eq!(blob.status(), 200, "{}", blob.text());
        assert!(blob.body == *bytes, "other bytes: {:?}", blob.end);
        assert!(blob.is_complete(), "{:?}", blob.end);
    }
}

/// The digests of everything in a pull.
fn contents(image: &Image) -> Vec<String> {
    let blobs = image.blobs.iter().map(|(digest, _)| digest.clone());
    blobs.chain([image.digest.clone()]).collect()
}

/// Waits until the bucket has all content and records of a pull.
fn shared(s3: &S3, image: &Image) {
    for digest in contents(image) {
        let key = blob_key(&digest);
        until(&format!("{key} in the bucket"), || {
            s3.object(&key)
                .is_some_and(|bytes| sha256(&bytes) == digest)
        });
    }
    for kind in ["_tags/full/latest", "_manifests/*", "_blobs/*"] {
        until(kind, || {
            !s3.keys(&format!("repositories/*/{kind}")).is_empty()
        });
    }
    until("no lease", || s3.keys("leases/*").is_empty());
}

#[test]
fn content_fetched_by_one_gateway_costs_the_next_no_upstream_request() {
    let (origin, image, s3, first) = scene(BIG);
    pull(&first, &image);
    shared(&s3, &image);
    origin.clear_requests();
    let second = gateway(&origin, &s3.yaml());
    let manifest = ask(&second, &image.tag_path());
    let status = manifest.header("cache-status").unwrap_or_default();
    assert!(status.starts_with("roadstead; hit"), "{status}");
    pull(&second, &image);
    assert_eq!(origin.requests().len(), 0, "{:?}", origin.requests());
    // It is stored locally: the bucket is no longer needed.
    s3.set(Ill::Down);
    pull(&second, &image);
    assert_eq!(origin.requests().len(), 0);
    assert!(!first.log().contains("hunter2") && !second.log().contains("hunter2"));
}

#[test]
fn tag_revalidated_by_one_gateway_is_fresh_for_all() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    let store = format!("tag_ttl: 5s, {}", s3.yaml());
    let (first, second) = (gateway(&origin, &store), gateway(&origin, &store));
    pull(&first, &image);
    shared(&s3, &image);
    pull(&second, &image);
    let heads = || origin.count("HEAD", &image.tag_path());
    assert_eq!(heads(), 1);
    let record = s3.keys("repositories/*/_tags/full/latest").remove(0);
    let before = s3.object(&record);
    until("the first gateway asks again", || {
        ask(&first, &image.tag_path());
        heads() == 2
    });
    until("the others know", || s3.object(&record) != before);
    // Its own pointer is as old as the first gateway's was.
    let manifest = ask(&second, &image.tag_path());
    let status = manifest.header("cache-status").unwrap_or_default();
    assert!(status.starts_with("roadstead; hit"), "{status}");
    assert_eq!(heads(), 2);
}

#[test]
fn two_cold_pulls_through_two_gateways_cost_one_request() {
    let (origin, image, s3, first) = scene(SMALL);
    let second = gateway(&origin, &s3.yaml());
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(SMALL as u64 / 2, latch.clone()).on("GET", "*/blobs/*"));
    let path = image.layer_path(0);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| ask(&first, &path));
        latch.wait_reached(1);
        let other = scope.spawn(|| ask(&second, &path));
        until("the second gateway sees the lease", || {
            s3.count("GET", "leases/*") > 0
        });
        latch.release();
        for reply in [one, other] {
            let reply = reply.join().expect("an answer");
            assert_eq!(reply.status(), 200);
            assert!(reply.is_complete() && reply.body == image.layer(0).1);
        }
    });
    assert_eq!(origin.count("GET", &path), 1);
    assert!(second.log().contains("came from the bucket"));
}

#[test]
fn killed_lease_holder_delays_others_briefly() {
    let (origin, image, s3, mut first) = scene(SMALL);
    let second = gateway(&origin, &s3.yaml());
    let latch = Latch::new();
    let half = Fault::PauseAt(SMALL as u64 / 2, latch.clone());
    origin.fault(half.on("GET", "*/blobs/*").times(1));
    let path = image.layer_path(0);
    let mut raw = Raw::connect(first.url(1), None);
    raw.request("GET", &path, &[]);
    latch.wait_reached(1);
    first.kill();
    assert_eq!(s3.keys("leases/*").len(), 1);
    let started = Instant::now();
    let reply = ask(&second, &path);
    let waited = started.elapsed();
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    assert!(waited < READ_TIMEOUT, "{waited:?}");
    assert!(second.log().contains("another node takes too long"));
    assert_eq!(counted(&second, "lease_timeouts"), 1);
    assert_eq!(origin.count("GET", &path), 2);
    latch.release();
    until("the bucket has it", || {
        s3.object(&blob_key(&image.layer(0).0)).is_some()
    });
}

#[test]
fn expired_lease_is_taken_over() {
    let (origin, image, s3, first) = scene(SMALL);
    let path = image.layer_path(0);
    ask(&first, &path);
    let key = blob_key(&image.layer(0).0);
    until("the bucket has it", || s3.object(&key).is_some());
    let (algorithm, hex) = image.layer(0).0.split_once(':').expect("a digest");
    let lease = format!("leases/{algorithm}-{hex}");
    until("no lease", || s3.keys("leases/*").is_empty());
    s3.remove(&key);
    s3.put(&lease, br#"{"node":"dead","expires_at":1}"#);
    let second = gateway(&origin, &s3.yaml());
    let reply = ask(&second, &path);
    assert!(reply.is_complete() && reply.body == image.layer(0).1);
    assert!(!second.log().contains("another node takes too long"));
    until("it is there again", || s3.object(&key).is_some());
    until("the lease is given up", || s3.keys("leases/*").is_empty());
}

#[test]
fn bucket_failure_during_a_fill_loses_no_bytes() {
    for ill in [Ill::DiesAt(2 << 20), Ill::StallsAt(2 << 20)] {
        let (origin, image, s3, first) = scene(BIG);
        pull(&first, &image);
        shared(&s3, &image);
        origin.clear_requests();
        s3.set(ill.clone());
        let second = gateway(&origin, &s3.yaml());
        pull(&second, &image);
        assert_eq!(origin.count("GET", &image.layer_path(0)), 1, "{ill:?}");
        assert!(second.log().contains("the bucket fails"), "{ill:?}");
        let left = std::fs::read_dir(second.store().join("partials")).expect("a store");
        assert_eq!(left.count(), 0, "{ill:?}");
    }
}

#[test]
fn corrupt_bucket_body_is_never_served_and_is_overwritten() {
    let flip: fn(&mut Vec<u8>) = |bytes| bytes[0] ^= 1;
    let empty: fn(&mut Vec<u8>) = Vec::clear;
    let more: fn(&mut Vec<u8>) = |bytes| bytes.push(0);
    for (what, change) in [("other", flip), ("no", empty), ("more", more)] {
        let (origin, image, s3, first) = scene(SMALL);
        pull(&first, &image);
        shared(&s3, &image);
        origin.clear_requests();
        assert_eq!(s3.change("blobs/*", change), contents(&image).len());
        let second = gateway(&origin, &s3.yaml());
        pull(&second, &image);
        assert_eq!(origin.count("GET", "*/blobs/*"), 2, "{what} bytes");
        assert!(
            second.log().contains("the bucket has wrong bytes"),
            "{what}"
        );
        shared(&s3, &image);
    }
}

#[test]
fn failing_bucket_is_ignored() {
    let ills = [
        Ill::Down,
        Ill::Silent,
        Ill::Slow(Duration::from_secs(3)),
        Ill::Full,
        Ill::Refuses(403),
        Ill::Refuses(503),
    ];
    std::thread::scope(|scope| {
        for ill in ills {
            scope.spawn(move || {
                let (origin, image, s3, gateway) = scene(SMALL);
                s3.set(ill.clone());
                let started = Instant::now();
                pull(&gateway, &image);
                let took = started.elapsed();
                assert!(took < READ_TIMEOUT, "{ill:?}: {took:?}");
                assert_eq!(origin.count("GET", "*/blobs/*"), 2, "{ill:?}");
                until(&format!("{ill:?} is said"), || {
                    gateway.log().contains("the bucket fails")
                });
                assert!(!gateway.log().contains("AKIDSHARED"), "{ill:?}");
                if ill == Ill::Down {
                    // The writes are retried for a while, then dropped.
                    eventually_within(Duration::from_secs(90), "three are given up", || {
                        (gateway.log().matches("not written to the bucket").count() == 3)
                            .then_some(())
                    });
                    assert_eq!(counted(&gateway, "uploads_dropped"), 3);
                    until("what was learned is given up", || {
                        counted(&gateway, "records_dropped") > 0
                    });
                }
                if ill == Ill::Full {
                    // The bucket can still be read, and the remaining writes succeed once it accepts them.
                    s3.set(None);
                    shared(&s3, &image);
                }
            });
        }
    });
}

#[test]
fn shared_bucket_does_not_widen_rights() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/secret", "latest", &[random(1, SMALL)]);
    origin.require(Auth::basic("me", "hunter3"));
    let with = |credentials: &str| {
        Gateway::start(&format!(
            "registries: [{{name: docker.io, v2: \"{}\", visibility: rules{credentials}}}]\n\
             access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull]}}]}}\n\
             store: {{min_free: 0B, {}}}\n",
            origin.url(),
            s3.yaml()
        ))
    };
    let me = ", credentials: {username: me, password: hunter3}";
    let first = with(me);
    pull(&first, &image);
    shared(&s3, &image);
    origin.clear_requests();
    // The same account: its records apply.
    let same = with(me);
    pull(&same, &image);
    assert_eq!(origin.requests().len(), 0);
    // Without an account, or with another password, the upstream decides.
    for credentials in ["", ", credentials: {username: me, password: other}"] {
        let other = with(credentials);
        for path in [image.tag_path(), image.digest_path(), image.layer_path(0)] {
            let refused = ask(&other, &path).status();
            assert!(
                matches!(refused, 401 | 403),
                "{credentials} {path}: {refused}"
            );
        }
    }
    let keys = s3.keys("*").join(" ");
    assert!(!keys.contains("hunter3"), "{keys}");
}

#[test]
fn public_repository_record_is_shared() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    let start = || {
        Gateway::start(&format!(
            "registries: [{{name: docker.io, v2: \"{}\", visibility: public, credentials: {{username: me, password: hunter3}}}}]\n\
             store: {{min_free: 0B, {}}}\n",
            origin.url(),
            s3.yaml()
        ))
    };
    let first = start();
    pull(&first, &image);
    shared(&s3, &image);
    until("it is shared", || {
        !s3.keys("repositories/*/_public").is_empty()
    });
    origin.clear_requests();
    pull(&start(), &image);
    assert_eq!(origin.requests().len(), 0, "{:?}", origin.requests());
    // Without that record public access is checked again.
    s3.remove(&s3.keys("repositories/*/_public").remove(0));
    pull(&start(), &image);
    assert_eq!(origin.requests().len(), 1, "{:?}", origin.requests());
}

#[test]
fn deleted_content_is_withdrawn_from_the_bucket() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    let store = format!("tag_ttl: 1s, {}", s3.yaml());
    let first = gateway(&origin, &store);
    pull(&first, &image);
    shared(&s3, &image);
    origin.delete_tag("library/app", "latest");
    until("the first gateway knows", || {
        ask(&first, &image.tag_path()).status() == 404
    });
    until("the others can know", || {
        s3.keys("repositories/*/_tags/full/latest").is_empty()
    });
    assert_eq!(
        ask(&gateway(&origin, &store), &image.tag_path()).status(),
        404
    );
}

type Change<'a> = &'a dyn Fn(&str) -> String;

#[test]
fn invalid_bucket_records_are_rejected() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let checked_at = |text: &str, at: u64| {
        let start = text.find("\"checked_at\":").expect("a time") + 13;
        let end = start
            + text[start..]
                .find(|c: char| !c.is_ascii_digit())
                .expect("an end");
        format!("{}{at}{}", &text[..start], &text[end..])
    };
    let (origin, image, s3, first) = scene(SMALL);
    pull(&first, &image);
    shared(&s3, &image);
    let good = |text: &str| text.to_owned();
    let cases: [(&str, Change<'_>, bool); 6] = [
        ("right", &good, true),
        (
            "from the future",
            &|text| checked_at(text, now + 3600),
            false,
        ),
        ("too old", &|text| checked_at(text, now - 9_000_000), false),
        (
            "of another name",
            &|text| text.replace("library/app", "library/other"),
            false,
        ),
        (
            "of another kind",
            &|text| text.replace("\"record\":{", "\"record\":{\"x\":1,"),
            false,
        ),
        ("no JSON", &|text| text[1..].to_owned(), false),
    ];
    let records = s3.keys("repositories/*");
    let originals: Vec<_> = records
        .iter()
        .map(|key| s3.object(key).expect("a record"))
        .collect();
    for (what, change, believed) in cases {
        for (key, original) in records.iter().zip(&originals) {
            let text = String::from_utf8(original.clone()).expect("JSON");
            s3.put(key, change(&text).as_bytes());
        }
        origin.clear_requests();
        let second = gateway(&origin, &s3.yaml());
        pull(&second, &image);
        let asked = origin.count("HEAD", "*");
        assert_eq!(asked == 0, believed, "{what}: {asked}");
        // The bytes are correct whatever the records say.
        assert_eq!(origin.count("GET", "*/blobs/*"), 0, "{what}");
    }
}

/// The same with real object stores: signatures, conditional writes, uploads in parts.
fn with_a_real_store(mut store: ObjectStore) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, BIG)]);
    let (first, second) = (
        gateway(&origin, &store.yaml()),
        gateway(&origin, &store.yaml()),
    );
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", &image.layer_path(0)));
    let path = image.layer_path(0);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| ask(&first, &path));
        latch.wait_reached(1);
        let other = scope.spawn(|| ask(&second, &path));
        latch.release();
        for reply in [one, other] {
            let reply = reply.join().expect("an answer");
            assert!(
                reply.is_complete() && reply.body == image.layer(0).1,
                "{}",
                store.name
            );
        }
    });
    assert_eq!(origin.count("GET", &path), 1, "{}", store.name);
    pull(&first, &image);
    // The layer, the configuration and the manifest.
    until("everything is in the bucket", || {
        first.log().matches("written to the bucket").count() == 3
    });
    let third = gateway(&origin, &store.yaml());
    until("what is known is in the bucket", || {
        origin.clear_requests();
        ask(&third, &image.tag_path()).status() == 200 && origin.requests().is_empty()
    });
    pull(&third, &image);
    assert_eq!(origin.count("GET", "*/blobs/*"), 0, "{}", store.name);
    // Killed during a fill, before its content can be written to the bucket.
    let last = origin.push_image("library/last", "latest", &[random(2, SMALL)]);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1 << 17, latch.clone()).on("GET", &last.layer_path(0)));
    let path = last.layer_path(0);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| ask(&third, &path));
        latch.wait_reached(1);
        store.kill();
        latch.release();
        let reply = one.join().expect("an answer");
        assert!(reply.is_complete() && reply.body == last.layer(0).1);
    });
    pull(&third, &last);
    pull(&gateway(&origin, &store.yaml()), &image);
    assert_eq!(
        origin.count("GET", &image.layer_path(0)),
        1,
        "{}",
        store.name
    );
}

#[test]
fn moto() {
    if let Some(store) = found(ObjectStore::moto()) {
        with_a_real_store(store);
    }
}

#[test]
fn s3s_fs() {
    if let Some(store) = found(ObjectStore::s3s_fs()) {
        with_a_real_store(store);
    }
}

#[test]
fn wrong_bucket_secret_is_logged_and_pulls_succeed() {
    let Some(store) = found(ObjectStore::s3s_fs()) else {
        return;
    };
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    let gateway = gateway(&origin, &store.yaml_with("wrong-secret"));
    pull(&gateway, &image);
    until("it is said", || gateway.log().contains("the bucket fails"));
    assert!(!gateway.log().contains("wrong-secret"));
}
