//! compose.yaml, conf/container.yaml and the Dockerfile are consistent.
//!
//! The tests cannot build or pull images; they check the files, and run the containers' programs on a machine of their
//! own.

#[cfg(feature = "v1")]
mod binary;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_yaml::Value;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_yaml::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The strings of a list.
fn texts(list: &Value) -> Vec<&str> {
    let list = list.as_sequence().expect("a list");
    list.iter().map(|it| it.as_str().expect("text")).collect()
}

/// The keys of a mapping.
fn keys(mapping: &Value) -> BTreeSet<&str> {
    let mapping = mapping.as_mapping().expect("a mapping");
    mapping
        .keys()
        .map(|it| it.as_str().expect("text"))
        .collect()
}

/// A value as compose passes it to the service, with `host` in its own environment.
fn expanded(value: &str, host: &str) -> String {
    const REQUIRED: &str = "${ROADSTEAD_HOST:?export ROADSTEAD_HOST, the name that clients use}";
    value.replace(REQUIRED, host)
}

fn environment(service: &Value, host: &str) -> BTreeMap<String, String> {
    let environment = service["environment"].as_mapping().expect("a mapping");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    environment
        .iter()
        .map(|(key, value)| (text(key), expanded(&text(value), host)))
        .collect()
}

/// The instructions of the Dockerfile with joined lines, keyed by their first words.
fn instructions() -> Vec<(String, String)> {
    let text = read("Dockerfile");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instructions = joined.lines().filter(|line| !line.trim().is_empty());
    instructions
        .map(|line| {
            let (word, rest) = line.split_once(' ').expect("an instruction");
            (word.to_owned(), rest.trim().to_owned())
        })
        .collect()
}

fn all<'a>(instructions: &'a [(String, String)], word: &str) -> Vec<&'a str> {
    let found = instructions.iter().filter(|(first, _)| first == word);
    found.map(|(_, rest)| rest.as_str()).collect()
}

#[test]
fn compose_container_and_dockerfile_agree() {
    let compose = yaml("compose.yaml");
    let container = yaml("conf/container.yaml");
    let services = &compose["services"];
    let gateway = &services["gateway"];

    // Every backend is a service that shares a network with the gateway and publishes no port.
    let hosted = &container["registries"][0];
    assert_eq!(hosted["v2"].as_str(), Some("http://v2:5000"));
    assert!(read("conf/container.yaml").contains("v1: http://v1:5000\n"));
    for backend in ["v1", "v2"] {
        let service = &services[backend];
        assert_eq!(texts(&service["networks"]), ["inside"], "{backend}");
        assert!(service.get("ports").is_none(), "{backend}");
        assert!(keys(&gateway["depends_on"]).contains(backend));
    }
    assert!(texts(&gateway["networks"]).contains(&"inside"));
    assert_eq!(
        compose["networks"]["inside"]["internal"].as_bool(),
        Some(true)
    );
    let image = |service: &str| {
        services[service]["image"]
            .as_str()
            .expect("an image")
            .to_owned()
    };
    assert_eq!([image("v2"), image("v1")], ["registry:2", "registry:0.9.1"]);

    // Published ports have listeners, HTTPS on 443 and the mirror on 80.
    let listeners = container["listen"].as_sequence().expect("a list");
    let inside = |index: usize| listeners[index]["address"].as_str().expect("an address");
    let metrics = container["admin"]["metrics"].as_str().expect("an address");
    assert_eq!(
        texts(&gateway["ports"]),
        [
            format!("443{}", inside(0)),
            format!("80{}", inside(1)),
            format!("127.0.0.1:9090{metrics}")
        ]
    );
    // Health is that of the program itself, and backends are waited for where they can tell.
    assert_eq!(
        texts(&gateway["healthcheck"]["test"]),
        ["CMD", "roadstead", "health"]
    );
    for (name, condition) in gateway["depends_on"].as_mapping().expect("a mapping") {
        let has_check = services[name].get("healthcheck").is_some();
        let expected = if has_check {
            "service_healthy"
        } else {
            "service_started"
        };
        assert_eq!(condition["condition"], expected, "{name:?}");
    }

    // Named volumes are declared; the gateway's persistent data is in one.
    let mut volumes = BTreeSet::new();
    for service in ["gateway", "v1", "v2"] {
        for volume in texts(&services[service]["volumes"]) {
            let (from, _) = volume.split_once(':').expect("a place");
            match from.strip_prefix("./") {
                Some(path) => assert!(file(path).is_file(), "{path}"),
                None => assert!(volumes.insert(from), "{from} is of one service"),
            }
        }
    }
    assert_eq!(volumes, keys(&compose["volumes"]));
    let home = "/var/lib/roadstead";
    assert!(texts(&gateway["volumes"]).contains(&&*format!("gateway:{home}")));
    for retained in [
        &container["keys"],
        &container["store"]["path"],
        &container["access"]["htpasswd"],
    ] {
        let retained = retained.as_str().expect("a path");
        assert!(retained.starts_with(&format!("{home}/")), "{retained}");
    }

    // The configuration is where the gateway reads it.
    let config = &environment(gateway, "registry.example.com")["ROADSTEAD_CONFIG"];
    let mount = format!("./conf/container.yaml:{config}:ro");
    assert!(texts(&gateway["volumes"]).contains(&&*mount));
    let dockerfile = instructions();
    assert!(all(&dockerfile, "ENV").contains(&&*format!("ROADSTEAD_CONFIG={config}")));
    assert!(all(&dockerfile, "COPY").contains(&&*format!("conf/container.yaml {config}")));
    assert_eq!(all(&dockerfile, "VOLUME"), [home]);
    let ports = [inside(0), inside(1), metrics].map(|address| address.trim_start_matches(':'));
    assert_eq!(all(&dockerfile, "EXPOSE"), [ports.join(" ")]);
}

#[test]
fn dockerfile_copies_existing_files() {
    let dockerfile = instructions();
    // Builder and runtime have the same Debian: the C library must not be newer.
    assert_eq!(
        all(&dockerfile, "FROM"),
        ["rust:1-bookworm AS build", "gcr.io/distroless/cc-debian12"]
    );
    // All copied files exist, and are not ignored.
    let ignored = read(".dockerignore");
    let retained: BTreeSet<&str> = ignored
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .collect();
    let mut copied = BTreeSet::new();
    for copy in all(&dockerfile, "COPY") {
        if let Some(built) = copy.strip_prefix("--from=build ") {
            let program = built.starts_with("/build/target/dist/roadstead /usr/local/bin/");
            assert!(program || built == "--chown=10001:10001 /build/home /var/lib/roadstead");
            continue;
        }
        let words: Vec<&str> = copy.split_whitespace().collect();
        copied.extend(&words[..words.len() - 1]);
    }
    assert_eq!(copied, retained);
    for path in copied {
        assert!(file(path).exists(), "{path}");
    }
    // It runs as an unprivileged user, and as process 1 it gets the stop signal.
    let user = all(&dockerfile, "USER");
    assert!(user[0].parse::<u32>().is_ok_and(|id| id > 0), "{user:?}");
    let health = all(&dockerfile, "HEALTHCHECK");
    assert!(
        health[0].ends_with("CMD [\"roadstead\", \"health\"]"),
        "{health:?}"
    );
    assert_eq!(all(&dockerfile, "ENTRYPOINT"), ["[\"roadstead\"]"]);
    assert_eq!(all(&dockerfile, "CMD"), ["[\"serve\"]"]);
}
