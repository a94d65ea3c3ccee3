//! `roadstead warm` with a real registry: real clients need nothing else once the registry is gone.

use crate::real::scene::Upstream;
use testkit::gateway::Gateway;
use testkit::real::{Client, Containerd, Missing, Registry, Skopeo, found};

/// Warms an image, stops the registry, and pulls.
#[track_caller]
fn check<T: Client>(
    client: impl FnOnce(&Gateway) -> Result<T, Missing>,
    reference: &str,
    warm: &[&str],
) {
    let Some(mut upstream) = found(Upstream::filled(Registry::start())) else {
        return;
    };
    let url = upstream.registry.url();
    let gateway = Gateway::mirror("docker.io", &url, "admin: {address: \"unix:admin.sock\"}\n");
    let Some(mut client) = found(client(&gateway)) else {
        return;
    };
    let output = gateway.roadstead(warm);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let cost = upstream.registry.counters();
    let again = gateway.roadstead(warm);
    let told = String::from_utf8_lossy(&again.stdout);
    assert!(told.trim_end().ends_with("; 0 B fetched"), "{told}");
    let again = &upstream.registry.counters() - &cost;
    assert_eq!(again.of("GET */blobs/*").requests, 0, "{again:?}");

    upstream.registry.down();
    let made = if reference.contains("small") {
        &upstream.small
    } else {
        &upstream.multi
    };
    assert_eq!(client.pull(reference).expect("a pull").digest, made.digest);
}

#[test]
fn skopeo_pulls_a_warmed_image() {
    let new = |it: &Gateway| Skopeo::new(it.url(0), Some(&it.ca_path()));
    check(new, "library/small:1", &["warm", "small:1"]);
}

#[test]
fn skopeo_copies_a_warmed_index() {
    let new = |it: &Gateway| Skopeo::new(it.url(0), Some(&it.ca_path())).map(Skopeo::all);
    check(
        new,
        "library/multi:1",
        &["warm", "multi:1", "--platform", "all"],
    );
}

/// containerd fetches the platform of its machine, as the command does.
#[test]
fn ctr_pulls_an_image_warmed_for_this_platform() {
    let new = |it: &Gateway| Containerd::with_hosts("docker.io", it.url(0), Some(&it.ca_path()));
    check(new, "docker.io/library/multi:1", &["warm", "multi:1"]);
}
