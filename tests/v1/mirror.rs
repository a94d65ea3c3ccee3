//! A registry without pushes is mirrored: images are fetched once, lists cached for a while, and only the bytes and
//! their own headers are passed on.

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, get};
use testkit::image::random;
use testkit::sha256;
use testkit::v1::{Script, V1Registry};

use crate::v1::{Daemon, OLD};

pub fn mirror(registry: &V1Registry) -> Gateway {
    mirror_with(registry, "")
}

pub fn mirror_with(registry: &V1Registry, more: &str) -> Gateway {
    Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\"{more}}}]",
        registry.url()
    ))
}

pub fn part(id: &str, part: &str) -> String {
    format!("/v1/images/{id}/{part}")
}

pub fn named(name: &str, what: &str) -> String {
    format!("/v1/repositories/{name}/{what}")
}

pub fn fetch(gateway: &Gateway, path: &str) -> Reply {
    get(gateway.url(1), None, path)
}

pub fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    Raw::connect(gateway.url(1), None).exchange(method, path, headers)
}

pub fn cache(reply: &Reply) -> &str {
    reply.header("cache-status").expect("Cache-Status")
}

/// The path of these bytes in the store.
pub fn blob(gateway: &Gateway, bytes: &[u8]) -> std::path::PathBuf {
    let hex = sha256(bytes)[7..].to_owned();
    gateway
        .store()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(hex)
}

/// Images are immutable by their id: each part is fetched once, however many clients request it, and is served while
/// the upstream is down, also after a restart.
#[test]
fn images_are_fetched_once() {
    let registry = V1Registry::start();
    let layers = [random(1, 90_000), random(2, 300)];
    let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let ids = registry.push_image("library/app", "latest", &parts);
    let mut gateway = mirror(&registry);
    let whole = Ok(vec![layers[1].clone(), layers[0].clone()]);
    for version in OLD {
        let pulled = Daemon::new(version, &gateway, None).pull("app", "latest");
        assert!(pulled == whole, "{} {:?}", version.agent, pulled.err());
    }
    for (id, layer) in ids.iter().zip(&layers) {
        for what in ["json", "layer"] {
            let requests = registry.requests_to(&part(id, what));
            let gets = requests.iter().filter(|seen| seen.line.starts_with("GET "));
            assert_eq!(gets.count(), 1, "{id} {what}: {requests:?}");
        }
        assert!(std::fs::read(blob(&gateway, layer)).expect("a stored file") == *layer);
        let pointer = format!("v1/old/_parts/{id}/layer");
        let pointer = std::fs::read_to_string(gateway.store().join(pointer)).expect("a pointer");
        assert!(pointer.contains(&sha256(layer)), "{pointer}");
    }
    assert_eq!(registry.requests_to(&part(&ids[1], "ancestry")).len(), 1);
    assert_eq!(registry.requests_to("/tags").len(), 1);
    assert_eq!(registry.requests_to("/images").len(), 1);

    drop(registry);
    gateway.restart();
    for version in OLD {
        let pulled = Daemon::new(version, &gateway, None).pull("app", "latest");
        assert!(pulled == whole, "{} {:?}", version.agent, pulled.err());
    }
}

/// Eviction may remove the bytes; the pointer is valid again once they are fetched anew.
#[test]
fn evicted_layers_are_refetched() {
    let registry = V1Registry::start();
    let layer = random(3, 200_000);
    let ids = registry.push_image("team/app", "1", &[&layer]);
    let mut gateway = mirror(&registry);
    let path = part(&ids[0], "layer");
    for round in 1..=3 {
        assert!(fetch(&gateway, &path).body == layer);
        assert!(cache(&fetch(&gateway, &path)).contains("hit"));
        assert_eq!(registry.requests_to(&path).len(), round);
        std::fs::remove_file(blob(&gateway, &layer)).expect("it was stored");
        gateway.restart();
    }
    let json = registry.requests_to(&part(&ids[0], "json"));
    assert_eq!(json.len(), 1, "its bytes were not evicted");
}

