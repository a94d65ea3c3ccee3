//! What a service manager is told, as `sd_notify(3)` describes it.

mod activation;

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::temp_dir;

/// The next notification, as `KEY=VALUE` lines.
#[track_caller]
fn told(manager: &UnixDatagram) -> Vec<String> {
    let mut bytes = [0; 4096];
    let length = manager.recv(&mut bytes).expect("a notification");
    let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
    text.lines().map(str::to_owned).collect()
}

/// A gateway that is told of this socket runs, reloads and ends.
fn lives_as_told(manager: &UnixDatagram, name: &str) {
    manager
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("a timeout");
    let mut gateway = Gateway::start_with("", &[("NOTIFY_SOCKET", name)]);
    assert_eq!(told(manager), ["READY=1"]);
    let mut began = 0;
    for yaml in ["log: {access: false}\n", "acess: off\n"] {
        gateway.write_config(yaml);
        gateway.hang_up();
        let reloading = told(manager);
        assert_eq!(reloading[0], "RELOADING=1");
        let at = reloading[1]
            .strip_prefix("MONOTONIC_USEC=")
            .expect("a time");
        let at: u64 = at.parse().expect("a number");
        assert!(at > began, "{at} {began}");
        began = at;
        // Also where the file is refused: the gateway serves as before.
        assert_eq!(told(manager), ["READY=1"]);
    }
    gateway.begin_termination();
    assert_eq!(told(manager), ["STOPPING=1"]);
    assert!(gateway.wait().success());
}

#[test]
fn service_manager_is_told_at_a_path() {
    let folder = temp_dir();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    lives_as_told(&manager, path.to_str().expect("a path"));
}

#[test]
fn service_manager_is_told_at_an_abstract_name() {
    let name = format!("roadstead-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let manager = UnixDatagram::bind_addr(&address).expect("a socket");
    lives_as_told(&manager, &format!("@{name}"));
}
