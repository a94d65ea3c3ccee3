//! Outages and rate limits: cached content is served while the upstream fails, and the upstream's refusals are passed
//! on.

mod circuit_breaker;

use std::time::{Duration, Instant};

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, at_once, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::until;

fn scene(more: &str) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 100_000)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), more);
    (origin, image, gateway)
}

/// Pulls an image whole.
#[track_caller]
fn pull(gateway: &Gateway, image: &Image) -> Reply {
    let manifest = get(gateway.url(1), None, &image.tag_path());
    assert!(manifest.body == image.manifest, "{manifest:?}");
    for path in [image.digest_path(), image.layer_path(0), image.blob_path(0)] {
        assert_eq!(get(gateway.url(1), None, &path).status(), 200, "{path}");
    }
    manifest
}

/// Outages, and the detail of `Cache-Status` for each.
fn outages() -> Vec<(&'static str, Option<Fault>, &'static str)> {
    vec![
        ("down", None, "unavailable"),
        ("hung", Some(Fault::Stall), "slow"),
        ("reset", Some(Fault::Reset), "unavailable"),
        ("hung up", Some(Fault::Hangup), "unavailable"),
        ("500", Some(Fault::status(500)), "unavailable"),
        ("502", Some(Fault::status(502)), "unavailable"),
        ("503", Some(Fault::status(503)), "unavailable"),
        (
            "429",
            Some(Fault::status_with(429, "Retry-After", "60")),
            "limited",
        ),
    ]
}

#[test]
fn cached_image_is_served_during_outages() {
    for (name, fault, detail) in outages() {
        let (mut origin, image, mut gateway) = scene("store: {tag_ttl: 0s}\n");
        pull(&gateway, &image);
        match fault {
            Some(fault) => drop(origin.fault(fault)),
            None => origin.down(),
        }
        for restarted in [false, true] {
            if restarted {
                gateway.restart();
            }
            let started = Instant::now();
            let manifest = pull(&gateway, &image);
            assert!(
                started.elapsed() < Duration::from_secs(4),
                "{name}: {:?}",
                started.elapsed()
            );
            let warning = r#"299 - "stale copy, upstream unavailable""#;
            assert_eq!(manifest.header("warning"), Some(warning), "{name}");
            let age: u64 = manifest
                .header("age")
                .expect("an age")
                .parse()
                .expect("seconds");
            assert!(age < 60, "{name}");
            let status = manifest.header("cache-status").expect("a status");
            // While the upstream is paused after a failure, clients do not wait for it.
            let said = status == format!("roadstead; fwd=stale; detail={detail}")
                || status == "roadstead; fwd=stale; detail=unavailable";
            assert!(said, "{name}: {status}");
        }
    }
}

#[test]
fn uncached_content_is_unavailable_within_ten_seconds() {
    for (name, fault, _) in outages() {
        let (mut origin, image, gateway) = scene("");
        let limited = name == "429";
        match fault {
            Some(fault) => drop(origin.fault(fault)),
            None => origin.down(),
        }
        let paths = [
            image.tag_path(),
            image.digest_path(),
            "/v2/app/tags/list".to_owned(),
        ];
        at_once(3, |i| {
            let started = Instant::now();
            let reply = get(gateway.url(1), None, &paths[i]);
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "{name}: {:?}",
                started.elapsed()
            );
            let expected = if limited {
                (429, "TOOMANYREQUESTS")
            } else {
                (503, "UNAVAILABLE")
            };
            assert_eq!(
                (reply.status(), reply.error_code().as_deref()),
                (expected.0, Some(expected.1)),
                "{name}"
            );
            assert!(reply.header("retry-after").is_some(), "{name}");
        });
    }
}

#[test]
fn stale_responses_end_at_max_stale() {
    let (mut origin, image, gateway) = scene("store: {tag_ttl: 0s, max_stale: off}\n");
    pull(&gateway, &image);
    origin.down();
    assert_eq!(get(gateway.url(1), None, &image.tag_path()).status(), 503);
    // Content by digest is never stale.
    assert_eq!(
        get(gateway.url(1), None, &image.digest_path()).status(),
        200
    );
}

