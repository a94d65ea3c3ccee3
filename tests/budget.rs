//! The pulls that a registry allows: what is cached outlives them, and what is not cached gets the last ones.

mod accounts;
mod moves;
mod statements;
mod week;

use std::time::Duration;

use serde_json::Value;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin, Quota};
use testkit::until;

/// Anonymous clients may pull, though the gateway has accounts.
const RULES: &str =
    "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";
const ADMIN: &str = "admin: {address: \"127.0.0.1:0\"}\n";
const HOURS: u64 = 3600;

/// A registry that allows so many pulls in six hours, and says so.
fn hub(limit: usize) -> Origin {
    let origin = Origin::start();
    origin.limit_pulls(quota(limit, true));
    origin
}

fn quota(limit: usize, is_stated: bool) -> Quota {
    Quota {
        limit,
        window: Duration::from_secs(6 * HOURS),
        is_stated,
    }
}

/// A gateway whose tags are never fresh.
fn gateway(origin: &Origin) -> Gateway {
    let more = format!("store: {{tag_ttl: 0s}}\n{ADMIN}");
    Gateway::mirror("docker.io", &origin.url(), &more)
}

fn push(origin: &Origin, name: &str, seed: u64) -> Image {
    origin.push_image(&format!("library/{name}"), "latest", &[random(seed, 100)])
}

/// Pulls so many images that were never pulled before, each of which costs one pull.
#[track_caller]
fn spend(origin: &Origin, gateway: &Gateway, images: usize) {
    for number in 0..images {
        let already = origin.pull_totals().pulls;
        let image = push(origin, &format!("other-{already}-{number}"), 1);
        assert_eq!(fetch(gateway, &image.tag_path()).status(), 200);
    }
}

#[track_caller]
fn fetch(gateway: &Gateway, path: &str) -> Reply {
    get(gateway.url(1), None, path)
}

/// The `Cache-Status` of a response: `hit`, `fwd=uri-miss; …`.
#[track_caller]
fn cache_status(reply: &Reply) -> &str {
    let status = reply.header("cache-status").expect("a status");
    status.trim_start_matches("roadstead; ")
}

fn digest(reply: &Reply) -> Option<&str> {
    reply.header("docker-content-digest")
}

/// The first registry in the API.
#[track_caller]
fn registry(gateway: &Gateway) -> Value {
    let reply = get(
        gateway.operators("admin.address"),
        None,
        "/api/v1/registries",
    );
    assert_eq!(reply.status(), 200, "{reply:?}");
    let page: Value = serde_json::from_slice(&reply.body).expect("JSON");
    page["items"][0].clone()
}

/// The value of a series of `/metrics`, whose labels are written as there.
#[track_caller]
fn metric(gateway: &Gateway, series: &str) -> Option<f64> {
    let reply = get(gateway.operators("admin.address"), None, "/metrics");
    let text = reply.text();
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}
