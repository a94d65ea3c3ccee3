//! The binary with conf/container.yaml, in the environment of compose.yaml. The file names a v1 registry, which a build
//! without v1 refuses.

use std::time::Duration;

use testkit::image::Layout;
use testkit::real::{Machine, Missing, found, program};
use testkit::{basic, process};

use super::{environment, file, read, yaml};

const WITHIN: Duration = Duration::from_secs(30);
/// The only warning of `check` before the first account exists.
const NO_ACCOUNTS: &str = "/var/lib/roadstead/htpasswd cannot be read; `roadstead passwd` makes it: \
                           No such file or directory (os error 2)";

#[test]
fn container_configuration_passes_check() {
    let compose = yaml("compose.yaml");
    for host in ["registry.example.com", "hub.example.org"] {
        let environment = environment(&compose["services"]["gateway"], host);
        let mut command = process::command(testkit::binary());
        // The environment of the tests may set it.
        command.env_clear().envs(&environment);
        command
            .arg("check")
            .arg("-c")
            .arg(file("conf/container.yaml"));
        let output = process::run(&mut command, WITHIN).expect("it ends");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{said}");
        let warnings: Vec<&str> = said
            .lines()
            .filter(|line| !line.contains(NO_ACCOUNTS))
            .collect();
        assert_eq!(warnings, [""; 0]);
        // The gateway serves the host name that compose was given.
        assert_eq!(environment["ROADSTEAD_HOST"], host);
    }
    assert!(
        read("conf/container.yaml")
            .contains("hosts: [\"${ROADSTEAD_HOST:-registry.example.com}\"]")
    );
}

/// A password for the test.
const PASSWORD: &str = "s3cret of the deployer";
const START: Duration = Duration::from_secs(45);

/// The gateway and its v2 registry, on a machine to which all services' names and `hub.example.org` resolve.
fn machine() -> Result<Machine, Missing> {
    for name in ["docker-registry", "skopeo", "curl"] {
        program(name)?;
    }
    let machine = Machine::boot(&["hub.example.org", "v1", "v2"])?;
    let home = machine.dir().join("state").display().to_string();
    // Paths of a container must not be written on the test machine.
    let config = read("conf/container.yaml").replace("/var/lib/roadstead", &home);
    std::fs::write(machine.dir().join("container.yaml"), config).expect("writable");
    std::fs::create_dir(&home).expect("a folder");
    std::fs::write(
        machine.file("/etc/containers/policy.json"),
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    )
    .expect("writable");
    std::fs::write(machine.file("/etc/containers/registries.conf"), "").expect("writable");
    Ok(machine)
}

#[test]
fn container_commands_work_together() {
    let Some(machine) = found(machine()) else {
        return;
    };
    let home = machine.dir().join("state").display().to_string();
    let compose = yaml("compose.yaml");
    let mut environment = environment(&compose["services"]["gateway"], "hub.example.org");
    environment.insert("ROADSTEAD_CONFIG".to_owned(), "container.yaml".to_owned());
    let environment = |program: &str| {
        let pairs = environment
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        format!("env {} {program}", pairs.collect::<Vec<_>>().join(" "))
    };
    let does = |line: &str| {
        let input = format!("{PASSWORD}\n");
        let said = machine.run(line, &input);
        said.unwrap_or_else(|said| panic!("{line}: {said}"))
    };

    // Debian's registry is the program of registry:2, with compose's environment.
    let registry = &compose["services"]["v2"]["environment"];
    let delete = registry["REGISTRY_STORAGE_DELETE_ENABLED"]
        .as_str()
        .expect("text");
    let config = format!(
        "{{version: 0.1, storage: {{filesystem: {{rootdirectory: {home}/v2}}}}, http: {{addr: \"127.0.0.1:5000\"}}}}"
    );
    std::fs::write(machine.dir().join("v2.yml"), config).expect("writable");
    let line = format!("env REGISTRY_STORAGE_DELETE_ENABLED={delete} docker-registry serve v2.yml");
    let _registry = machine.start(&line, START, "listening on");

    // The lines at the top of compose.yaml, as arguments of the container's entrypoint.
    let text = read("compose.yaml");
    let (_, passwd) = text
        .split_once("--no-deps gateway ")
        .expect("the line that makes an account");
    let passwd = passwd
        .lines()
        .next()
        .expect("a line")
        .replace("/var/lib/roadstead", &home);
    let said = does(&environment(&format!("roadstead {passwd}")));
    assert!(said.starts_with("added docker-deployer in "), "{said}");
    let (_, copied) = text
        .split_once("cp gateway:")
        .expect("the line that copies the CA");
    let ca = copied
        .split(' ')
        .next()
        .expect("a path")
        .replace("/var/lib/roadstead", &home);
    let _gateway = machine.start(&environment("roadstead serve"), START, "ready");
    does(&format!("mkdir certs && cp {ca} certs/ca.crt"));

    let mut layout = Layout::new();
    let made = layout.add_image("small", 1, 50_000);
    let image = "docker://hub.example.org:8443/team/app:1";
    let login = format!("docker-deployer:'{PASSWORD}'");
    let push = format!(
        "skopeo copy --quiet --preserve-digests --dest-cert-dir=certs {} {image}",
        layout.reference(&made.tag)
    );
    let refused = machine.run(&push, "").expect_err("no push is allowed");
    assert!(refused.contains("unauthorized"), "{refused}");
    does(&format!("{push} --dest-creds={login}"));
    let format = "--format='{{.Digest}}'";
    let digest = does(&format!("skopeo inspect --cert-dir=certs {format} {image}"));
    assert_eq!(digest.trim(), made.digest);
    let delete = format!("skopeo delete --cert-dir=certs {image}");
    machine.run(&delete, "").expect_err("no delete is allowed");
    does(&format!("{delete} --creds={login}"));

    // The same name in plain HTTP only reads, and requires no login.
    let curl = "curl --silent --output /dev/null --write-out '%{http_code}'";
    assert_eq!(
        does(&format!("{curl} http://hub.example.org:8080/v2/")),
        "200"
    );
    let push = "--request POST http://hub.example.org:8080/v2/team/app/blobs/uploads/";
    let login = basic("docker-deployer", PASSWORD);
    assert_eq!(
        does(&format!("{curl} --header 'Authorization: {login}' {push}")),
        "405"
    );
}
