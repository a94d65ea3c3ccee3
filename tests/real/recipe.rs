//! Executes "One hostname for v1 and v2": every command of the recipe as written, in order, on a machine where
//! `registry.example.com` is local and ports 80 and 443 are free. Then produces every symptom of its table.

use std::path::Path;
use std::time::Duration;

use testkit::image::Layout;
use testkit::process::Process;
use testkit::real::{Machine, Missing, found, program};
use testkit::until;

/// The recipe.
const TEXT: &str = include_str!("../../docs/recipes/one-hostname.md");
const PASSWORD: &str = "s3cret: of the deployer\n";
const START: Duration = Duration::from_secs(45);
const NAMES: [&str; 2] = ["registry.example.com", "other.example.com"];

/// A block of the recipe.
struct Block {
    language: &'static str,
    lines: Vec<&'static str>,
    /// The text above it.
    above: String,
}

fn blocks() -> Vec<Block> {
    let mut pieces = TEXT.split("```");
    let mut blocks = Vec::new();
    while let (Some(above), Some(block)) = (pieces.next(), pieces.next()) {
        let (language, text) = block.split_once('\n').expect("lines");
        blocks.push(Block {
            language,
            lines: text.lines().collect(),
            above: above.to_owned(),
        });
    }
    blocks
}

/// The machine, and everything that the reader does not type.
struct Place {
    machine: Machine,
    gateway: Option<Process>,
    registries: Vec<Process>,
    docker: Option<Process>,
    /// Symptoms that were seen.
    seen: Vec<&'static str>,
}

impl Place {
    fn new() -> Result<Self, Missing> {
        for name in [
            "docker",
            "dockerd",
            "containerd",
            "skopeo",
            "docker-registry",
        ] {
            program(name)?;
        }
        let machine = Machine::boot(&NAMES)?;
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        let own = |path: &str, text: &str| {
            std::fs::write(machine.file(path), text).expect("writable");
        };
        own("/etc/containers/policy.json", policy);
        own(
            "/etc/containers/registries.conf",
            "unqualified-search-registries = []\n",
        );
        let front = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/front.yaml");
        let front = std::fs::read_to_string(front).expect("the configuration");
        // Two lines are changed: the Hub is another registry here, and of the two backends there is only v2.
        let hub = "  - {name: docker.io, v2: \"http://127.0.0.1:6003\"}\n";
        let with_hub = front.replace("  - docker.io\n", hub);
        assert_ne!(with_hub, front);
        let without_v1 = with_hub.replace("    v1: http://127.0.0.1:6001\n", "");
        assert_ne!(without_v1, with_hub);
        let with_hub = without_v1;
        std::fs::create_dir(machine.dir().join("conf")).expect("a folder");
        std::fs::write(machine.dir().join("conf/front.yaml"), with_hub).expect("writable");
        let mut place = Self {
            machine,
            gateway: None,
            registries: Vec::new(),
            docker: None,
            seen: Vec::new(),
        };
        place.registries = [6002, 6003].map(|port| place.registry(port)).into();
        let mut layout = Layout::new();
        let made = layout.add_image("busybox", 1, 100_000);
        let copy = "skopeo copy --quiet --dest-tls-verify=false";
        let to = "docker://127.0.0.1:6003/library/busybox:1";
        place.does(&format!("{copy} {} {to}", layout.reference(&made.tag)));
        Ok(place)
    }

    fn registry(&self, port: u16) -> Process {
        let config = format!(
            "{{version: 0.1, storage: {{filesystem: {{rootdirectory: {}/{port}}}}}, \
             http: {{addr: \"127.0.0.1:{port}\"}}}}",
            self.machine.dir().display()
        );
        std::fs::write(self.machine.dir().join(format!("{port}.yml")), config).expect("writable");
        let line = format!("docker-registry serve {port}.yml");
        self.machine.start(&line, START, "listening on")
    }

    /// Restarts Docker.
    fn restart_docker(&mut self) {
        self.docker = None;
        let home = self.machine.dir().display();
        let line = format!(
            "dockerd --data-root={home}/data --exec-root={home}/exec --pidfile={home}/docker.pid \
             --host={} --storage-driver=vfs --bridge=none --iptables=false --ip6tables=false",
            self.machine.docker()
        );
        self.docker = Some(self.machine.start(&line, START, "API listen on"));
    }

