//! Real clients at the gate of a real registry.

use super::*;
use testkit::image::{Layout, Made};
use testkit::real::{Client, Containerd, Docker, Missing, Podman, Registry, Skopeo, found};

/// A mirror of docker.io with a gate, over TLS and, for Docker, plain.
fn mirror(registry: &Registry, gate: &str) -> Gateway {
    Gateway::start(&format!(
        "listen:\n- {{address: \"127.0.0.1:0\"}}\n\
         - {{address: \"127.0.0.1:0\", tls: off, read_only: true, registry: docker.io}}\n\
         registries: [{{name: docker.io, v2: \"{}\", tag_ttl: 0s, gate: {{{gate}}}}}]\n",
        registry.url()
    ))
}

fn boxed<T: Client + 'static>(client: Result<T, Missing>) -> Option<Box<dyn Client>> {
    found(client).map(|client| Box::new(client) as Box<dyn Client>)
}

/// The clients that there are, each with how it names images.
fn clients(gateway: &Gateway) -> Vec<(&'static str, &'static str, Box<dyn Client>)> {
    let ca = gateway.ca_path();
    let (url, plain) = (gateway.url(0), gateway.url(1));
    let podman = Podman::new(testkit::real::Mirror {
        prefix: "docker.io",
        location: &format!("{}/docker.io", gateway.authority(0)),
        ca: Some(&ca),
    });
    let all = [
        ("skopeo", "", boxed(Skopeo::new(url, Some(&ca)))),
        ("podman", "docker.io/", boxed(podman)),
        (
            "containerd",
            "docker.io/",
            boxed(Containerd::with_hosts("docker.io", url, Some(&ca))),
        ),
        ("docker", "", boxed(Docker::with_mirror(plain))),
    ];
    let found = all.into_iter();
    found
        .filter_map(|(name, prefix, client)| Some((name, prefix, client?)))
        .collect()
}

#[test]
fn real_clients_are_gated() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let mut layout = Layout::new();
    let multi = layout.add_index("multi", 1, 10_000);
    let rc = layout.add_image("rc", 3, 10_000);
    let pushed = |made: &Made, name: &str| registry.push(&layout, made, name).expect("a push");
    pushed(&multi, "library/app:1.0");
    pushed(&rc, "library/app:2.0-rc1");
    pushed(&rc, "library/evil:1.0");
    let gate = "deny: [library/evil, \"**:*-rc*\"], min_age: 3d, platforms: [linux/amd64]";
    let gateway = mirror(&registry, gate);
    for (name, prefix, mut client) in clients(&gateway) {
        let pulled = client.pull(&format!("{prefix}library/app:1.0"));
        pulled.unwrap_or_else(|said| panic!("{name}: {said}"));
        client.wipe();
        for denied in [
            "library/evil:1.0".to_owned(),
            "library/app:2.0-rc1".to_owned(),
        ] {
            let said = client
                .pull(&format!("{prefix}{denied}"))
                .expect_err(&denied);
            // Docker and containerd go on to docker.io itself, and report that.
            let named = said.contains("denied by the gate rule deny") || name != "skopeo";
            assert!(named, "{name} {denied}: {said}");
        }
        let by_digest = format!("{prefix}library/app@{}", rc.digest);
        client
            .pull(&by_digest)
            .expect_err("no allowed tag leads there");
        client
            .pull(&format!("{prefix}library/app@{}", multi.digest))
            .expect("it was pulled");
        client.wipe();
    }
}

#[test]
fn real_client_is_given_the_previous_target() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let mut layout = Layout::new();
    let old = layout.add_index("old", 1, 10_000);
    let new = layout.add_index("new", 3, 10_000);
    let pushed = |made: &Made| {
        let pushed = registry.push(&layout, made, "library/app:latest");
        pushed.expect("a push");
    };
    pushed(&old);
    let gateway = mirror(&registry, "min_age: 3d");
    let mut clients = clients(&gateway);
    let pull = |clients: &mut Vec<(&str, &str, Box<dyn Client>)>| {
        for (name, prefix, client) in clients {
            client.wipe();
            let pulled = client.pull(&format!("{prefix}library/app:latest"));
            let pulled = pulled.unwrap_or_else(|said| panic!("{name}: {said}"));
            // Some of them name the image that they chose from the index.
            let expected = [&old.digest, &old.content[0]];
            assert!(
                expected.contains(&&pulled.digest),
                "{name}: {}",
                pulled.digest
            );
        }
    };
    pull(&mut clients);
    pushed(&new);
    pull(&mut clients);
    for (name, prefix, client) in &mut clients {
        let direct = format!("{prefix}library/app@{}", new.digest);
        client.pull(&direct).expect_err(name);
    }
}
