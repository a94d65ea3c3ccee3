//! The Debian package, installed in a fresh Debian: files, user and permissions, start, a client, upgrade and purge. systemd
//! does not run there: the unit is verified by its own tools, and its command is run as its user.

use std::path::Path;
use std::time::Duration;

use testkit::image::Layout;
use testkit::process::{self, Process};
use testkit::real::{Machine, Missing, found, program};

const WITHIN: Duration = Duration::from_secs(120);
const START: Duration = Duration::from_secs(60);

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Builds the package of the tested program with this version into a folder.
fn build(version: &str, folder: &Path) {
    let mut command = process::command("scripts/deb.sh");
    command.current_dir(repository());
    command.arg("--binary").arg(testkit::binary());
    command
        .args(["--version", version, "--compression", "none", "--out"])
        .arg(folder);
    let output = process::run(&mut command, WITHIN).expect("it ends");
    assert!(output.status.success(), "{output:?}");
}

/// A fresh Debian on a machine of namespaces, with two versions of the package in `/packages`.
struct Debian {
    machine: Machine,
}

impl Debian {
    fn new() -> Result<Self, Missing> {
        for name in [
            "dpkg-deb",
            "docker",
            "dockerd",
            "containerd",
            "docker-registry",
            "skopeo",
        ] {
            program(name)?;
        }
        let root = repository().join("target/real-parts/debian-root");
        if !root.join("usr/bin/dpkg").exists() {
            return Err(Missing(
                "the Debian of `scripts/real-parts.sh debian-root`".to_owned(),
            ));
        }
        let machine = Machine::boot(&[])?;
        for version in ["0.1.0", "0.1.1"] {
            build(version, machine.dir());
        }
        let debian = Self { machine };
        // A copy, which is removed with the machine.
        let home = debian.machine.dir().display();
        debian.does(&format!(
            "mkdir root && cp -a {}/. root && cd {home} && mkdir -p root/packages root/etc/docker \
             && cp *.deb root/packages && mount -t proc proc root/proc && mount --rbind /dev root/dev \
             && mount -t tmpfs tmpfs root/run && mount --bind /etc/docker root/etc/docker",
            root.display()
        ));
        Ok(debian)
    }

    #[track_caller]
    fn does(&self, line: &str) -> String {
        let said = self.machine.run(line, "");
        said.unwrap_or_else(|said| panic!("{line}: {said}"))
    }

    /// Runs a line in the Debian.
    #[track_caller]
    fn inside(&self, line: &str) -> String {
        self.does(&format!(
            "env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive chroot {}/root sh -c '{line}'",
            self.machine.dir().display()
        ))
    }

    /// Adds lines to the packaged configuration, and stores whatever little room the disk has.
    fn configure(&self, more: &str) {
        let file = self.machine.dir().join("root/etc/roadstead/roadstead.yaml");
        let packaged = std::fs::read_to_string(&file).expect("it is installed");
        let (before, after) = packaged.split_once("\nstore:\n").expect("a store");
        let configured = format!("{before}\nstore:\n  min_free: 0B\n{after}{more}\n");
        std::fs::write(&file, configured).expect("writable");
    }

    /// Runs the command of the unit as its user, in its folder.
    fn serve(&self) -> Process {
        let unit = self.inside("cat /lib/systemd/system/roadstead.service");
        let value = |key: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_else(|| panic!("no {key}")).to_owned()
        };
        let (user, folder) = (value("User="), value("WorkingDirectory="));
        let command = value("ExecStart=");
        let line = format!(
            "env -i PATH=/usr/sbin:/usr/bin:/bin chroot --userspec={user}:{user} {}/root sh -c 'cd {folder} && exec {command}'",
            self.machine.dir().display()
        );
        self.machine.start(&line, START, "ready")
    }
}

