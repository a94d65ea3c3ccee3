//! `roadstead setup`: what it prints, writes, checks and undoes. `clients` has the real clients as oracles.

mod clients;

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::{process, temp_dir};

const WITHIN: Duration = Duration::from_secs(60);

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `roadstead setup` with these arguments, separated by spaces, below a root folder.
fn setup(root: &Path, arguments: &str) -> Output {
    let mut command = process::command(testkit::binary());
    command.current_dir(root).arg("setup");
    command.args(arguments.split_whitespace());
    command.arg("--root").arg(root);
    process::run(&mut command, WITHIN).expect("it ends")
}

#[track_caller]
fn good(output: &Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!((output.status.code(), &*err), (Some(0), ""), "{out}");
    out
}

#[track_caller]
fn refused(output: &Output) -> String {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}{err}");
    err
}

/// All files below a folder, with their contents.
fn files(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let content = process::read_lossy(&path);
                found.push((path, content));
            }
        }
    }
    found.sort();
    found
}

/// A gateway on a name that resolves, and the fingerprint of its CA.
fn gateway() -> (Gateway, String, String) {
    let gateway = Gateway::start(
        "registries: [docker.io, ghcr.io]\nlisten:\n- {address: \"127.0.0.1:0\"}\n\
         - {address: \"127.0.0.1:0\", tls: off, read_only: true, registry: docker.io}\n",
    );
    let ca = std::fs::read(gateway.ca_path()).expect("a CA");
    let der = <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&ca);
    let fingerprint = testkit::sha256(&der.expect("a certificate"));
    let url = gateway.url(0).to_owned();
    (gateway, url, fingerprint)
}

#[test]
fn every_client_is_set_up_checked_and_undone() {
    let (_gateway, url, fingerprint) = gateway();
    let authority = url.trim_start_matches("https://");
    for (client, path, words, restart) in [
        (
            "docker",
            "etc/docker/daemon.json",
            format!("\"registry-mirrors\": [\"{url}\"]"),
            "systemctl reload docker",
        ),
        (
            "containerd",
            "etc/containerd/certs.d/ghcr.io/hosts.toml",
            format!("[host.\"{url}\"]"),
            "systemctl restart containerd",
        ),
        (
            "containerd",
            "etc/containerd/config.toml",
            "config_path = \"/etc/containerd/certs.d\"".to_owned(),
            "systemctl restart containerd",
        ),
        (
            "podman",
            "etc/containers/registries.conf.d/roadstead.conf",
            format!("location = \"{authority}/ghcr.io\""),
            "nothing: Podman",
        ),
        (
            "crio",
            "etc/containers/registries.conf.d/roadstead.conf",
            format!("location = \"{authority}/docker.io\""),
            "systemctl reload crio",
        ),
        (
            "buildkit",
            "etc/buildkit/buildkitd.toml",
            format!("mirrors = [\"{authority}\"]"),
            "systemctl restart buildkit",
        ),
        (
            "k3s",
            "etc/rancher/k3s/registries.yaml",
            format!("- \"{url}\""),
            "systemctl restart k3s",
        ),
    ] {
        let dir = temp_dir();
        let root = dir.path();
        std::fs::create_dir(root.join("etc")).expect("a folder");
        let gateway = format!(
            "{client} --gateway {url} --ca-fingerprint {fingerprint} --registry docker.io --registry ghcr.io"
        );
        // Printed, and nothing is written.
        let printed = good(&setup(root, &gateway));
        assert!(printed.contains(&words), "{printed}");
        assert!(printed.contains(&format!("# /{path}\n")), "{printed}");
        assert!(printed.contains("-----BEGIN CERTIFICATE-----"), "{printed}");
        assert_eq!(files(root), []);

        let written = good(&setup(root, &format!("{gateway} --write")));
        assert!(
            written.contains(&format!("wrote {}\n", root.join(path).display())),
            "{written}"
        );
        let trusted = format!("{url} is trusted and serves docker.io, ghcr.io\n");
        assert!(written.contains(&trusted), "{written}");
        assert!(written.contains(&format!("\nnow: {restart}")), "{written}");
        assert!(process::read_lossy(&root.join(path)).contains(&words));
        let after = files(root);
        let again = good(&setup(root, &format!("{gateway} --write")));
        assert!(again.starts_with("nothing to change"), "{again}");
        assert_eq!(files(root), after);

        let undone = good(&setup(root, &format!("{client} --undo")));
        assert!(undone.contains(&format!("restored /{path}\n")), "{undone}");
        assert_eq!(files(root), []);
        assert_eq!(
            std::fs::read_dir(root.join("etc"))
                .expect("a folder")
                .count(),
            0
        );
        let nothing = good(&setup(root, &format!("{client} --undo")));
        assert!(nothing.starts_with("nothing to undo"), "{nothing}");
    }
}

