//! Real clients through the gateway from a real registry: a cold pull, then a warm one by an empty client, without
//! upstream requests.

use crate::real::scene::{Pulls, Upstream, cold_and_warm};
use testkit::gateway::Gateway;
use testkit::image::Made;
use testkit::real::{
    Asked, Client, Containerd, Docker, Mirror, Missing, Podman, Registry, Skopeo, TokenServer,
    found,
};

const USER: &str = "mirror";
const PASSWORD: &str = "s3cret: of the upstream";

/// A gateway that is a mirror of the upstream as docker.io: TLS (`url(0)`) for clients that support it, and a plain
/// read-only listener (`url(1)`) for Docker.
fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::start(&config(upstream, "", ""))
}

fn config(upstream: &Upstream, registry: &str, more: &str) -> String {
    let v2 = upstream.registry.url();
    format!(
        "listen:\n\
         - {{address: \"127.0.0.1:0\"}}\n\
         - {{address: \"127.0.0.1:0\", tls: off, read_only: true, registry: docker.io}}\n\
         registries:\n\
         - name: docker.io\n  v2: \"{v2}\"\n{registry}{more}"
    )
}

/// An upstream with images, a gateway in front of it, and a client.
fn parts<T>(client: impl FnOnce(&Gateway) -> Result<T, Missing>) -> Option<(Upstream, Gateway, T)> {
    let upstream = found(Upstream::filled(Registry::start()))?;
    let gateway = gateway(&upstream);
    let client = found(client(&gateway))?;
    Some((upstream, gateway, client))
}

/// Pulls cold and warm: no blob is fetched twice, and the second pull causes no upstream request.
#[track_caller]
fn check(upstream: &Upstream, client: &mut dyn Client, reference: &str, made: &Made) -> Pulls {
    let pulls = cold_and_warm(upstream, client, reference, made);
    for (key, count) in &pulls.cold_cost.0 {
        let blob = key.starts_with("GET ") && key.contains("/blobs/");
        assert!(!blob || count.requests == 1, "{key}: {count:?}");
    }
    assert!(pulls.warm_cost.0.is_empty(), "{:?}", pulls.warm_cost);
    pulls
}

fn skopeo(gateway: &Gateway) -> Result<Skopeo, Missing> {
    Skopeo::new(gateway.url(0), Some(&gateway.ca_path()))
}

#[test]
fn skopeo_over_tls() {
    let Some((upstream, _gateway, mut skopeo)) = parts(skopeo) else {
        return;
    };
    check(&upstream, &mut skopeo, "library/small:1", &upstream.small);
}

#[test]
fn skopeo_copies_a_whole_index() {
    let Some((upstream, _gateway, skopeo)) = parts(skopeo) else {
        return;
    };
    let made = &upstream.multi;
    let pulls = check(&upstream, &mut skopeo.all(), "library/multi:1", made);
    let mut content = made.content.clone();
    content.sort();
    assert_eq!(pulls.cold.content, content);
}

#[test]
fn dockerd_with_a_registry_mirror() {
    let Some((upstream, _gateway, mut docker)) = parts(|it| Docker::with_mirror(it.url(1))) else {
        return;
    };
    check(&upstream, &mut docker, "library/small:1", &upstream.small);
    check(&upstream, &mut docker, "library/multi:1", &upstream.multi);
}

#[test]
fn ctr_with_hosts_toml_over_tls() {
    let new = |gateway: &Gateway| {
        Containerd::with_hosts("docker.io", gateway.url(0), Some(&gateway.ca_path()))
    };
    let Some((upstream, gateway, mut ctr)) = parts(new) else {
        return;
    };
    let made = &upstream.small;
    check(&upstream, &mut ctr, "docker.io/library/small:1", made);
    let mut ctr = ctr.all_platforms();
    ctr.wipe();
    let made = &upstream.multi;
    check(&upstream, &mut ctr, "docker.io/library/multi:1", made);
    assert!(gateway.log().contains("docker.io"));
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
    let Some((upstream, _gateway, mut podman)) = parts(new) else {
        return;
    };
    let made = &upstream.small;
    check(&upstream, &mut podman, "docker.io/library/small:1", made);
}

#[test]
fn upstream_with_a_password() {
    let registry = Registry::start_with_account(USER, PASSWORD);
    let Some(upstream) = found(Upstream::filled(registry)) else {
        return;
    };
    // A registry with credentials needs rules: here they permit all clients.
    let credentials = format!("  credentials: {{username: {USER}, password: \"{PASSWORD}\"}}\n");
    let access = "access:\n  rules:\n  \
         - {users: [anonymous], repositories: [\"docker.io/**\"], actions: [pull]}\n";
    let gateway = Gateway::start(&config(&upstream, &credentials, access));
    let Some(mut skopeo) = found(skopeo(&gateway)) else {
        return;
    };
    check(&upstream, &mut skopeo, "library/small:1", &upstream.small);
    assert!(!gateway.log().contains(PASSWORD));
}

#[test]
fn upstream_with_anonymous_tokens() {
    let tokens = TokenServer::start(None);
    let Some(upstream) = found(Upstream::filled(Registry::start_with_tokens(&tokens))) else {
        return;
    };
    let gateway = gateway(&upstream);
    let Some(mut skopeo) = found(skopeo(&gateway)) else {
        return;
    };
    check(&upstream, &mut skopeo, "library/small:1", &upstream.small);
    let asked = tokens.asked();
    let ours = |asked: &&Asked| asked.user_agent.starts_with("roadstead/");
    assert_eq!(asked.iter().filter(ours).count(), 1, "{asked:?}");
}

/// The upstream's CA comes from the environment here; `registries[].ca` is a later issue.
#[test]
fn upstream_over_tls_with_a_private_ca() {
    let Some(upstream) = found(Upstream::filled(Registry::start_tls())) else {
        return;
    };
    let ca = upstream.registry.ca_path();
    let environment = [("SSL_CERT_FILE", ca.to_str().expect("a path in UTF-8"))];
    let gateway = Gateway::start_with(&config(&upstream, "", ""), &environment);
    let Some(mut skopeo) = found(skopeo(&gateway)) else {
        return;
    };
    check(&upstream, &mut skopeo, "library/small:1", &upstream.small);
}
