//! Broken registries: their statuses, dropped connections and bodies of unknown length.

use testkit::http::{End, Raw, get};
use testkit::v1::{Script, V1Registry};

use super::requests::{ask, open};

/// gunicorn closes idle connections at any time.
#[test]
fn dropped_upstream_connections_are_retried() {
    let registry = V1Registry::with(Script {
        hangs_up: true,
        ..Script::default()
    });
    let (gateway, layer, path) = open(&registry);
    let mut client = Raw::connect(gateway.url(1), None);
    for _ in 0..30 {
        let reply = client.get(&path);
        assert!(reply.status() == 200 && reply.body == layer, "{reply:?}");
    }
}

#[test]
fn upstream_statuses_are_mapped() {
    let registry = V1Registry::start();
    let (gateway, ..) = open(&registry);
    for (theirs, ours) in [
        (400, 400),
        (404, 404),
        (409, 409),
        (500, 500),
        (503, 503),
        (401, 403),
    ] {
        registry.script(|script| script.broken = Some(theirs));
        let reply = get(gateway.url(1), None, "/v1/repositories/app/images");
        assert_eq!(reply.status(), ours, "{theirs}: {reply:?}");
        assert_eq!(reply.header("x-docker-token"), None);
        assert!(reply.text().starts_with("{\"error\":"), "{reply:?}");
    }
    registry.script(|script| script.broken = None);
    // The registry's own 404 is passed on, and not treated as stale knowledge.
    let absent = format!("/v1/images/{}/json", "0".repeat(64));
    let reply = get(gateway.url(1), None, &absent);
    assert_eq!(
        (reply.status(), &*reply.text()),
        (404, "{\"error\":\"Image not found\"}")
    );
    drop(registry);
    let reply = get(gateway.url(1), None, "/v1/repositories/app/images");
    assert_eq!(reply.status(), 503, "{reply:?}");
}

/// A body that ends with its connection may be truncated: complete JSON can be recognised, a layer cannot.
#[test]
fn close_delimited_bodies_must_be_complete_json() {
    let registry = V1Registry::start();
    let (gateway, _, layer) = open(&registry);
    let id = layer.split('/').nth(3).expect("an id").to_owned();
    let paths = [
        format!("/v1/images/{id}/json"),
        format!("/v1/images/{id}/ancestry"),
        "/v1/repositories/library/app/tags".to_owned(),
        "/v1/repositories/library/app/images".to_owned(),
    ];
    let whole: Vec<Vec<u8>> = paths
        .iter()
        .map(|path| ask(&gateway, "GET", path, &[]).body)
        .collect();
    registry.script(|script| script.unframed = true);
    for (path, whole) in paths.iter().zip(&whole) {
        let reply = ask(&gateway, "GET", path, &[]);
        assert_eq!(
            (reply.status(), reply.end.clone()),
            (200, End::Complete),
            "{path}"
        );
        assert!(reply.body == *whole, "{path}");
    }
    let refused = ask(&gateway, "GET", &layer, &[]);
    assert_eq!(refused.status(), 502);
    assert!(
        refused.text().contains("neither a length nor a digest"),
        "{refused:?}"
    );
    registry.script(|script| script.truncate = Some(5));
    for path in &paths[..2] {
        let cut = ask(&gateway, "GET", path, &[]);
        assert!(cut.status() >= 500, "{path}: {cut:?}");
    }
}
