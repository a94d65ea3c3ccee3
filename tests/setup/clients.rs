//! Real clients on a machine of namespaces: they pull through the gateway that `roadstead setup` names to them.

use std::time::Duration;

use testkit::image::Layout;
use testkit::process::Process;
use testkit::real::{Machine, Missing, found, program};

const START: Duration = Duration::from_secs(60);
const NAME: &str = "gateway.example";

/// A machine with a registry that stands for Docker Hub, the gateway, and the fingerprint of its CA.
struct Place {
    machine: Machine,
    gateway: Process,
    _hub: Process,
    fingerprint: String,
}

impl Place {
    fn new(programs: &[&str]) -> Result<Self, Missing> {
        for name in [&["docker-registry", "skopeo"], programs].concat() {
            program(name)?;
        }
        let machine = Machine::boot(&[NAME])?;
        let own =
            |path: &str, text: &str| std::fs::write(machine.file(path), text).expect("writable");
        own(
            "/etc/containers/policy.json",
            r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
        );
        own(
            "/etc/containers/registries.conf",
            "unqualified-search-registries = []\n",
        );
        let home = machine.dir().display().to_string();
        own(
            "/hub.yml",
            &format!(
                "{{version: 0.1, storage: {{filesystem: {{rootdirectory: {home}/hub}}}}, http: {{addr: \"127.0.0.1:6003\"}}}}"
            ),
        );
        let hub = machine.start("docker-registry serve hub.yml", START, "listening on");
        own(
            "/f.yaml",
            &format!(
                "listen:\n- {{address: \":5000\", public_url: \"https://{NAME}:5000\"}}\n\
                 - {{address: \":5001\", tls: off, read_only: true, registry: docker.io}}\n\
                 registries: [{{name: docker.io, v2: \"http://127.0.0.1:6003\"}}]\n"
            ),
        );
        let gateway = machine.start("roadstead serve -c f.yaml", START, "ready");
        let log = gateway.log();
        let line = log
            .lines()
            .find_map(|line| line.strip_prefix("fingerprint  "));
        let place = Self {
            fingerprint: line.expect("a fingerprint").to_owned(),
            machine,
            gateway,
            _hub: hub,
        };
        for tag in ["1", "2"] {
            let mut layout = Layout::new();
            let made = layout.add_image("busybox", tag.parse().expect("a seed"), 100_000);
            let to = format!("docker://127.0.0.1:6003/library/busybox:{tag}");
            place.does(&format!(
                "skopeo copy --quiet --dest-tls-verify=false {} {to}",
                layout.reference(&made.tag)
            ));
        }
        Ok(place)
    }

    #[track_caller]
    fn does(&self, line: &str) -> String {
        let said = self.machine.run(line, "");
        said.unwrap_or_else(|said| panic!("{line}: {said}"))
    }

    /// Sets a client up with the gateway's TLS listener, and checks what the command says.
    #[track_caller]
    fn set_up(&self, client: &str) {
        let fingerprint = &self.fingerprint;
        let said = self.does(&format!(
            "roadstead setup {client} --write --gateway https://{NAME}:5000 --ca-fingerprint {fingerprint}"
        ));
        assert!(said.contains("is trusted and serves docker.io"), "{said}");
    }

    /// How many requests for the image the gateway has answered.
    fn requests(&self) -> usize {
        let log = self.gateway.log();
        log.matches("registry=\"docker.io\" repository=\"library/busybox\"")
            .count()
    }

    /// Runs a pull, which must go through the gateway.
    #[track_caller]
    fn pulls(&self, line: &str) {
        let before = self.requests();
        self.does(line);
        assert!(self.requests() > before, "{line}: {}", self.gateway.log());
    }

    /// Runs a pull, which fails, since nothing but the gateway is there, and does not reach the gateway.
    #[track_caller]
    fn no_longer_pulls(&self, line: &str) {
        let before = self.requests();
        let said = self
            .machine
            .run(line, "")
            .expect_err("there is no Docker Hub");
        assert_eq!(self.requests(), before, "{said}");
    }
}