/// `R/json`, which docker-registry's mirror answered with 500.
#[test]
fn repository_json_is_served() {
    let registry = V1Registry::start();
    registry.push_image("team/app", "1", &[b"layer"]);
    let gateway = mirror(&registry);
    for expected in ["fwd=uri-miss; stored", "hit"] {
        let reply = fetch(&gateway, &named("team/app", "json"));
        assert_eq!(reply.status(), 200, "{reply:?}");
        assert_eq!(reply.text(), r#"{"arch":"amd64","os":"linux"}"#);
        assert!(cache(&reply).contains(expected), "{reply:?}");
    }
    assert_eq!(registry.requests_to("/json").len(), 1);
}

/// The first response and later ones have the same headers: the size and checksum, one Cache-Control, no cookie.
#[test]
fn cached_responses_have_the_same_headers() {
    let registry = V1Registry::with(Script {
        checksum: Some(str::to_owned),
        ..Script::default()
    });
    let layer = random(6, 4000);
    let ids = registry.push_image("team/app", "1", &[&layer]);
    let gateway = mirror(&registry);
    let forever = "public, max-age=31536000";
    for round in 0..3 {
        for (path, caching) in [
            (part(&ids[0], "json"), forever),
            (part(&ids[0], "ancestry"), forever),
            (part(&ids[0], "layer"), forever),
            (named("team/app", "images"), "no-cache"),
            (named("team/app", "tags"), "no-cache"),
        ] {
            let reply = fetch(&gateway, &path);
            assert_eq!(reply.status(), 200, "{path} {reply:?}");
            let all = |name: &str| {
                let headers = reply.head.headers.iter();
                let of = headers.filter(|(key, _)| key.eq_ignore_ascii_case(name));
                of.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
            };
            assert_eq!(all("cache-control"), [caching], "{path} {round}");
            for name in ["expires", "pragma", "last-modified", "set-cookie"] {
                assert_eq!(all(name), [""; 0], "{path} {round} {name}");
            }
            if path.contains("/images/") && path.ends_with("/json") {
                let json = String::from_utf8(reply.body.clone()).expect("JSON");
                let payload = [json.as_bytes(), b"\n", &layer].concat();
                assert_eq!(all("x-docker-size"), ["4000"]);
                assert_eq!(all("x-docker-checksum-payload"), [sha256(&payload)]);
            }
            assert_eq!(cache(&reply).contains("hit"), round > 0, "{path} {reply:?}");
        }
    }
    // Responses of a guarded registry are not cached on the way.
    let guarded = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\"}}]
access: {{rules: [{{users: [anonymous], repositories: [\"old/**\"], actions: [pull]}}]}}",
        registry.url()
    ));
    let list = fetch(&guarded, &named("team/app", "images"));
    let token = format!("Token {}", list.header("x-docker-token").expect("a token"));
    assert_eq!(list.header("cache-control"), Some("private, no-store"));
    let headers = [("Authorization", &*token)];
    for what in ["json", "layer"] {
        let reply = ask(&guarded, "GET", &part(&ids[0], what), &headers);
        assert_eq!(reply.status(), 200, "{reply:?}");
        assert_eq!(reply.header("cache-control"), Some("private, no-store"));
    }
}

/// Sizes that a registry does not send are known once the layer is stored.
#[test]
fn unannounced_size_is_known_after_the_fill() {
    let registry = V1Registry::with(Script {
        no_sizes: true,
        ..Script::default()
    });
    let layer = random(7, 3000);
    let ids = registry.push_image("team/app", "1", &[&layer]);
    let gateway = mirror(&registry);
    let json = || fetch(&gateway, &part(&ids[0], "json"));
    assert_eq!(json().header("x-docker-size"), None);
    let head = ask(&gateway, "HEAD", &part(&ids[0], "layer"), &[]);
    assert_eq!((head.status(), head.head.length()), (200, Some(3000)));
    assert!(fetch(&gateway, &part(&ids[0], "layer")).body == layer);
    assert_eq!(json().header("x-docker-size"), Some("3000"));
}

/// An image in the middle that the upstream lost: a clear 404, and the rest as before.
#[test]
fn missing_image_is_404() {
    let registry = V1Registry::start();
    let ids = registry.push_image("team/app", "1", &[b"root", b"middle", b"top"]);
    registry.script(|script| script.lost = Some(ids[1].clone()));
    let gateway = mirror(&registry);
    let pulled = Daemon::new(OLD[4], &gateway, None).pull("team/app", "1");
    assert!(matches!(pulled, Err((_, 404))), "{pulled:?}");
    for what in ["json", "layer"] {
        let reply = fetch(&gateway, &part(&ids[1], what));
        assert_eq!(
            (reply.status(), &*reply.text()),
            (404, "{\"error\":\"Image not found\"}")
        );
    }
    for id in [&ids[0], &ids[2]] {
        assert_eq!(fetch(&gateway, &part(id, "layer")).status(), 200);
    }
    // It recovers by itself.
    registry.script(|script| script.lost = None);
    let pulled = Daemon::new(OLD[4], &gateway, None).pull("team/app", "1");
    assert_eq!(pulled.map(|layers| layers.len()), Ok(3));
}

/// Docker 1.3 to 1.6 with `--registry-mirror`: only images are requested from the mirror, with the Hub's token, while
/// lists and tags come from the Hub.
#[test]
fn registry_mirror_serves_images_only() {
    const OURS: &str = "signature=OURS,repository=\"library/app\",access=read";
    let hub = "Token signature=HUBS,repository=\"library/app\",access=read";
    let layer = random(8, 70_000);
    for (tokens, rules) in [(false, false), (true, false), (false, true), (true, true)] {
        let script = |given: bool| Script {
            tokens: (tokens && !given).then(|| OURS.into()),
            index: (tokens && given).then(|| OURS.into()),
            ..Script::default()
        };
        let (registry, index) = (
            V1Registry::with(script(false)),
            V1Registry::with(script(true)),
        );
        let ids = registry.push_image("library/app", "1", &[b"root", &layer]);
        index.push_image("library/app", "1", &[b"root", &layer]);
        let secret = registry.push_image("secret/app", "1", &[b"theirs"]);
        let accounts = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("v1-mirror-htpasswd");
        std::fs::write(&accounts, crate::v1::ACCOUNTS).expect("writable");
        let access = if rules {
            format!(
                "access: {{htpasswd: {}, rules: [{{users: [anonymous], \
                 repositories: [\"old/library/*\", \"old/app\"], actions: [pull]}}]}}\n",
                accounts.display()
            )
        } else {
            String::new()
        };
        let gateway = Gateway::start(&format!(
            "listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"127.0.0.1:0\", tls: off, read_only: true}}]\n\
             registries: [{{name: old, v1: \"{}\", v1_index: \"{}\"}}]\n{access}",
            registry.url(),
            index.url()
        ));
        let with = |path: &str| ask(&gateway, "GET", path, &[("Authorization", hub)]);
        for round in 0..2 {
            for (what, expected) in [("ancestry", None), ("json", None), ("layer", Some(&layer))] {
                let reply = with(&part(&ids[1], what));
                assert_eq!(reply.status(), 200, "{tokens} {rules} {what} {reply:?}");
                assert!(expected.is_none_or(|layer| reply.body == *layer));
                assert_eq!(reply.header("x-docker-token"), None);
                assert_eq!(cache(&reply).contains("hit"), round > 0, "{what} {reply:?}");
            }
            assert_eq!(with(&part(&ids[0], "layer")).status(), 200);
        }
        for seen in registry.requests().iter().chain(&index.requests()) {
            let sent = seen.header("authorization").unwrap_or_default();
            assert!(!sent.contains("HUBS"), "{seen:?}");
        }
        if rules {
            // The name in a foreign token grants nothing.
            assert_eq!(with(&part(&secret[0], "layer")).status(), 404);
            let theirs = hub.replace("library/app", "secret/app");
            let headers = [("Authorization", &*theirs)];
            let reply = ask(&gateway, "GET", &part(&secret[0], "layer"), &headers);
            assert_eq!(reply.status(), 403, "{reply:?}");
        }
        let pushed = ask(&gateway, "PUT", &part(&ids[0], "layer"), &[]);
        assert_eq!(pushed.status(), 405);
    }
}
