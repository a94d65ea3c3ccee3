//! Sockets that a service manager passes, by systemd's own `systemd-socket-activate`.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw, get};
use testkit::image::random;
use testkit::origin::{Auth, Origin};
use testkit::process::{self, Process};
use testkit::real::{found, program};
use testkit::{private_address, temp_dir, until};

use crate::reload::applied;

const ACTIVATE: &str = "systemd-socket-activate";
/// A credential helper that writes its environment to a file.
const HELPER: &str = r#"#!/bin/sh
env > ENVIRONMENT
echo '{"ServerURL":"x","Username":"robot","Secret":"s3cret-word"}'
"#;

/// Whether a client gets an answer there.
fn answers(url: &str) -> bool {
    let client = Raw::connect_with(url, Connect::default());
    client.is_ok_and(|mut client| client.get("/v2/").status() == 200)
}

#[test]
fn passed_sockets_are_served_and_outlive_reloads() {
    if found(program(ACTIVATE)).is_none() {
        return;
    }
    let folder = temp_dir();
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    origin.require(Auth::basic("robot", "s3cret-word"));
    let helper = folder.path().join("docker-credential-test");
    let environment = folder.path().join("environment");
    let script = HELPER.replace("ENVIRONMENT", environment.to_str().expect("text"));
    std::fs::write(&helper, script).expect("writable");
    std::fs::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", folder.path().display());

    let [tcp, metrics, unused] = [(); 3].map(|()| private_address().to_string());
    let [unix, admin] = ["data.sock", "admin.sock"].map(|name| {
        let path = folder.path().join(name);
        path.to_str().expect("text").to_owned()
    });
    let yaml = |listen: &str| {
        format!(
            "registries: [{{name: docker.io, v2: \"{}\", credentials: {{helper: docker-credential-test}}}}]\n\
             access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull]}}]}}\n\
             admin: {{address: \"unix:{admin}\", metrics: \"{metrics}\"}}\n\
             listen: [{listen}]\n",
            origin.url()
        )
    };
    let on_tcp = format!("{{address: \"{tcp}\", tls: off}}");
    let on_unix = format!("{{address: \"unix:{unix}\", tls: off}}");
    let both = format!("{on_unix}, {on_tcp}");
    let names = "--fdname=main:metrics:spare:file:admin";
    let wrapper = [
        ACTIVATE, "-l", &tcp, "-l", &metrics, "-l", &unused, "-l", &unix, "-l", &admin, names,
    ];
    let (first, file) = (format!("http://{tcp}"), format!("unix:{unix}"));

    // The first request starts the gateway, which answers it.
    let url = first.clone();
    let waiting = std::thread::spawn(move || until("an answer", || answers(&url)));
    let mut gateway = Gateway::start_under(&wrapper, &yaml(&both), &[("PATH", &path)]);
    waiting.join().expect("it was answered");
    assert!(answers(&file));
    let reply = get(&format!("http://{metrics}"), None, "/metrics");
    assert_eq!(reply.status(), 200);
    let log = gateway.log();
    let warned = log
        .lines()
        .filter(|line| line.contains("the service manager passed"));
    let warned: Vec<&str> = warned.collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(
        warned[0].contains("socket=\"spare\"") && warned[0].contains(&unused),
        "{warned:?}"
    );

    // Programs that it starts are not told of the sockets.
    assert!(get(&first, None, &image.tag_path()).body == image.manifest);
    let variables = std::fs::read_to_string(&environment).expect("the helper ran");
    assert!(variables.contains("PATH="), "{variables}");
    for name in ["LISTEN_FDS=", "LISTEN_PID="] {
        assert!(!variables.contains(name), "{variables}");
    }

    // A listener that is removed and added has its socket again.
    let mut client = Raw::connect(&first, None);
    assert_eq!(client.get("/v2/").status(), 200);
    applied(&gateway.reload(&yaml(&on_tcp)));
    assert_eq!(client.get("/v2/").status(), 200);
    applied(&gateway.reload(&yaml(&both)));
    assert!(answers(&first) && answers(&file));
    assert_eq!(client.get("/v2/").status(), 200);

    // A process that takes over has the sockets as well, also for later reloads.
    gateway.upgrade();
    assert!(answers(&first) && answers(&file));
    applied(&gateway.reload(&yaml(&on_tcp)));
    applied(&gateway.reload(&yaml(&both)));
    assert!(answers(&first) && answers(&file));

    assert!(gateway.terminate().success());
    for socket in [&unix, &admin] {
        let kind = std::fs::symlink_metadata(socket);
        kind.expect("the socket file is the service manager's");
    }
}

#[test]
fn passed_sockets_of_other_kinds_are_refused() {
    if found(program(ACTIVATE)).is_none() {
        return;
    }
    let folder = temp_dir();
    let address = private_address();
    let mut command = process::command(ACTIVATE);
    command
        .args(["--datagram", "-l", &address.to_string(), "--fdname=wrong"])
        .arg(testkit::binary())
        .arg("serve")
        .current_dir(folder.path());
    let log = folder.path().join("log");
    let mut process = Process::spawn_logged(&mut command, &log).expect("it runs");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    until("the gateway to end", || {
        // Until the socket is there, nobody gets it.
        let _ = client.send_to(b"hello", address);
        process.exited().is_some()
    });
    let status = process.wait(Duration::ZERO).expect("it has ended");
    assert_eq!(status.code(), Some(1), "{}", process.log());
    let words = "the service manager passed a socket that cannot be used: wrong is a socket of datagrams or packets; \
                 write ListenStream= in its unit";
    assert!(process.log().contains(words), "{}", process.log());
}
