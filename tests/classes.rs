//! Clients that cannot read every manifest: those without indexes get an image, those with schema 1 only get that.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::random;
use testkit::origin::{Fault, Image, MEDIA_INDEX, MEDIA_MANIFEST, Origin};
use testkit::sha256;

const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const DOCKER_IMAGE: &str = "application/vnd.docker.distribution.manifest.v2+json";

const DOCKER_1_6: &str =
    "docker/1.6.2 go/go1.4.2 git-commit/7c8fca2 kernel/3.16.0 os/linux arch/amd64";

/// A schema 1 manifest as a registry signs it; `signature` differs each time. The digest is that of the payload.
fn signed(name: &str, signature: &str) -> (String, Vec<u8>) {
    let retained = format!("{{\n   \"schemaVersion\": 1,\n   \"name\": \"{name}\"");
    let tail = "\n}";
    let protected = URL_SAFE_NO_PAD.encode(format!(
        r#"{{"formatLength":{},"formatTail":"{}","time":"2015-04-16T00:00:00Z"}}"#,
        retained.len(),
        URL_SAFE_NO_PAD.encode(tail)
    ));
    let whole = format!(
        "{retained},\n   \"signatures\": [{{\"signature\": \"{signature}\", \"protected\": \"{protected}\"}}]\n}}"
    );
    (
        sha256(format!("{retained}{tail}").as_bytes()),
        whole.into_bytes(),
    )
}

fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    Raw::connect(gateway.url(1), None).exchange(method, path, headers)
}

fn digest_of(reply: &Reply) -> &str {
    reply.header("docker-content-digest").expect("a digest")
}

fn cache(reply: &Reply) -> &str {
    reply.header("cache-status").expect("a cache status")
}

/// An index of two images under `library/app:latest`.
fn index() -> (Origin, Image, Image) {
    let origin = Origin::start();
    let amd64 = origin.push_image("library/app", "amd64", &[random(1, 1000)]);
    let arm64 = origin.push_image("library/app", "arm64", &[random(2, 1000)]);
    let index = origin.push_index("library/app", "latest", &[&amd64, &arm64]);
    (origin, index, amd64)
}

#[test]
fn client_without_index_support_gets_linux_amd64() {
    for method in ["GET", "HEAD"] {
        let (origin, index, image) = index();
        let gateway = Gateway::mirror("docker.io", &origin.url(), "");
        let get = |accept: &str| ask(&gateway, method, &index.tag_path(), &[("Accept", accept)]);
        let modern = get(&format!("{MEDIA_INDEX}, {MEDIA_MANIFEST}"));
        assert_eq!(digest_of(&modern), index.digest);
        let old = get(&format!("{DOCKER_IMAGE}, {SIGNED}"));
        assert_eq!(
            (old.status(), digest_of(&old)),
            (200, image.digest.as_str())
        );
        assert_eq!(old.header("content-type"), Some(MEDIA_MANIFEST));
        let length = image.manifest.len().to_string();
        assert_eq!(old.header("content-length"), Some(length.as_str()));
        if method == "GET" {
            assert!(old.body == image.manifest && modern.body == index.manifest);
        }
        // One upstream request for the tag serves both classes.
        assert_eq!(origin.count("*", &index.tag_path()), 1, "{method}");
        let again = get(DOCKER_IMAGE);
        assert!(
            cache(&again).starts_with("roadstead; hit"),
            "{}",
            cache(&again)
        );
        // By digest every client gets exactly that manifest.
        let exact = ask(
            &gateway,
            method,
            &index.digest_path(),
            &[("Accept", DOCKER_IMAGE)],
        );
        assert_eq!(digest_of(&exact), index.digest);
        assert_eq!(
            origin.count("GET", "*/manifests/*"),
            if method == "GET" { 2 } else { 1 }
        );
    }
}

