//! Tests of the harness with a peer: docker-registry's own pull-through cache in the gateway's place.
//!
//! It validates clients and counters without a gateway: if a pull test fails and these do not, the fault is in the
//! gateway. The peer revalidates a tag every time, so only its blobs are expected to be free the second time.

use crate::real::scene::{Pulls, Upstream, cold_and_warm};
use testkit::image::Made;
use testkit::real::{
    Client, Containerd, Count, Docker, Mirror, Missing, Podman, Registry, Skopeo, found,
};

fn parts<T>(
    tls: bool,
    client: impl FnOnce(&Registry) -> Result<T, Missing>,
) -> Option<(Upstream, Registry, T)> {
    let upstream = found(Upstream::filled(Registry::start()))?;
    let peer = found(Registry::mirror_of(&upstream.registry.url(), tls))?;
    let client = found(client(&peer))?;
    Some((upstream, peer, client))
}

#[track_caller]
fn check(upstream: &Upstream, client: &mut dyn Client, reference: &str, made: &Made) -> Pulls {
    let pulls = cold_and_warm(upstream, client, reference, made);
    assert_eq!(pulls.warm_cost.of("GET */blobs/*"), Count::default());
    pulls
}

#[test]
fn skopeo_pulls_through_a_peer_over_tls() {
    let new = |peer: &Registry| Skopeo::new(&peer.url(), Some(&peer.ca_path()));
    let Some((upstream, _peer, skopeo)) = parts(true, new) else {
        return;
    };
    let mut skopeo = skopeo.all();
    let pulls = check(&upstream, &mut skopeo, "library/multi:1", &upstream.multi);
    let mut content = upstream.multi.content.clone();
    content.sort();
    assert_eq!(pulls.cold.content, content);
}

#[test]
fn dockerd_pulls_through_a_peer() {
    let Some((upstream, _peer, mut docker)) = parts(false, |peer| Docker::with_mirror(&peer.url()))
    else {
        return;
    };
    check(&upstream, &mut docker, "library/small:1", &upstream.small);
    let failed = docker.pull("library/none:1").expect_err("nothing is there");
    assert!(
        failed.contains("refused") || failed.contains("not found"),
        "{failed}"
    );
}

#[test]
fn ctr_pulls_through_a_peer_over_tls() {
    let new =
        |peer: &Registry| Containerd::with_hosts("docker.io", &peer.url(), Some(&peer.ca_path()));
    let Some((upstream, _peer, mut ctr)) = parts(true, new) else {
        return;
    };
    check(
        &upstream,
        &mut ctr,
        "docker.io/library/small:1",
        &upstream.small,
    );
}

#[test]
fn podman_pulls_through_a_peer_over_tls() {
    let new = |peer: &Registry| {
        Podman::new(Mirror {
            prefix: "docker.io",
            location: peer.authority(),
            ca: Some(&peer.ca_path()),
        })
    };
    let Some((upstream, _peer, mut podman)) = parts(true, new) else {
        return;
    };
    check(
        &upstream,
        &mut podman,
        "docker.io/library/small:1",
        &upstream.small,
    );
}
