//! Manifests that are pushed under more tags, with `?tag=` (distribution-spec, "Pushing Manifests with Tags").

use crate::uploads::{Place, USERS, send};
use testkit::gateway::Gateway;
use testkit::http::Reply;
use testkit::origin::{Fault, MEDIA_MANIFEST, Origin};
use testkit::sha256;

/// A small manifest, a different one for each number.
fn manifest(number: usize) -> Vec<u8> {
    format!("{{\"schemaVersion\":2,\"mediaType\":\"{MEDIA_MANIFEST}\",\"annotations\":{{\"n\":\"{number}\"}}}}")
        .into_bytes()
}

fn put(place: &Place, user: &str, path: &str, body: &[u8]) -> Reply {
    place.send(user, "PUT", path, &[("Content-Type", MEDIA_MANIFEST)], body)
}

#[test]
fn only_tag_parameters_are_forwarded_with_a_manifest() {
    let origin = Origin::start();
    origin.take_pushes();
    origin.fault(Fault::header("OCI-Tag", "v1").on("PUT", "*"));
    let place = Place::of(&origin.url());
    let (bytes, digest) = (manifest(1), sha256(&manifest(1)));
    for (query, sent) in [
        ("", ""),
        ("tag=v1", "tag=v1"),
        ("tag=v1&tag=v1.0_x-y", "tag=v1&tag=v1.0_x-y"),
        ("t%61g=v%31", "tag=v1"),
        ("ns=hosted&tag=v1", "tag=v1"),
        ("tag=v1&mount=x&from=secret/app&digest=y&x=1", "tag=v1"),
        ("TAG=v2", ""),
    ] {
        for reference in [digest.as_str(), "latest"] {
            let path = format!("/v2/mine/a/manifests/{reference}?{query}");
            let reply = put(&place, "pusher", &path, &bytes);
            assert_eq!(reply.status(), 201, "{query} {reply:?}");
            assert_eq!(reply.header("oci-tag"), Some("v1"), "{query}");
            let seen = origin.requests_for("PUT", "*").pop().expect("a request");
            let asked = format!("/v2/mine/a/manifests/{reference}");
            assert_eq!((seen.path, seen.query), (asked, sent.to_owned()), "{query}");
            assert!(seen.body == bytes, "{query}");
        }
    }
    let before = origin.count("PUT", "*");
    let long = format!("tag={}", "a".repeat(129));
    let many = "tag=a&".repeat(33);
    for query in [
        "tag=",
        "tag",
        "tag=v1&tag=",
        "tag=a/b",
        "tag=a:b",
        "tag=..",
        "tag=v1;mount=x",
        "tag=v1%26mount=x",
        "tag=v1%23",
        "tag=v1%0d%0aX:y",
        "tag=%FF",
        "TAG=v2&tag=v1",
        &long,
        &many,
    ] {
        let path = format!("/v2/mine/a/manifests/{digest}?{query}");
        let reply = put(&place, "pusher", &path, &bytes);
        assert_eq!(reply.status(), 400, "{query} {reply:?}");
        assert!(reply.error_code().is_some(), "{query} {reply:?}");
    }
    assert_eq!(origin.count("PUT", "*"), before, "nothing of it was sent");
}

#[test]
fn additional_tags_require_push() {
    let origin = Origin::start();
    origin.take_pushes();
    let place = Place::of(&origin.url());
    let (bytes, digest) = (manifest(1), sha256(&manifest(1)));
    for (user, name) in [("reader", "mine/a"), ("pusher", "secret/app")] {
        let path = format!("/v2/{name}/manifests/{digest}?tag=v1");
        let reply = put(&place, user, &path, &bytes);
        assert_eq!(reply.status(), 403, "{user} {name} {reply:?}");
        let code = reply.error_code();
        assert_eq!(code.as_deref(), Some("DENIED"), "{user} {name}");
    }
    assert_eq!(origin.count("*", "*"), 0, "denied before anybody was asked");
}

/// Whatever the registry did with them, these tags are revalidated, and only these.
#[test]
fn possibly_moved_tags_are_revalidated() {
    let origin = Origin::start();
    origin.take_pushes();
    let users = tempfile::tempdir().expect("a folder");
    let accounts = users.path().join("users");
    std::fs::write(&accounts, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, tag_ttl: 1h, missing_ttl: 1h}}]\n\
         access: {{htpasswd: {}, rules: [{{users: [pusher], repositories: [\"**\"], actions: [pull, push]}}]}}\n",
        origin.url(),
        accounts.display()
    ));
    let ask = |method: &str, path: &str, body: &[u8]| {
        let headers = &[("Content-Type", MEDIA_MANIFEST)];
        send(gateway.url(1), Some("pusher"), method, path, headers, body)
    };
    let tag = |tag: &str| ask("GET", &format!("/v2/mine/a/manifests/{tag}"), b"");
    let is_hit = |reply: &Reply| {
        let status = reply.header("cache-status").unwrap_or_default();
        status.starts_with("roadstead; hit")
    };
    let refusals = [None, Some(400), Some(500)].into_iter();
    for (number, refusal) in refusals.enumerate() {
        let fault = refusal.map(|status| origin.fault(Fault::status(status).on("PUT", "*")));
        let (old, new) = (manifest(2 * number), manifest(2 * number + 1));
        let absent = format!("new-{number}");
        for moved in ["moved", "other"] {
            let name = format!("{moved}-{number}");
            origin.push_manifest("mine/a", Some(&name), MEDIA_MANIFEST, old.clone());
            tag(&name);
            assert!(is_hit(&tag(&name)), "{name} is cached");
        }
        assert_eq!(tag(&absent).status(), 404);
        assert!(is_hit(&tag(&absent)), "its absence is cached");
        let path = format!(
            "/v2/mine/a/manifests/{}?tag=moved-{number}&tag={absent}",
            sha256(&new)
        );
        let put = ask("PUT", &path, &new);
        assert_eq!(put.status(), refusal.unwrap_or(201), "{put:?}");
        // The registry moved them all the same.
        for name in [format!("moved-{number}"), absent] {
            origin.push_manifest("mine/a", Some(&name), MEDIA_MANIFEST, new.clone());
            let reply = tag(&name);
            assert!(reply.body == new, "{name} {refusal:?} {reply:?}");
        }
        assert!(is_hit(&tag(&format!("other-{number}"))), "{refusal:?}");
        if let Some(fault) = fault {
            origin.heal(fault);
        }
    }
}