/// Only the CA with the fingerprint is trusted, and only if it vouches for the host.
#[test]
fn ca_is_fetched_by_its_fingerprint_alone() {
    let (gateway, url, fingerprint) = gateway();
    let dir = temp_dir();
    let root = dir.path();
    let write = |url: &str, fingerprint: &str| {
        setup(
            root,
            &format!("podman --write --gateway {url} --ca-fingerprint {fingerprint}"),
        )
    };
    let other = "0".repeat(64);
    let said = refused(&write(&url, &other));
    let (_, digits) = fingerprint.split_once(':').expect("digits");
    assert!(
        said.contains("presents no CA with that fingerprint") && said.contains(digits),
        "{said}"
    );
    // The fingerprint of the certificate is not that of a CA.
    let shown = testkit::tls::shown(gateway.authority(0), &gateway.ca_path(), "localhost");
    let said = refused(&write(&url, &testkit::sha256(&shown)));
    assert!(said.contains("does not vouch for"), "{said}");
    // 127.0.0.2 reaches no listener; a plain listener speaks no TLS.
    let plain = gateway.url(1).replace("http://", "https://");
    let said = refused(&write(&plain, &fingerprint));
    assert!(said.contains("cannot connect to"), "{said}");
    assert_eq!(files(root), [], "nothing is written");
    good(&write(&url, &fingerprint));
    // What is written is the gateway's own file below the marker.
    let authority = gateway.authority(0);
    let path = root.join(format!("etc/containers/certs.d/{authority}/roadstead.crt"));
    let ca = process::read_lossy(&path);
    let (marker, ca) = ca.split_once('\n').expect("lines");
    assert!(
        marker.starts_with("# Written by `roadstead setup`"),
        "{marker}"
    );
    assert_eq!(
        ca.trim_end(),
        process::read_lossy(&gateway.ca_path())
            .replace("\r\n", "\n")
            .trim_end()
    );
}

#[test]
fn gateway_of_the_configuration_is_used() {
    let (gateway, url, _) = gateway();
    let yaml = format!(
        "registries: [docker.io, {{name: ghcr.io}}, {{name: hosted, v2: \"http://127.0.0.1:1\"}}]\n\
         listen:\n- {{address: \"{}\"}}\n- {{address: \"{}\", tls: off, read_only: true, registry: docker.io}}\n\
         keys: {}\n",
        gateway.authority(0),
        gateway.authority(1),
        gateway.dir().join("var/keys").display()
    );
    let dir = temp_dir();
    let root = dir.path();
    std::fs::write(root.join("f.yaml"), yaml).expect("writable");
    let docker = good(&setup(root, "docker -c f.yaml --write"));
    assert!(
        docker.contains(&format!(
            "{} is trusted and serves docker.io\n",
            gateway.url(1)
        )),
        "{docker}"
    );
    let podman = good(&setup(root, "podman -c f.yaml --write"));
    assert!(
        podman.contains(&format!("{url} is trusted and serves docker.io, ghcr.io\n")),
        "{podman}"
    );
    let conf = process::read_lossy(&root.join("etc/containers/registries.conf.d/roadstead.conf"));
    assert!(!conf.contains("hosted"), "{conf}");
}

/// What was there stays, and what was changed since is not lost.
#[test]
fn existing_files_are_merged_and_restored() {
    let (_gateway, url, fingerprint) = gateway();
    let dir = temp_dir();
    let root = dir.path();
    let daemon = root.join("etc/docker/daemon.json");
    std::fs::create_dir_all(daemon.parent().expect("a folder")).expect("made");
    let before = "{\n\t\"zebra\": 1,\n\t\"registry-mirrors\": [\"https://other.example\"], \"debug\": true\n}\n";
    std::fs::write(&daemon, before).expect("writable");
    let write = format!("docker --write --gateway {url} --ca-fingerprint {fingerprint}");
    good(&setup(root, &write));
    let after = process::read_lossy(&daemon);
    let mirrors = format!("\"registry-mirrors\": [\"{url}\", \"https://other.example\"]");
    assert_eq!(
        after,
        before.replace(
            "\"registry-mirrors\": [\"https://other.example\"]",
            &mirrors
        )
    );
    // Edited by others, and undone: their edit stays.
    std::fs::write(&daemon, after.replace("\"zebra\": 1", "\"zebra\": 2")).expect("writable");
    good(&setup(root, &write));
    good(&setup(root, "docker --undo"));
    assert_eq!(
        process::read_lossy(&daemon),
        before.replace("\"zebra\": 1", "\"zebra\": 2")
    );
    // Without what is ours there is nothing to take out.
    good(&setup(root, &write));
    std::fs::write(&daemon, "{\"registry-mirrors\": [\"https://new.example\"]}").expect("writable");
    let said = refused(&setup(root, "docker --undo"));
    assert!(
        said.contains("/etc/docker/daemon.json was changed since, so it stays"),
        "{said}"
    );
    assert!(process::read_lossy(&daemon).contains("new.example"));
}