#[test]
fn index_without_linux_amd64_is_served_unchanged() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "x", &[random(1, 1000)]);
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MEDIA_INDEX}","manifests":[{{"mediaType":"{MEDIA_MANIFEST}","digest":"{}","size":1,"platform":{{"os":"linux","architecture":"s390x"}}}}]}}"#,
        image.digest
    );
    let digest = origin.push_manifest("library/app", Some("latest"), MEDIA_INDEX, bytes.clone());
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let path = "/v2/library/app/manifests/latest";
    let reply = ask(&gateway, "GET", path, &[("Accept", DOCKER_IMAGE)]);
    assert_eq!(digest_of(&reply), digest);
    assert_eq!(reply.text(), bytes);
}

#[test]
fn stale_index_still_resolves_its_image() {
    let (mut origin, index, image) = index();
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {tag_ttl: 0s}\n");
    let get = || {
        ask(
            &gateway,
            "GET",
            &index.tag_path(),
            &[("Accept", DOCKER_IMAGE)],
        )
    };
    assert!(get().body == image.manifest);
    origin.down();
    let stale = get();
    assert!(stale.body == image.manifest);
    assert!(stale.header("warning").is_some() && stale.header("age").is_some());
}

/// The requests of Docker 1.6 to 1.9, and of clients that accept schema 1 only.
const OLD: [&[(&str, &str)]; 2] = [&[("User-Agent", DOCKER_1_6)], &[("Accept", SIGNED)]];

#[test]
fn schema_1_comes_from_the_upstream() {
    for headers in OLD {
        let origin = Origin::start();
        let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
        let (digest, first) = signed("library/app", "one");
        origin.convert("library/app", "latest", &digest, SIGNED, first.clone());
        let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {tag_ttl: 0s}\n");
        let get = || ask(&gateway, "GET", &image.tag_path(), headers);
        let reply = get();
        assert_eq!((reply.status(), digest_of(&reply)), (200, digest.as_str()));
        assert_eq!(reply.header("content-type"), Some(SIGNED));
        assert!(reply.body == first);
        // The upstream signs anew each time: the same manifest, other bytes. One HEAD, no second GET.
        let (_, second) = signed("library/app", "two");
        origin.convert("library/app", "latest", &digest, SIGNED, second);
        assert!(get().body == first);
        assert_eq!(origin.count("GET", "*/manifests/*"), 1);
        assert_eq!(origin.count("HEAD", &image.tag_path()), 2);
        // It is served by its digest, and only with its own media type.
        let path = format!("/v2/library/app/manifests/{digest}");
        let by_digest = ask(&gateway, "GET", &path, &[]);
        assert!(by_digest.body == first && by_digest.header("content-type") == Some(SIGNED));
        // Other clients get their own variant of the tag, from a request of its own.
        let modern = ask(&gateway, "GET", &image.tag_path(), &[("Accept", "*/*")]);
        assert_eq!(digest_of(&modern), image.digest);
        // A moved tag is a new manifest.
        let (moved, third) = signed("library/moved", "three");
        origin.convert("library/app", "latest", &moved, SIGNED, third.clone());
        let reply = get();
        assert!(reply.body == third && digest_of(&reply) == moved);
    }
}

/// The variants of a tag for old clients outlive the pulls that the registry allows.
#[test]
fn limited_registry_takes_no_variant_away() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "amd64", &[random(1, 1000)]);
    let index = origin.push_index("library/app", "latest", &[&image]);
    let (digest, first) = signed("library/app", "one");
    origin.convert("library/app", "latest", &digest, SIGNED, first.clone());
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {tag_ttl: 0s}\n");
    let get = |headers| ask(&gateway, "GET", &index.tag_path(), headers);
    let no_list: &[(&str, &str)] = &[("Accept", DOCKER_IMAGE)];
    let expected = [
        (OLD[0], &first[..]),
        (OLD[1], &first),
        (no_list, &image.manifest),
    ];
    for (headers, body) in expected {
        assert!(get(headers).body == *body, "{headers:?}");
    }
    // Everything moves, and no pull is allowed any more.
    let newer = origin.push_image("library/app", "amd64", &[random(2, 1000)]);
    origin.push_index("library/app", "latest", &[&newer]);
    let (moved, second) = signed("library/moved", "two");
    origin.convert("library/app", "latest", &moved, SIGNED, second);
    origin.fault(Fault::status(429).on("GET", "*/manifests/*"));
    for (headers, body) in expected {
        let reply = get(headers);
        assert!(reply.body == *body, "{headers:?}: {reply:?}");
        let status = reply.header("cache-status");
        assert_eq!(status, Some("roadstead; fwd=stale; detail=limited"));
    }
}