#[test]
fn package_is_installed_started_upgraded_and_purged() {
    let Some(debian) = found(Debian::new()) else {
        return;
    };
    let said = debian.inside("dpkg --install /packages/roadstead_0.1.0_*.deb");
    assert!(said.contains("Setting up roadstead (0.1.0)"), "{said}");
    // The user, and what belongs to it.
    let user = debian.inside("getent passwd roadstead");
    assert!(
        user.ends_with(":/var/lib/roadstead:/usr/sbin/nologin\n"),
        "{user}"
    );
    let modes = debian.inside(
        "stat -c \"%a %U:%G %n\" /etc/roadstead /etc/roadstead/roadstead.yaml /var/lib/roadstead /var/log/roadstead /usr/bin/roadstead",
    );
    assert_eq!(
        modes,
        "750 root:roadstead /etc/roadstead\n640 root:roadstead /etc/roadstead/roadstead.yaml\n\
         750 roadstead:roadstead /var/lib/roadstead\n750 roadstead:roadstead /var/log/roadstead\n\
         755 root:root /usr/bin/roadstead\n"
    );
    assert_eq!(
        debian.inside("roadstead --version"),
        format!("roadstead {}\n", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(
        debian.inside("roadstead check -c /etc/roadstead/roadstead.yaml"),
        "the configuration is valid\n"
    );
    assert_eq!(debian.inside("systemctl is-enabled roadstead"), "enabled\n");
    let conffiles = debian.inside("dpkg-query -W -f=\"\\${Conffiles}\" roadstead");
    for file in [
        "/etc/roadstead/roadstead.yaml",
        "/etc/logrotate.d/roadstead",
    ] {
        assert!(conffiles.contains(file), "{conffiles}");
    }
    for file in [
        "/usr/share/man/man1/roadstead-setup.1.gz",
        "/usr/share/bash-completion/completions/roadstead",
    ] {
        debian.inside(&format!("test -s {file}"));
    }
    // The tools of what reads these files.
    for unit in ["roadstead.service", "roadstead.socket"] {
        let verified = format!("systemd-analyze verify --man=no /lib/systemd/system/{unit}");
        assert_eq!(debian.inside(&verified), "");
    }
    let enabled = debian.inside("systemctl is-enabled roadstead.socket || true");
    assert_eq!(enabled, "disabled\n");
    debian.inside("systemd-analyze security --offline=true --threshold=25 /lib/systemd/system/roadstead.service");
    debian.inside("logrotate --debug /etc/logrotate.d/roadstead");

    // It serves, as the user of the unit, and a real Docker pulls through it.
    let home = debian.machine.dir().display();
    let hub = format!(
        "{{version: 0.1, storage: {{filesystem: {{rootdirectory: {home}/hub}}}}, http: {{addr: \"127.0.0.1:6003\"}}}}"
    );
    std::fs::write(debian.machine.dir().join("hub.yml"), hub).expect("writable");
    let _hub = debian
        .machine
        .start("docker-registry serve hub.yml", START, "listening on");
    let mut layout = Layout::new();
    let made = layout.add_image("small", 1, 100_000);
    debian.does(&format!(
        "skopeo --insecure-policy copy --quiet --dest-tls-verify=false {} docker://127.0.0.1:6003/library/small:1",
        layout.reference(&made.tag)
    ));
    let registries = "registries: [{name: docker.io, v2: \"http://127.0.0.1:6003\"}]";
    debian.configure(registries);
    let mut gateway = debian.serve();
    debian.inside("roadstead health");
    let said = debian.inside("roadstead setup docker --write -c /etc/roadstead/roadstead.yaml");
    assert!(
        said.contains("http://127.0.0.1:5001 is trusted and serves docker.io"),
        "{said}"
    );
    let dockerd = format!(
        "dockerd --data-root={home}/data --exec-root={home}/exec --pidfile={home}/docker.pid --host={} \
         --storage-driver=vfs --bridge=none --iptables=false --ip6tables=false",
        debian.machine.docker()
    );
    let _dockerd = debian.machine.start(&dockerd, START, "API listen on");
    debian.does("docker pull small:1");
    let log = gateway.log();
    assert!(
        log.contains("registry=\"docker.io\" repository=\"library/small\""),
        "{log}"
    );
    debian.inside("roadstead setup docker --undo");
    let ca = debian.inside("sha256sum /var/lib/roadstead/keys/ca.pem");
    gateway.kill_children(START);

    // An upgrade keeps the configuration, the CA and the store.
    let said = debian.inside("dpkg --install /packages/roadstead_0.1.1_*.deb");
    assert!(said.contains("Setting up roadstead (0.1.1)"), "{said}");
    assert!(
        debian
            .inside("cat /etc/roadstead/roadstead.yaml")
            .contains(registries)
    );
    let mut gateway = debian.serve();
    assert_eq!(
        debian.inside("sha256sum /var/lib/roadstead/keys/ca.pem"),
        ca
    );
    assert!(!gateway.log().contains("made a new"), "{}", gateway.log());
    testkit::until("the store is scanned", || {
        gateway.log().contains("the store is known")
    });
    assert!(!gateway.log().contains(" blobs=0 "), "{}", gateway.log());
    gateway.kill_children(START);

    debian.inside("dpkg --purge roadstead");
    let left = debian.inside(
        "ls -d /etc/roadstead /var/lib/roadstead /var/log/roadstead /usr/bin/roadstead /etc/systemd/system/multi-user.target.wants/roadstead.service 2>/dev/null || true",
    );
    assert_eq!(left, "");
    assert_eq!(
        debian.inside("dpkg-query -W -f=\"\\${db:Status-Status}\" roadstead 2>/dev/null || true"),
        ""
    );
}
