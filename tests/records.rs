//! Records of a registry that changes: an answer requested before a write is not stored after it, deleted content stays
//! deleted, and content that may be gone is revalidated.

mod writes;

use std::path::Path;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Fault, MEDIA_MANIFEST, Origin};
use testkit::until;

const ANYTHING: &str = "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull, push, delete]}]}\n";
const TAG: &str = "/v2/team/app/manifests/latest";

/// A gateway in front of a registry that takes pushes.
fn pushed(more: &str) -> (Origin, Gateway) {
    let origin = Origin::start();
    origin.take_pushes();
    let yaml = format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, {more}}}]\n{ANYTHING}",
        origin.url()
    );
    let gateway = Gateway::start(&yaml);
    (origin, gateway)
}

fn ask(gateway: &Gateway, path: &str) -> Reply {
    get(gateway.url(1), None, path)
}

fn head(gateway: &Gateway, path: &str) -> Reply {
    Raw::connect(gateway.url(1), None).head(path)
}

fn is_hit(reply: &Reply) -> bool {
    let status = reply.header("cache-status").unwrap_or_default();
    status.starts_with("roadstead; hit")
}

/// A small manifest, a different one for each number.
fn manifest(number: usize) -> Vec<u8> {
    format!("{{\"schemaVersion\":2,\"mediaType\":\"{MEDIA_MANIFEST}\",\"annotations\":{{\"n\":\"{number}\"}}}}")
        .into_bytes()
}

/// Sends a request with a body; returns the status.
fn send(gateway: &Gateway, method: &str, path: &str, body: &[u8]) -> u16 {
    let mut raw = Raw::connect(gateway.url(1), None);
    let length = body.len().to_string();
    let kind = if path.contains("/manifests/") {
        MEDIA_MANIFEST
    } else {
        "application/octet-stream"
    };
    raw.request(
        method,
        path,
        &[("Content-Length", &length), ("Content-Type", kind)],
    );
    raw.send(body);
    raw.reply(method).status()
}

#[track_caller]
fn put(gateway: &Gateway, path: &str, body: &[u8]) {
    assert_eq!(send(gateway, "PUT", path, body), 201, "{path}");
}

#[track_caller]
fn delete(gateway: &Gateway, path: &str) {
    assert_eq!(send(gateway, "DELETE", path, b""), 202, "{path}");
}

#[test]
fn tag_of_an_evicted_manifest_is_refetched() {
    let (origin, gateway) = pushed("tag_ttl: 1h, missing_ttl: 10m");
    let first = origin.push_manifest("team/app", Some("latest"), MEDIA_MANIFEST, manifest(1));
    assert_eq!(head(&gateway, TAG).status(), 200);
    origin.delete_manifest("team/app", &first);
    origin.push_manifest("team/app", Some("latest"), MEDIA_MANIFEST, manifest(2));
    let moved = ask(&gateway, TAG);
    assert!(moved.body == manifest(2), "{}", moved.text());
}

/// The path of a blob in the store.
fn blob_file(gateway: &Gateway, digest: &str) -> std::path::PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    let blobs = gateway.store().join("blobs").join(algorithm);
    blobs.join(&hex[..2]).join(hex)
}

/// A pushing client skips the upload of blobs that a HEAD finds.
#[test]
fn head_is_revalidated_at_a_registry_with_push() {
    let (origin, gateway) = pushed("link_ttl: 7d, tag_ttl: 1h");
    let image = origin.push_image("team/app", "latest", &[random(1, 100_000)]);
    let (blob, by_digest) = (image.layer_path(0), image.digest_path());
    for path in [&blob, &by_digest] {
        assert_eq!(ask(&gateway, path).status(), 200);
        assert_eq!(head(&gateway, path).status(), 200);
    }
    // While the registry fails, the stored content is the answer.
    let down = origin.fault(Fault::status(500));
    for path in [&blob, &by_digest] {
        let stale = head(&gateway, path);
        assert_eq!(stale.status(), 200, "{path}");
        let status = stale.header("cache-status").unwrap_or_default();
        assert!(status.starts_with("roadstead; fwd=stale"), "{status}");
    }
    origin.heal(down);
    origin.delete_blob("team/app", &image.layer(0).0);
    origin.delete_manifest("team/app", &image.digest);
    for path in [&blob, &by_digest] {
        until("the registry is asked again", || {
            head(&gateway, path).status() != 200
        });
        assert_eq!(head(&gateway, path).status(), 404, "{path}");
        assert_eq!(ask(&gateway, path).status(), 404, "{path}");
    }
}

