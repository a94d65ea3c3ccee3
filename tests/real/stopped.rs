//! Real clients with the upstream stopped: a pulled image can be pulled again by tag, also after a restart of the
//! gateway.
//!
//! `tag_ttl` is 0 s here, so every pull has to revalidate: the answers are stale and marked so.

use crate::real::scene::Upstream;
use testkit::gateway::Gateway;
use testkit::http::get;
use testkit::real::{Client, Containerd, Docker, Mirror, Missing, Podman, Registry, Skopeo, found};
use testkit::{eventually, private_address};

const WARNING: &str = r#"299 - "stale copy, upstream unavailable""#;
const TAG: &str = "/v2/library/small/manifests/1";

/// A gateway that is a mirror of docker.io with listeners that survive a restart: TLS (`url(0)`), and plain and
/// read-only (`url(1)`).
fn config(v2: &str, listeners: [std::net::SocketAddr; 2]) -> String {
    let [tls, plain] = listeners;
    format!(
        "listen:\n\
         - {{address: \"{tls}\"}}\n\
         - {{address: \"{plain}\", tls: off, read_only: true, registry: docker.io}}\n\
         store: {{tag_ttl: 0s}}\n\
         registries:\n- {{name: docker.io, v2: \"{v2}\"}}\n"
    )
}

/// One client pulls `library/small:1`, by its own `reference`: with the upstream up, with it stopped, after a restart,
/// and after one without a network, where the upstream's name does not resolve.
#[track_caller]
fn check<T: Client>(client: impl FnOnce(&Gateway) -> Result<T, Missing>, reference: &str) {
    let Some(mut upstream) = found(Upstream::filled(Registry::start())) else {
        return;
    };
    let listeners = [private_address(), private_address()];
    let mut gateway = Gateway::start(&config(&upstream.registry.url(), listeners));
    let Some(mut client) = found(client(&gateway)) else {
        return;
    };
    let cold = client.pull(reference).expect("the cold pull");
    assert_eq!(cold.digest, upstream.small.digest);
    upstream.registry.down();
    for act in ["stopped", "restarted", "without a network"] {
        match act {
            "restarted" => gateway.restart(),
            "without a network" => {
                gateway.restart_with(&config("http://upstream.invalid", listeners));
            }
            _ => {}
        }
        let before = gateway.log().len();
        client.wipe();
        let pulled = client.pull(reference);
        let pulled = pulled.unwrap_or_else(|said| panic!("{act}: {said}"));
        assert_eq!(pulled, cold, "{act}");
        // The `Cache-Status` of the client's own request for the tag.
        let asked = eventually("the client's question in the log", || {
            let log = gateway.log().split_off(before);
            let asked = log.lines().filter(|line| {
                line.contains("/small/manifests/1\"") && line.contains("status=200")
            });
            let asked: Vec<String> = asked.map(str::to_owned).collect();
            (!asked.is_empty()).then_some(asked)
        });
        let stale = |line: &String| line.contains("fwd=stale; detail=");
        assert!(asked.iter().all(stale), "{act}: {asked:?}");
        let manifest = get(gateway.url(0), Some(&gateway.ca_path()), TAG);
        assert_eq!(manifest.header("warning"), Some(WARNING), "{act}");
        let digest = manifest.header("docker-content-digest");
        assert_eq!(digest, Some(&*cold.digest), "{act}");
    }
}

#[test]
fn skopeo_over_tls() {
    let new = |it: &Gateway| Skopeo::new(it.url(0), Some(&it.ca_path()));
    check(new, "library/small:1");
}

#[test]
fn dockerd_with_a_registry_mirror() {
    check(|it| Docker::with_mirror(it.url(1)), "library/small:1");
}

#[test]
fn ctr_with_hosts_toml_over_tls() {
    let new = |it: &Gateway| Containerd::with_hosts("docker.io", it.url(0), Some(&it.ca_path()));
    check(new, "docker.io/library/small:1");
}

#[test]
fn podman_with_a_prefix_mirror_over_tls() {
    let new = |gateway: &Gateway| {
        Podman::new(Mirror {
            prefix: "docker.io",
            location: &format!("{}/docker.io", gateway.authority(0)),
            ca: Some(&gateway.ca_path()),
        })
    };
    check(new, "docker.io/library/small:1");
}
