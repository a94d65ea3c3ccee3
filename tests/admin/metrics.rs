//! `/metrics` and `/api/v1/overview`: exact values, the format, and the absence of names and secrets.

use std::io::Write as _;
use std::process::Stdio;

use super::*;
use testkit::http::at_once;
use testkit::origin::{Fault, Latch};
use testkit::real::{found, program};
use testkit::{gateway, sha256, until};

#[test]
fn cold_and_warm_pulls_are_counted_to_the_byte() {
    let (origin, image, gateway) = scene(100_000, ANYWHERE);
    origin.fault(Fault::header("ratelimit-remaining", "76;w=21600"));
    let manifest = image.manifest.len() as u64;
    let blobs = 100_000 + image.blobs[0].1.len() as u64;
    pull(&gateway, &image);
    let cold = metrics_after(&gateway, "blob", 2);
    cold.assert(&[
        ("registry_proxy_requests_total{type=\"manifest\"}", 1),
        ("registry_proxy_hits_total{type=\"manifest\"}", 0),
        ("registry_proxy_misses_total{type=\"manifest\"}", 1),
        (
            "registry_proxy_pulled_bytes_total{type=\"manifest\"}",
            manifest,
        ),
        (
            "registry_proxy_pushed_bytes_total{type=\"manifest\"}",
            manifest,
        ),
        ("registry_proxy_requests_total{type=\"blob\"}", 2),
        ("registry_proxy_hits_total{type=\"blob\"}", 0),
        ("registry_proxy_misses_total{type=\"blob\"}", 2),
        ("registry_proxy_pulled_bytes_total{type=\"blob\"}", blobs),
        ("registry_proxy_pushed_bytes_total{type=\"blob\"}", blobs),
        ("roadstead_coalesced_total{type=\"blob\"}", 0),
        ("roadstead_fill_resumes_total", 0),
        ("roadstead_fills_in_flight", 0),
        ("roadstead_verify_failures_total{source=\"upstream\"}", 0),
        ("roadstead_verify_failures_total{source=\"disk\"}", 0),
        ("roadstead_store_objects", 3),
        // In blocks of 4 KiB: the layer, its configuration, its manifest, the tag and three links.
        ("roadstead_store_bytes", (25 + 1 + 1 + 4) * 4096),
        ("roadstead_store_evicted_total", 0),
        ("roadstead_store_evicted_bytes_total", 0),
        (
            "roadstead_ratelimit_remaining{account=\"anonymous\",registry=\"docker.io\"}",
            76,
        ),
        (&upstream("manifest_head", "200"), 1),
        (&upstream("manifest", "200"), 1),
        (&upstream("blob", "200"), 2),
    ]);

    pull(&gateway, &image);
    // A HEAD requests no bytes, so it does not count as a cache lookup.
    let head = Raw::connect(gateway.url(1), None).head(&image.layer_path(0));
    assert_eq!(head.status(), 200);
    let warm = metrics_after(&gateway, "blob", 4);
    warm.assert(&[
        ("registry_proxy_requests_total{type=\"manifest\"}", 2),
        ("registry_proxy_hits_total{type=\"manifest\"}", 1),
        ("registry_proxy_misses_total{type=\"manifest\"}", 1),
        (
            "registry_proxy_pulled_bytes_total{type=\"manifest\"}",
            manifest,
        ),
        (
            "registry_proxy_pushed_bytes_total{type=\"manifest\"}",
            2 * manifest,
        ),
        ("registry_proxy_requests_total{type=\"blob\"}", 4),
        ("registry_proxy_hits_total{type=\"blob\"}", 2),
        ("registry_proxy_misses_total{type=\"blob\"}", 2),
        ("registry_proxy_pulled_bytes_total{type=\"blob\"}", blobs),
        (
            "registry_proxy_pushed_bytes_total{type=\"blob\"}",
            2 * blobs,
        ),
        (&upstream("manifest", "200"), 1),
        (&upstream("blob", "200"), 2),
    ]);
}

#[test]
fn requests_are_counted_by_kind() {
    let (_origin, image, gateway) = scene(100_000, ANYWHERE);
    let manifest = image.manifest.len() as u64;
    pull(&gateway, &image);
    pull(&gateway, &image);
    assert_eq!(
        Raw::connect(gateway.url(1), None)
            .head(&image.layer_path(0))
            .status(),
        200
    );
    assert_eq!(
        fetch(&gateway, "/v2/library/none/blobs/sha256:0").status(),
        400
    );
    until("the last request to be counted", || {
        Metrics::of(&gateway)
            .get("registry_http_requests_total{code=\"400\",handler=\"blob\",method=\"get\"}")
            == 1
    });
    metrics_after(&gateway, "blob", 4).assert(&[
        (
            "registry_http_requests_total{code=\"200\",handler=\"manifest\",method=\"get\"}",
            2,
        ),
        (
            "registry_http_requests_total{code=\"200\",handler=\"blob\",method=\"get\"}",
            4,
        ),
        (
            "registry_http_requests_total{code=\"200\",handler=\"blob\",method=\"head\"}",
            1,
        ),
        (
            "registry_http_request_duration_seconds_count{handler=\"blob\",method=\"get\"}",
            5,
        ),
        (
            "registry_http_response_size_bytes_count{handler=\"manifest\",method=\"get\"}",
            2,
        ),
        (
            "registry_http_response_size_bytes_sum{handler=\"manifest\",method=\"get\"}",
            2 * manifest,
        ),
        (
            "registry_http_request_size_bytes_sum{handler=\"manifest\",method=\"get\"}",
            0,
        ),
        ("registry_http_in_flight_requests{handler=\"blob\"}", 0),
        ("registry_http_in_flight_requests{handler=\"manifest\"}", 0),
    ]);
}