#[test]
fn docker_pulls_through_the_gateway() {
    let Some(place) = found(Place::new(&["docker", "dockerd", "containerd"])) else {
        return;
    };
    let before = "{\n  \"debug\": true\n}\n";
    let daemon_json = place.machine.file("/etc/docker/daemon.json");
    std::fs::write(&daemon_json, before).expect("writable");
    let home = place.machine.dir().display();
    let line = format!(
        "dockerd --data-root={home}/data --exec-root={home}/exec --pidfile={home}/docker.pid --host={} \
         --storage-driver=vfs --bridge=none --iptables=false --ip6tables=false",
        place.machine.docker()
    );
    let start = || place.machine.start(&line, START, "API listen on");
    let dockerd = start();
    place.no_longer_pulls("docker pull busybox:1");
    place.set_up("docker");
    // What `systemctl reload docker` does.
    let reload = |dockerd: &Process| {
        let done = dockerd.log().matches("Reloaded configuration").count();
        place.does("kill -HUP $(cat docker.pid)");
        testkit::until("dockerd has reloaded", || {
            dockerd.log().matches("Reloaded configuration").count() > done
        });
    };
    reload(&dockerd);
    place.pulls("docker pull busybox:1");
    let info = place.does("docker info");
    assert!(info.contains(&format!("https://{NAME}:5000/")), "{info}");
    // The plain mirror in place of it, and nothing in the end.
    place.does(&format!(
        "roadstead setup docker --write --gateway http://{NAME}:5001"
    ));
    let json = std::fs::read_to_string(&daemon_json).expect("readable");
    assert!(
        json.contains("http://gateway.example:5001") && !json.contains(":5000"),
        "{json}"
    );
    reload(&dockerd);
    place.pulls("docker pull busybox:2");
    place.does("docker rmi busybox:1 busybox:2");
    place.does("roadstead setup docker --undo");
    assert_eq!(
        std::fs::read_to_string(&daemon_json).expect("readable"),
        before
    );
    assert!(!place.machine.file("/etc/docker/certs.d").exists());
    // A reload would not forget the mirror.
    place.does("kill $(cat docker.pid)");
    let pid_file = place.machine.file("/docker.pid");
    testkit::until("dockerd has ended", || !pid_file.exists());
    drop(dockerd);
    let dockerd = start();
    place.no_longer_pulls("docker pull busybox:1");
    drop(dockerd);
}

#[test]
fn containerd_pulls_through_the_gateway() {
    let Some(place) = found(Place::new(&["containerd", "ctr"])) else {
        return;
    };
    let home = place.machine.dir().display();
    let config = format!(
        "version = 2\nroot = \"{home}/root\"\nstate = \"{home}/state\"\n\
         disabled_plugins = [\"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = \"{home}/socket\"\n"
    );
    let config_toml = place.machine.file("/etc/containerd/config.toml");
    std::fs::write(&config_toml, &config).expect("writable");
    place.set_up("containerd");
    // containerd itself reads what was added for its plugin for Kubernetes.
    let dump = place.does("containerd --config /etc/containerd/config.toml config dump");
    assert!(
        dump.contains("config_path = \"/etc/containerd/certs.d\""),
        "{dump}"
    );
    let without_cri = config.replace("[\"io", "[\"io.containerd.grpc.v1.cri\", \"io");
    std::fs::write(place.machine.file("/run.toml"), without_cri).expect("writable");
    let _containerd = place.machine.start(
        "containerd --config run.toml",
        START,
        "containerd successfully booted",
    );
    let pull = |tag: &str| {
        format!(
            "ctr --address {home}/socket images pull --snapshotter=native --hosts-dir=/etc/containerd/certs.d docker.io/library/busybox:{tag}"
        )
    };
    place.pulls(&pull("1"));
    // By the name of the gateway itself.
    place.pulls(&format!(
        "ctr --address {home}/socket images pull --snapshotter=native --hosts-dir=/etc/containerd/certs.d {NAME}:5000/docker.io/library/busybox:1"
    ));
    place.does("roadstead setup containerd --undo");
    assert_eq!(
        std::fs::read_to_string(&config_toml).expect("readable"),
        config
    );
    assert!(!place.machine.file("/etc/containerd/certs.d").exists());
    place.no_longer_pulls(&pull("2"));
}

#[test]
fn podman_and_skopeo_pull_through_the_gateway() {
    let Some(place) = found(Place::new(&["podman", "skopeo"])) else {
        return;
    };
    let home = place.machine.dir().display();
    let podman = format!(
        "podman --root={home}/storage --runroot={home}/runroot --tmpdir={home}/tmp --storage-driver=vfs \
         --cgroup-manager=cgroupfs --events-backend=file pull --quiet docker.io/library/busybox:1"
    );
    let skopeo =
        "rm -rf copied && skopeo copy --quiet docker://docker.io/library/busybox:2 dir:copied";
    place.no_longer_pulls(skopeo);
    for client in ["podman", "crio"] {
        place.set_up(client);
        place.pulls(skopeo);
        place.does(&format!("roadstead setup {client} --undo"));
        assert!(!place.machine.file("/etc/containers/certs.d").exists());
    }
    place.set_up("podman");
    place.pulls(&podman);
    place.does("roadstead setup podman --undo");
    place.no_longer_pulls(skopeo);
}
