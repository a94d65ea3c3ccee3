//! `docker search` and `podman search`, with and without a login.

use crate::real::scene::Upstream;
use testkit::gateway::Gateway;
use testkit::real::{Docker, Mirror, Missing, Podman, Registry, found};
use testkit::temp_dir;

/// `reader`, with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

/// A registry that holds `library/small` and `library/multi`, the first public, the second for users.
struct Scene {
    gateway: Gateway,
    _upstream: Upstream,
    _users: tempfile::TempDir,
}

fn scene(open: &str) -> Result<Scene, Missing> {
    let upstream = Upstream::filled(Registry::start())?;
    let users = temp_dir();
    let path = users.path().join("users");
    std::fs::write(&path, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, default: true}}]\n\
         access:\n  htpasswd: {}\n  rules:\n\
         \x20 - {{users: [reader], repositories: [\"hosted/**\"], actions: [pull]}}\n{open}",
        upstream.registry.url(),
        path.display()
    ));
    Ok(Scene {
        gateway,
        _upstream: upstream,
        _users: users,
    })
}

const OPEN: &str =
    "\x20 - {users: [anonymous], repositories: [\"hosted/library/small\"], actions: [pull]}\n";

/// The names in a client's table, without the registry prefix that some clients print.
fn names(said: &str, authority: &str) -> Vec<String> {
    let mut names: Vec<String> = said
        .lines()
        .map(|line| line.trim().replacen(&format!("{authority}/"), "", 1))
        .filter(|line| !line.is_empty())
        .collect();
    names.sort();
    names
}

#[test]
fn docker_search_finds_pullable_names() {
    let Some(scene) = found(scene(OPEN)) else {
        return;
    };
    let Some(docker) = found(Docker::start()) else {
        return;
    };
    // Docker tries TLS on 127.0.0.0/8 first, then plain HTTP.
    for listener in [0, 1] {
        let authority = scene.gateway.authority(listener);
        let search = |term: &str| {
            let term = format!("{authority}/{term}");
            let said = docker.docker(&["search", "--format={{.Name}}", &term]);
            names(&said.expect("docker search"), authority)
        };
        assert_eq!(search("library"), ["library/small"], "{authority}");
        assert_eq!(search("nothing"), [""; 0]);
    }
    // Logged in over TLS it sends the password with every search.
    let authority = scene.gateway.authority(0);
    let login = ["login", "-u", "reader", "-p", "s3cret", authority];
    docker.docker(&login).expect("docker login");
    let term = format!("{authority}/library");
    let said = docker.docker(&["search", "--format={{.Name}}", &term]);
    let listed = names(&said.expect("docker search"), authority);
    assert_eq!(listed, ["library/multi", "library/small"]);
}

fn podman(gateway: &Gateway) -> Result<Podman, Missing> {
    Podman::new(Mirror {
        prefix: "docker.io",
        location: &format!("{}/docker.io", gateway.authority(0)),
        ca: Some(&gateway.ca_path()),
    })
}

fn podman_search(podman: &Podman, authority: &str, term: &str) -> Result<Vec<String>, String> {
    let term = format!("{authority}/{term}");
    let search = ["search", "--tls-verify=false", "--format={{.Name}}", &term];
    podman.podman(&search).map(|said| names(&said, authority))
}

#[test]
fn podman_search_finds_pullable_names() {
    let Some(scene) = found(scene(OPEN)) else {
        return;
    };
    let Some(podman) = found(podman(&scene.gateway)) else {
        return;
    };
    let authority = scene.gateway.authority(0);
    let search = |term| podman_search(&podman, authority, term).expect("podman search");
    assert_eq!(search("library"), ["library/small"]);
    assert_eq!(search("nothing"), [""; 0]);
}

/// Podman searches without its login first: where anonymous clients may see nothing it is refused, and requests the
/// catalogue with the login.
#[test]
fn podman_search_with_a_login() {
    let Some(scene) = found(scene("")) else {
        return;
    };
    let Some(podman) = found(podman(&scene.gateway)) else {
        return;
    };
    let authority = scene.gateway.authority(0);
    let login = [
        "login",
        "--tls-verify=false",
        "-u",
        "reader",
        "-p",
        "s3cret",
        authority,
    ];
    podman.podman(&login).expect("podman login");
    let listed = podman_search(&podman, authority, "library").expect("podman search");
    assert_eq!(listed, ["library/multi", "library/small"]);
}