#[test]
fn counters_start_at_zero() {
    let (_origin, _, gateway) = scene(1, ANYWHERE);
    let before = Metrics::of(&gateway);
    for series in ["requests", "hits", "misses", "pulled_bytes", "pushed_bytes"] {
        for kind in ["blob", "manifest"] {
            let series = format!("registry_proxy_{series}_total{{type=\"{kind}\"}}");
            assert_eq!(before.values.get(&series), Some(&0.0), "{series}");
        }
    }
}

#[test]
fn overview_equals_metrics() {
    let (origin, image, gateway) = scene(100_000, ANYWHERE);
    origin.fault(Fault::header("ratelimit-remaining", "76;w=21600"));
    let manifest = image.manifest.len() as u64;
    let blobs = 100_000 + image.blobs[0].1.len() as u64;
    pull(&gateway, &image);
    pull(&gateway, &image);
    metrics_after(&gateway, "blob", 4);
    let overview: serde_json::Value =
        serde_json::from_slice(&ask(&gateway, "/api/v1/overview").body).expect("JSON");
    assert_eq!(overview["blobs"]["hits"], 2);
    assert_eq!(overview["blobs"]["fetched_bytes"], blobs);
    assert_eq!(overview["manifests"]["served_bytes"], 2 * manifest);
    assert_eq!(overview["store"]["blobs"], 3);
    assert_eq!(overview["store"]["max_bytes"], 100_u64 << 30);
    assert_eq!(overview["ready"], true);
    // Six GETs, of which three were hits, since the start a moment ago.
    for window in ["hour", "day"] {
        let traffic = &overview["traffic"][window];
        assert_eq!(
            (&traffic["requests"], &traffic["hits"]),
            (&6.into(), &3.into())
        );
        assert_eq!(traffic["hit_ratio"], 0.5);
        assert_eq!(traffic["saved_bytes"], blobs + manifest);
    }
    let registries: serde_json::Value =
        serde_json::from_slice(&ask(&gateway, "/api/v1/registries").body).expect("JSON");
    let hub = &registries["items"][0];
    assert_eq!(
        (&hub["name"], &hub["health"]),
        (&"docker.io".into(), &"healthy".into())
    );
    assert_eq!((&hub["requests"], &hub["failures"]), (&4.into(), &0.into()));
    assert_eq!(hub["rate_limit"]["remaining"], 76);
    assert_eq!(hub["rate_limit"]["window_seconds"], 21_600);
    assert_eq!(hub["latency"]["samples"], 4);
}

fn upstream(kind: &str, code: &str) -> String {
    format!(
        "roadstead_upstream_requests_total{{code=\"{code}\",kind=\"{kind}\",registry=\"docker.io\"}}"
    )
}