    /// Runs a line, which must succeed.
    #[track_caller]
    fn does(&self, line: &str) -> String {
        self.machine
            .run(&typed(line), PASSWORD)
            .unwrap_or_else(|said| panic!("{line}: {said}"))
    }

    /// Runs a line that must fail with a symptom of the recipe.
    #[track_caller]
    fn fails(&mut self, line: &str, sees: &'static str) {
        let said = self.machine.run(&typed(line), "wrong\n").expect_err(line);
        assert!(said.contains(sees), "{line}: {said}");
        self.seen.push(sees);
    }
}

/// The recipe's symptoms: the first words in backticks of every row.
fn symptoms() -> Vec<&'static str> {
    let rows = TEXT.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split('`').next().unwrap_or_default())
        .collect()
}

/// A line for a run without a terminal, where only Docker would read a password.
fn typed(line: &str) -> String {
    line.replace("docker login ", "docker login --password-stdin ")
}

#[test]
fn recipe_works_line_by_line() {
    let Some(mut place) = found(Place::new()) else {
        return;
    };
    for block in blocks() {
        match block.language {
            "json" => {
                let path = block.above.split('`').find(|it| it.starts_with("/etc/"));
                let path = place.machine.file(path.expect("where it goes"));
                std::fs::write(path, block.lines.join("\n")).expect("writable");
                place.restart_docker();
            }
            "sh" => {
                for line in block.lines {
                    if line.starts_with("roadstead serve") {
                        place.gateway = Some(place.machine.start(line, START, "ready"));
                    } else {
                        place.does(line);
                    }
                }
            }
            other => panic!("a block of {other:?}"),
        }
    }
    // The mirror served the image, and the registry behind the name received it.
    let log = place.gateway.as_ref().expect("it was started").log();
    assert!(
        log.contains("registry=\"docker.io\" repository=\"library/busybox\""),
        "{log}"
    );
    assert!(
        place
            .does("ls 6002/docker/registry/v2/repositories/team")
            .contains("app")
    );
    assert!(!log.contains(PASSWORD.trim_end()));
    wrong_things(&mut place);
}

/// The recipe's table of symptoms, in its order.
fn wrong_things(place: &mut Place) {
    let inspect = "skopeo inspect docker://registry.example.com/team/app:1";
    let trust = "/etc/docker/certs.d";
    place.does(&format!(
        "mv {trust}/registry.example.com {trust}/other.example.com"
    ));
    place.fails(inspect, "certificate signed by unknown authority");
    let other = "skopeo inspect docker://other.example.com/team/app:1";
    place.fails(other, "x509: certificate is valid for");
    place.does(&format!(
        "mv {trust}/other.example.com {trust}/registry.example.com"
    ));

    let login = "docker login --username docker-deployer registry.example.com";
    place.fails(login, "unauthorized: the user or the password is wrong");
    // The same wrong password again would not count as a guess.
    let slowed = "toomanyrequests: too many failed logins";
    let mut guesses = 0;
    until("guesses are slowed", || {
        guesses += 1;
        let guess = format!("wrong{guesses}\n");
        let said = place.machine.run(&typed(login), &guess);
        said.expect_err("a wrong password").contains(slowed)
    });
    place.seen.push(slowed);

    let push = "docker push registry.example.com/team/app:1";
    place.fails(push, "unauthorized: log in to do that");
    place.does("roadstead passwd conf/htpasswd someone");
    until("the account is there", || {
        let login = typed("docker login --username someone registry.example.com");
        place.machine.run(&login, PASSWORD).is_ok()
    });
    place.fails(push, "denied: denied by the access rules");
    place.does("docker logout registry.example.com");

    let pull = "docker pull registry.example.com/team/none:1";
    place.fails(pull, "manifest unknown");
    place.registries.clear();
    let pull = "docker pull registry.example.com/team/app:2";
    place.fails(pull, "503 Service Unavailable");
    place.does("mv conf/htpasswd conf/retained");
    place.gateway = None;
    let serve = "roadstead serve -c conf/front.yaml";
    place.fails(serve, "conf/htpasswd cannot be read");
    assert_eq!(place.seen, symptoms());
}
