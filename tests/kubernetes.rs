//! conf/kubernetes/roadstead.yaml is consistent: its configuration, ports, probes, volumes, and the command for the nodes. No
//! cluster runs here.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize as _;
use serde_yaml::Value;

use testkit::{process, temp_dir};

const MANIFEST: &str = "conf/kubernetes/roadstead.yaml";
const WITHIN: Duration = Duration::from_secs(30);

/// The objects of the file.
fn objects() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(MANIFEST);
    let text = std::fs::read_to_string(path).expect("the manifest");
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents
        .map(|document| Value::deserialize(document).expect("YAML"))
        .collect()
}

fn object(kind: &str) -> Value {
    let mut found = objects().into_iter().filter(|it| it["kind"] == kind);
    let object = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "two of {kind}");
    object
}

fn list(value: &Value) -> &[Value] {
    value.as_sequence().expect("a list")
}

fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value:?}"))
}

fn names(values: &Value) -> BTreeSet<&str> {
    list(values).iter().map(|it| text(&it["name"])).collect()
}

#[test]
fn objects_fit_together() {
    let deployment = object("Deployment");
    let pod = &deployment["spec"]["template"]["spec"];
    let gateway = &pod["containers"][0];
    let version = format!("/roadstead:{}", env!("CARGO_PKG_VERSION"));
    let daemons = object("DaemonSet");
    let nodes = &daemons["spec"]["template"]["spec"];
    for container in [gateway, &nodes["initContainers"][0]] {
        assert!(
            text(&container["image"]).ends_with(&version),
            "{container:?}"
        );
    }
    let service = object("Service");
    for (workload, labels) in [(&deployment, &deployment), (&daemons, &daemons)] {
        let selector = &workload["spec"]["selector"]["matchLabels"];
        assert_eq!(*selector, labels["spec"]["template"]["metadata"]["labels"]);
    }
    assert_eq!(
        service["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"]
    );
    let ports = names(&gateway["ports"]);
    for port in list(&service["spec"]["ports"]) {
        assert!(ports.contains(text(&port["targetPort"])), "{port:?}");
    }
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = &gateway[probe]["httpGet"];
        assert_eq!((text(&get["path"]), text(&get["port"])), (path, "metrics"));
    }
    for (pod, containers) in [(pod, "containers"), (nodes, "initContainers")] {
        let volumes = names(&pod["volumes"]);
        let mounts = names(&pod[containers][0]["volumeMounts"]);
        assert!(mounts.is_subset(&volumes), "{mounts:?} of {volumes:?}");
    }
    let config = object("ConfigMap");
    assert_eq!(
        pod["volumes"][0]["configMap"]["name"],
        config["metadata"]["name"]
    );
    assert_eq!(pod["securityContext"]["runAsNonRoot"], Value::Bool(true));
    let namespaces = objects();
    assert!(
        namespaces
            .iter()
            .all(|it| it["metadata"]["namespace"] == "roadstead")
    );
}

/// The configuration passes `check`, and its listeners are the container's ports.
#[test]
fn configuration_passes_check() {
    let config = object("ConfigMap");
    let yaml = text(&config["data"]["roadstead.yaml"]);
    let deployment = object("Deployment");
    let gateway = &deployment["spec"]["template"]["spec"]["containers"][0];
    let dir = temp_dir();
    let ca = testkit::tls::Ca::new();
    let tls = ca.issue(&["localhost"]);
    let local = yaml
        .replace(
            "/etc/roadstead/tls/tls.crt",
            &tls.certificate.display().to_string(),
        )
        .replace("/etc/roadstead/tls/tls.key", &tls.key.display().to_string());
    std::fs::write(dir.path().join("f.yaml"), local).expect("writable");
    let mut command = process::command(testkit::binary());
    command.env_clear().current_dir(dir.path());
    command.args(["check", "--config", "f.yaml"]);
    for variable in list(&gateway["env"]) {
        command.env(text(&variable["name"]), "secret");
    }
    let output = process::run(&mut command, WITHIN).expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*said), (Some(0), ""));

    let parsed: Value = serde_yaml::from_str(yaml).expect("YAML");
    let addresses = [
        ("registry", &parsed["listen"][0]["address"]),
        ("metrics", &parsed["admin"]["metrics"]),
    ];
    for (port, (name, address)) in list(&gateway["ports"]).iter().zip(addresses) {
        assert_eq!(text(&port["name"]), name);
        let number = port["containerPort"].as_u64().expect("a number");
        assert_eq!(text(address), format!(":{number}"));
    }
    let mounts = list(&gateway["volumeMounts"]);
    let at = |path: &str| {
        mounts
            .iter()
            .any(|it| path.starts_with(text(&it["mountPath"])))
    };
    for path in [&parsed["keys"], &parsed["store"]["path"]] {
        assert!(at(text(path)), "{path:?}");
    }
    let arguments: Vec<&str> = list(&gateway["args"]).iter().map(text).collect();
    assert_eq!(
        arguments,
        ["serve", "--config", "/etc/roadstead/roadstead.yaml"]
    );
}

/// The command of the nodes writes what containerd needs, for the registries of the configuration.
#[test]
fn nodes_are_set_up() {
    let config = object("ConfigMap");
    let config: Value =
        serde_yaml::from_str(text(&config["data"]["roadstead.yaml"])).expect("YAML");
    let daemons = object("DaemonSet");
    let nodes = &daemons["spec"]["template"]["spec"];
    let dir = temp_dir();
    let ca = testkit::tls::Ca::new();
    let arguments = list(&nodes["initContainers"][0]["args"]).iter().map(text);
    let arguments: Vec<String> = arguments
        .map(|it| it.replace("=/host", &format!("={}", dir.path().display())))
        .map(|it| {
            it.replace(
                "/etc/roadstead/tls/ca.crt",
                &ca.path().display().to_string(),
            )
        })
        .collect();
    let output = process::run(process::command(testkit::binary()).args(&arguments), WITHIN);
    let output = output.expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let url = format!("[host.\"{}\"]", text(&config["listen"][0]["public_url"]));
    for registry in list(&config["registries"]) {
        let name = registry.as_str().unwrap_or_else(|| text(&registry["name"]));
        let path = format!("etc/containerd/certs.d/{name}/hosts.toml");
        let hosts = process::read_lossy(&dir.path().join(path));
        assert!(
            hosts.contains(&url) && hosts.contains("roadstead-ca.pem"),
            "{name}: {hosts}"
        );
    }
    // Nothing is written outside of what is mounted.
    let mounted = list(&nodes["initContainers"][0]["volumeMounts"]).iter();
    let mounted: BTreeSet<&str> = mounted.map(|it| text(&it["mountPath"])).collect();
    let folders = std::fs::read_dir(dir.path().join("etc")).expect("a folder");
    for folder in folders {
        let name = folder.expect("an entry").file_name();
        let path = format!("/host/etc/{}", name.to_string_lossy());
        assert!(mounted.contains(path.as_str()), "{path}");
    }
}