/// Files that cannot be parsed, or that configure the same in another way, are left alone.
#[test]
fn unsuitable_files_are_refused() {
    for (client, path, content, words) in [
        (
            "docker",
            "etc/docker/daemon.json",
            "{oops",
            "cannot be parsed, so it stays as it is",
        ),
        (
            "docker",
            "etc/docker/daemon.json",
            "{\"registry-mirrors\": \"a\"}",
            "registry-mirrors is not a list",
        ),
        (
            "containerd",
            "etc/containerd/config.toml",
            "version = ",
            "cannot be parsed",
        ),
        (
            "buildkit",
            "etc/buildkit/buildkitd.toml",
            "[[registry",
            "cannot be parsed",
        ),
        (
            "k3s",
            "etc/rancher/k3s/registries.yaml",
            "mirrors: [",
            "cannot be parsed",
        ),
        (
            "podman",
            "etc/containers/registries.conf.d/50-ours.conf",
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"mirror.example\"\n",
            "configures docker.io already; add `[[registry.mirror]]` with `location = \"gw.example/docker.io\"`",
        ),
    ] {
        let dir = temp_dir();
        let root = dir.path();
        let file = root.join(path);
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("made");
        std::fs::write(&file, content).expect("writable");
        let write = format!("{client} --write --no-check --gateway https://gw.example");
        let said = refused(&setup(root, &write));
        assert!(
            said.contains(&format!("/{path} ")) && said.contains(words),
            "{client}: {said}"
        );
        assert_eq!(files(root), [(file, content.to_owned())], "{client}");
    }
}

/// The check tells what is wrong with a gateway.
#[test]
fn unusable_gateways_are_reported() {
    let (gateway, url, fingerprint) = gateway();
    let trusted = format!("--gateway {url} --ca-fingerprint {fingerprint}");
    let dir = temp_dir();
    let htpasswd = dir.path().join("htpasswd");
    std::fs::write(&htpasswd, "").expect("writable");
    let users = Gateway::start(&format!(
        "listen: [{{address: \"127.0.0.1:0\", tls: off}}]\nadmin: {{address: \"127.0.0.1:0\"}}\n\
         access: {{htpasswd: {}, rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull]}}]}}\n",
        htpasswd.display()
    ));
    for (arguments, words) in [
        (
            format!("k3s {trusted} --registry quay.io"),
            "has no registry quay.io",
        ),
        (
            format!("k3s --gateway {url}"),
            "its certificate is not trusted",
        ),
        (
            "k3s --gateway http://127.0.0.1:1".to_owned(),
            "cannot be reached",
        ),
        (
            format!("docker --gateway {}", users.url(0)),
            "asks for a login",
        ),
        (
            format!("k3s --gateway {}", users.operators("admin.address")),
            "is not a registry",
        ),
    ] {
        let dir = temp_dir();
        let said = refused(&setup(dir.path(), &format!("{arguments} --write")));
        assert!(
            said.contains("the files are written, but ") && said.contains(words),
            "{said}"
        );
    }
    drop(gateway);
}

#[test]
fn wrong_arguments_are_refused() {
    let dir = temp_dir();
    for (arguments, words) in [
        ("lxc", "is not a client; write docker, containerd"),
        ("docker --gateway gw.example:5000", "is not a gateway's URL"),
        ("docker --registry hosted", "is not a registry's host"),
        ("docker --registry index.docker.io", "write docker.io"),
        (
            "docker --gateway https://a --ca-fingerprint 12",
            "is not a SHA-256 fingerprint",
        ),
        ("docker --ca-fingerprint ZEROS", "required"),
        ("docker --undo --write", "cannot be used with"),
    ] {
        let output = setup(dir.path(), &arguments.replace("ZEROS", &"0".repeat(64)));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(words), "{arguments}: {said}");
    }
}