#[test]
fn upstream_denial_is_never_answered_stale() {
    for (status, answer, code) in [
        (401, 403, "DENIED"),
        (403, 403, "DENIED"),
        (404, 404, "MANIFEST_UNKNOWN"),
    ] {
        let (origin, image, gateway) = scene("store: {tag_ttl: 0s, missing_ttl: 0s}\n");
        pull(&gateway, &image);
        let rule = origin.fault(Fault::status(status).on("*", "*/manifests/*"));
        let reply = get(gateway.url(1), None, &image.tag_path());
        assert_eq!(
            (reply.status(), reply.error_code().as_deref()),
            (answer, Some(code))
        );
        origin.heal(rule);
        if status == 404 {
            // The pointer is gone: with the upstream down there is no stale answer.
            origin.fault(Fault::status(503));
            assert_eq!(get(gateway.url(1), None, &image.tag_path()).status(), 503);
        }
    }
}

#[test]
fn failing_upstream_opens_the_circuit_breaker() {
    let (origin, image, gateway) = scene("store: {tag_ttl: 0s}\n");
    pull(&gateway, &image);
    origin.fault(Fault::status(500));
    origin.clear_requests();
    for _ in 0..50 {
        pull_tag_stale(&gateway, &image);
    }
    // Three attempts, with growing pauses.
    assert!(origin.requests().len() <= 12, "{}", origin.requests().len());
    origin.heal_all();
    until("the upstream to be asked again", || {
        let reply = get(gateway.url(1), None, &image.tag_path());
        reply.header("cache-status") == Some("roadstead; fwd=stale; detail=revalidated")
    });
}

#[track_caller]
fn pull_tag_stale(gateway: &Gateway, image: &Image) {
    let reply = get(gateway.url(1), None, &image.tag_path());
    assert!(reply.body == image.manifest && reply.header("warning").is_some());
}

#[test]
fn rate_limit_stops_manifest_gets_only() {
    let (origin, image, gateway) = scene("store: {tag_ttl: 0s}\n");
    pull(&gateway, &image);
    let other = origin.push_image("library/other", "latest", &[random(2, 1000)]);
    origin.fault(Fault::status_with(429, "Retry-After", "30").on("GET", "*/manifests/*"));
    let limited = get(gateway.url(1), None, &other.tag_path());
    assert_eq!(
        (limited.status(), limited.error_code().as_deref()),
        (429, Some("TOOMANYREQUESTS"))
    );
    let wait: u64 = limited
        .header("retry-after")
        .expect("a wait")
        .parse()
        .expect("seconds");
    assert!((25..=30).contains(&wait), "{wait}");
    origin.heal_all();
    origin.clear_requests();
    // Another manifest GET is not sent; HEADs and blobs are.
    assert_eq!(
        get(gateway.url(1), None, &other.digest_path()).status(),
        429
    );
    assert_eq!(origin.count("GET", "*/manifests/*"), 0);
    assert_eq!(
        get(gateway.url(1), None, &other.layer_path(0)).status(),
        200
    );
    let known = get(gateway.url(1), None, &image.tag_path());
    assert_eq!(
        known.header("cache-status"),
        Some("roadstead; fwd=stale; detail=revalidated")
    );
}

#[test]
fn rate_limit_changes_are_logged() {
    let (origin, image, gateway) = scene("store: {tag_ttl: 0s}\n");
    let headers = |remaining: u32| {
        vec![
            Fault::header("ratelimit-limit", "100;w=21600"),
            Fault::header("ratelimit-remaining", &format!("{remaining};w=21600")),
            Fault::header("docker-ratelimit-source", "203.0.113.7"),
        ]
    };
    for remaining in [90, 89, 85, 80, 79] {
        origin.heal_all();
        for fault in headers(remaining) {
            origin.fault(fault);
        }
        get(gateway.url(1), None, &image.tag_path());
    }
    let log = gateway.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("pulls that the upstream still allows"))
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].contains("remaining=90") && lines[1].contains("remaining=80"),
        "{lines:?}"
    );
    assert!(lines[0].contains("203.0.113.7") && lines[0].contains("100"));
}

#[test]
fn lists_are_served_stale() {
    let (mut origin, _, gateway) = scene("");
    let mut raw = Raw::connect(gateway.url(1), None);
    assert_eq!(raw.get("/v2/app/tags/list").status(), 200);
    origin.down();
    // Within its minute it is fresh.
    let list = raw.get("/v2/app/tags/list");
    assert_eq!(
        (list.status(), list.header("cache-status")),
        (200, Some("roadstead; hit"))
    );
    assert_eq!(raw.get("/v2/app/tags/list?n=1").status(), 503);
}

#[test]
fn closed_pooled_connection_is_retried() {
    let (mut origin, image, gateway) = scene("store: {tag_ttl: 0s}\n");
    for _ in 0..5 {
        assert!(
            get(gateway.url(1), None, &image.tag_path())
                .header("warning")
                .is_none()
        );
        origin.down();
        origin.up();
    }
}