#[test]
fn coalesced_requests_are_counted() {
    let (origin, image, gateway) = scene(2 << 20, ANYWHERE);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", "*/blobs/*"));
    let url = gateway.url(1);
    std::thread::scope(|scope| {
        let clients = scope.spawn(|| at_once(16, |_| get(url, None, &image.layer_path(0))));
        latch.wait_reached(1);
        until("sixteen requests in flight", || {
            Metrics::of(&gateway).get("registry_http_in_flight_requests{handler=\"blob\"}") == 16
        });
        Metrics::of(&gateway).assert(&[("roadstead_fills_in_flight", 1)]);
        until("all of them to be answered", || {
            Metrics::of(&gateway).get("registry_proxy_requests_total{type=\"blob\"}") == 16
        });
        latch.release();
        for reply in clients.join().expect("sixteen answers") {
            assert!(reply.body == image.layer(0).1);
        }
    });
    let size = 2 << 20;
    metrics_after(&gateway, "blob", 16).assert(&[
        ("registry_proxy_requests_total{type=\"blob\"}", 16),
        ("registry_proxy_misses_total{type=\"blob\"}", 16),
        ("roadstead_coalesced_total{type=\"blob\"}", 15),
        ("registry_proxy_pulled_bytes_total{type=\"blob\"}", size),
        (
            "registry_proxy_pushed_bytes_total{type=\"blob\"}",
            16 * size,
        ),
        (&upstream("blob", "200"), 1),
        ("registry_http_in_flight_requests{handler=\"blob\"}", 0),
        ("roadstead_fills_in_flight", 0),
    ]);
}

#[test]
fn failures_are_counted() {
    let (mut origin, image, gateway) =
        scene(2 << 20, &format!("{ANYWHERE}store: {{tag_ttl: 0s}}\n"));
    // Cut off once: resumed, and no byte is sent twice.
    origin.fault(
        Fault::TruncateAt(1 << 20)
            .on("GET", &image.layer_path(0))
            .times(1),
    );
    assert!(fetch(&gateway, &image.layer_path(0)).body == image.layer(0).1);
    // Wrong bytes once: discarded and fetched again.
    let other = origin.push_blob("library/app", random(9, 500_000));
    origin.fault(
        Fault::WrongByteAt(7)
            .on("GET", &format!("*/{other}"))
            .times(1),
    );
    let corrupt = fetch(&gateway, &format!("/v2/library/app/blobs/{other}"));
    // A client that had received nothing yet gets the correct bytes.
    let truth = |reply: &Reply| sha256(&reply.body) == other;
    assert!(
        corrupt.status() == 502 || !corrupt.is_complete() || truth(&corrupt),
        "{corrupt:?}"
    );
    until("the second download", || {
        truth(&fetch(&gateway, &format!("/v2/library/app/blobs/{other}")))
    });
    let size = 2 << 20;
    Metrics::of(&gateway).assert(&[
        ("roadstead_fill_resumes_total", 1),
        (
            "registry_proxy_pulled_bytes_total{type=\"blob\"}",
            size + 2 * 500_000,
        ),
        ("roadstead_verify_failures_total{source=\"upstream\"}", 1),
        ("roadstead_verify_failures_total{source=\"disk\"}", 0),
        (&upstream("blob", "206"), 1),
    ]);

    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
    origin.down();
    for _ in 0..2 {
        assert!(
            fetch(&gateway, &image.tag_path())
                .header("warning")
                .is_some()
        );
    }
    let metrics = metrics_after(&gateway, "manifest", 3);
    metrics.assert(&[
        ("roadstead_stale_served_total{reason=\"unavailable\"}", 2),
        ("registry_proxy_hits_total{type=\"manifest\"}", 2),
        ("registry_proxy_misses_total{type=\"manifest\"}", 1),
    ]);
    assert!(
        metrics.get(&upstream("manifest_head", "none")) >= 1,
        "{}",
        metrics.text
    );
}

#[test]
fn evictions_are_counted() {
    let more = format!("{ANYWHERE}store: {{max_size: 1MiB}}\n");
    let (origin, _, gateway) = scene(1, &more);
    for seed in 0..3 {
        let digest = origin.push_blob("library/app", random(seed, 600 << 10));
        assert_eq!(
            fetch(&gateway, &format!("/v2/library/app/blobs/{digest}")).status(),
            200
        );
    }
    until("two to have made room for the third", || {
        let metrics = Metrics::of(&gateway);
        metrics.get("roadstead_store_evicted_total") == 2
            && metrics.get("roadstead_store_objects") == 1
    });
    Metrics::of(&gateway).assert(&[
        ("roadstead_store_evicted_bytes_total", 2 * (600 << 10)),
        // The links stay.
        ("roadstead_store_bytes", (600 << 10) + 3 * 4096),
    ]);
}

/// `promtool check metrics`: it prints nothing for valid output.
#[test]
fn prometheus_accepts_the_metrics() {
    let (_origin, image, gateway) = scene(100_000, ANYWHERE);
    pull(&gateway, &image);
    let metrics = metrics_after(&gateway, "blob", 2);
    let Some(promtool) = found(program("promtool")) else {
        return;
    };
    let mut check = process::command(promtool);
    check.args(["check", "metrics"]);
    check
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut check = check.spawn().expect("promtool runs");
    let mut input = check.stdin.take().expect("a pipe");
    input.write_all(metrics.text.as_bytes()).expect("it reads");
    drop(input);
    let output = check.wait_with_output().expect("it ends");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(
        output.status.success() && said.is_empty(),
        "{said}\n{}",
        metrics.text
    );
}

#[test]
fn metrics_contain_no_names_or_secrets() {
    let origin = Origin::start();
    let image = origin.push_image("private/hush", "whisper", &[random(1, 1000)]);
    let gateway = gateway::Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", visibility: public, \
         credentials: {{username: spy-7, password: open-sesame}}}}]\n{ANYWHERE}",
        origin.url()
    ));
    pull(&gateway, &image);
    assert_eq!(
        fetch(&gateway, "/v2/private/hush/manifests/murmur").status(),
        404
    );
    assert_eq!(fetch(&gateway, "/v2/private/hush/tags/list").status(), 200);
    metrics_after(&gateway, "tags", 1);
    let seen = [
        ask(&gateway, "/metrics"),
        ask(&gateway, "/api/v1/overview"),
        ask(&gateway, "/"),
    ];
    for reply in seen {
        let text = reply.text();
        for secret in [
            "hush", "private", "whisper", "murmur", "spy-7", "sesame", "sha256",
        ] {
            assert!(!text.contains(secret), "{secret} in\n{text}");
        }
    }
}