#[test]
fn head_of_uncached_content_asks_the_upstream() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 100_000)]);
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "store: {tag_ttl: 0s}\n");
    for (path, digest) in [
        (image.layer_path(0), &image.layer(0).0),
        (image.digest_path(), &image.digest),
    ] {
        assert_eq!(ask(&gateway, &path).status(), 200);
        gateway.terminate();
        std::fs::remove_file(blob_file(&gateway, digest)).expect("it is stored");
        gateway.restart();
        let heads = origin.count("HEAD", &path);
        assert_eq!(head(&gateway, &path).status(), 200, "{path}");
        assert_eq!(origin.count("HEAD", &path), heads + 1, "{path}");
        origin.delete_blob("library/app", digest);
        origin.delete_manifest("library/app", digest);
        assert_eq!(head(&gateway, &path).status(), 404, "{path}");
    }
}

/// A layer is no manifest, whichever repository it is requested from as one.
#[test]
fn layer_requested_as_manifest_is_not_buffered() {
    const LAYER: usize = 192 << 20;
    let origin = Origin::start();
    let layer = vec![7; LAYER];
    let digest = origin.push_blob("library/app", layer.clone());
    // A repository that has it as a manifest, as no real registry does.
    origin.push_manifest("library/odd", None, MEDIA_MANIFEST, layer);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let blob = ask(&gateway, &format!("/v2/library/app/blobs/{digest}"));
    assert_eq!(blob.body.len(), LAYER);
    drop(blob);
    for (repository, method, status) in [
        ("library/app", "GET", 404),
        ("library/other", "GET", 404),
        ("library/odd", "GET", 502),
        ("library/odd", "HEAD", 200),
        ("library/odd", "GET", 502),
    ] {
        gateway.reset_peak();
        let before = gateway.rss_kib();
        let path = format!("/v2/{repository}/manifests/{digest}");
        let reply = Raw::connect(gateway.url(1), None).exchange(method, &path, &[]);
        assert_eq!(reply.status(), status, "{repository} {}", reply.text());
        let peak = gateway.peak_rss_kib();
        assert!(peak < before + (48 << 10), "{before} to {peak} KiB");
    }
}

/// A hard link to a record's file: a replaced file differs from it.
struct Watched<'a> {
    file: std::path::PathBuf,
    gateway: &'a Gateway,
    serial: usize,
}

impl<'a> Watched<'a> {
    fn new(gateway: &'a Gateway, record: &str) -> Self {
        let file = gateway.store().join("repositories").join(record);
        Self {
            file,
            gateway,
            serial: 0,
        }
    }

    /// Whether it is the same file after `act`.
    fn stays_during(&mut self, act: impl FnOnce()) -> bool {
        use std::os::unix::fs::MetadataExt as _;

        let inode = |path: &Path| std::fs::metadata(path).map(|meta| meta.ino()).ok();
        self.serial += 1;
        let name = format!(
            "held-{}-{}",
            self.serial,
            self.file.file_name().expect("a name").display()
        );
        let held = self.gateway.dir().join(name);
        std::fs::hard_link(&self.file, &held).expect("the record is on disk");
        act();
        inode(&held) == inode(&self.file)
    }
}

/// Others may push to such a registry, so its tags and lists are revalidated each time.
#[test]
fn list_shows_tags_pushed_by_others() {
    let (origin, gateway) = pushed("");
    let list = "/v2/team/app/tags/list";
    for tag in ["one", "two"] {
        origin.push_manifest("team/app", Some(tag), MEDIA_MANIFEST, manifest(0));
        let listed = ask(&gateway, list);
        assert!(
            listed.text().contains(&format!("\"{tag}\"")),
            "{}",
            listed.text()
        );
    }
}

#[test]
fn unchanged_records_are_not_rewritten() {
    let (origin, gateway) = pushed("");
    let image = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    assert_eq!(ask(&gateway, TAG).status(), 200);
    assert_eq!(ask(&gateway, &image.layer_path(0)).status(), 200);
    let name = |digest: &str| digest.replace(':', "-");
    let mut records = [
        Watched::new(&gateway, "hosted/team/app/_tags/full/latest"),
        Watched::new(
            &gateway,
            &format!("hosted/team/app/_manifests/{}", name(&image.digest)),
        ),
        Watched::new(
            &gateway,
            &format!("hosted/team/app/_blobs/{}", name(&image.layer(0).0)),
        ),
    ];
    for record in &mut records {
        let heads = origin.count("HEAD", "*");
        let stays = record.stays_during(|| {
            for _ in 0..5 {
                // Another second: it was confirmed since.
                let now = std::time::SystemTime::now();
                until("the next second", || {
                    now.elapsed()
                        .is_ok_and(|elapsed| elapsed.as_millis() > 1001)
                });
                assert_eq!(ask(&gateway, TAG).status(), 200);
                assert_eq!(head(&gateway, &image.layer_path(0)).status(), 200);
            }
        });
        assert!(stays, "{} was written again", record.file.display());
        assert_eq!(
            origin.count("HEAD", "*"),
            heads + 10,
            "it is asked each time"
        );
    }
    let moved = origin.push_image("team/app", "latest", &[random(2, 1000)]);
    let stays = records[0].stays_during(|| assert!(ask(&gateway, TAG).body == moved.manifest));
    assert!(!stays, "what changed is written");
}