#[test]
fn evicted_schema_1_is_refetched_by_tag() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let (digest, bytes) = signed("library/app", "one");
    origin.convert("library/app", "latest", &digest, SIGNED, bytes.clone());
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "");
    assert!(ask(&gateway, "GET", &image.tag_path(), OLD[0]).body == bytes);
    let stored = sha256(&bytes);
    let hex = stored.strip_prefix("sha256:").expect("sha256");
    let file = gateway
        .store()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(hex);
    std::fs::remove_file(&file).expect("stored under what it hashes to");
    gateway.restart();
    assert!(ask(&gateway, "GET", &image.tag_path(), OLD[0]).body == bytes);
    assert_eq!(origin.count("GET", &image.tag_path()), 2);
}

#[test]
fn schema_1_with_a_wrong_payload_is_refused() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let (digest, good) = signed("library/app", "one");
    let (_, other) = signed("library/evil", "one");
    let smuggled = String::from_utf8(good).expect("text");
    let smuggled = smuggled.replacen(
        ",\n   \"signatures\"",
        ",\"name\":\"evil\",\"signatures\"",
        1,
    );
    for corrupt in [other, smuggled.into_bytes()] {
        origin.convert("library/app", "latest", &digest, SIGNED, corrupt);
        let gateway = Gateway::mirror("docker.io", &origin.url(), "");
        let reply = ask(&gateway, "GET", &image.tag_path(), OLD[1]);
        assert_eq!(reply.status(), 502, "{}", reply.text());
    }
}

#[test]
fn schema_1_digest_is_of_the_signed_payload() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let (digest, bytes) = signed("library/app", "one");
    origin.convert("library/app", "latest", &digest, SIGNED, bytes.clone());
    origin.fault(Fault::NoDigestHeader);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let reply = ask(&gateway, "GET", &image.tag_path(), OLD[1]);
    assert!(reply.body == bytes && digest_of(&reply) == digest);
}

#[test]
fn upstream_without_schema_1_sends_its_manifest() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let reply = ask(&gateway, "GET", &image.tag_path(), OLD[0]);
    assert!(reply.body == image.manifest && digest_of(&reply) == image.digest);
}

#[test]
fn not_found_is_cached_for_every_accept_class() {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {missing_ttl: 1s}\n");
    let hex = image.digest.replace(':', "-");
    let companions = [
        hex.clone(),
        format!("{hex}.sig"),
        format!("{hex}.att"),
        format!("{hex}.sbom"),
    ];
    let path = |tag: &str| format!("/v2/library/app/manifests/{tag}");
    for tag in companions.iter().map(String::as_str).chain(["plain"]) {
        assert_eq!(ask(&gateway, "GET", &path(tag), &[]).status(), 404);
    }
    // The absence of a recently pushed tag is not remembered longer because of its name.
    for tag in companions.iter().map(String::as_str).chain(["plain"]) {
        testkit::until("the tag is asked for again", || {
            ask(&gateway, "GET", &path(tag), &[]);
            origin.count("HEAD", &path(tag)) > 1
        });
    }
    // If others may push, no absence is remembered.
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {missing_ttl: 0s}\n");
    let before = origin.count("HEAD", &path(&companions[1]));
    for _ in 0..2 {
        assert_eq!(
            ask(&gateway, "GET", &path(&companions[1]), &[]).status(),
            404
        );
    }
    assert_eq!(origin.count("HEAD", &path(&companions[1])), before + 2);
}
