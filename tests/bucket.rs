//! `store.bucket`: content that one gateway fetched costs the next one no upstream request, and a bucket that is down,
//! slow, full or returns wrong bytes is ignored.

mod failures;
mod leases;
mod object_stores;
mod operators;
mod rights;
mod withdrawals;

use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Reply, get};
use testkit::image::random;
use testkit::origin::{Image, Origin};
use testkit::s3::{Ill, S3, blob_key};
use testkit::{sha256, until};

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
