//! The commands, and their errors when no gateway runs.

use super::*;
use testkit::{private_address, temp_dir};

#[test]
fn stats_output() {
    let address = private_address();
    let (_origin, image, gateway) = scene(1 << 20, &format!("admin: {{address: \"{address}\"}}\n"));
    pull(&gateway, &image);
    pull(&gateway, &image);
    metrics_after(&gateway, "blob", 4);
    let output = command(&gateway, &["stats"]);
    let told = text(&output.stdout);
    assert_eq!(
        (output.status.code(), &*text(&output.stderr)),
        (Some(0), ""),
        "{told}"
    );
    let columns = |start: &str| -> Vec<String> {
        let line = told.lines().find(|line| line.starts_with(start));
        let line = line.unwrap_or_else(|| panic!("no {start} in\n{told}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert!(
        told.starts_with(concat!(
            "roadstead ",
            env!("CARGO_PKG_VERSION"),
            ", ready, since 20"
        )),
        "{told}"
    );
    assert_eq!(columns("blobs")[..5], ["blobs", "4", "2", "2", "0"]);
    assert_eq!(columns("blobs")[5..7], ["1.0", "MiB"]);
    assert_eq!(columns("manifests")[..5], ["manifests", "2", "1", "1", "0"]);
    assert!(
        told.contains("\nsaved      1.0 MiB, 50 % of the bytes sent to clients\n"),
        "{told}"
    );
    assert!(
        told.contains(" of 100.0 GiB in 3 objects; 0 evicted (0 B)\n"),
        "{told}"
    );
    assert_eq!(columns("docker.io"), ["docker.io", "4", "0", "-"]);
}

#[test]
fn unreachable_gateway_is_reported() {
    let free = private_address();
    for (admin, code, words) in [
        ("off".to_owned(), 78, "admin.address is off"),
        ("127.0.0.1:0".to_owned(), 78, "admin.address has port 0"),
        (free.to_string(), 69, "is the gateway running?"),
        (
            "unix:nobody.sock".to_owned(),
            69,
            "cannot connect to unix:nobody.sock",
        ),
    ] {
        let dir = temp_dir();
        let yaml = format!("admin: {{address: \"{admin}\"}}\n");
        std::fs::write(dir.path().join("roadstead.yaml"), yaml).expect("writable");
        for arguments in [
            &["stats"][..],
            &["purge", "app"],
            &["verify"],
            &["warm", "app"],
        ] {
            let output = command_in(dir.path(), arguments);
            let told = text(&output.stderr);
            assert_eq!(
                (output.status.code(), output.stdout.len()),
                (Some(code), 0),
                "{admin} {arguments:?}: {told}"
            );
            assert!(
                told.starts_with("roadstead: ") && told.contains(words),
                "{admin} {arguments:?}: {told}"
            );
        }
    }
    // The commands refuse an invalid configuration as `serve` does.
    let dir = temp_dir();
    std::fs::write(dir.path().join("roadstead.yaml"), "admin: {adress: off}\n").expect("writable");
    let output = command_in(dir.path(), &["stats"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        text(&output.stderr).starts_with("roadstead.yaml:1:9: "),
        "{output:?}"
    );
}

#[test]
fn refused_request_is_reported() {
    let (_origin, _, gateway) = scene(1, SOCKET);
    let output = command(&gateway, &["purge", "Not A Name"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(
        told.contains("refused the request (400 Bad Request): ")
            && told.contains("[registry/]repository"),
        "{told}"
    );
}

#[test]
fn taken_port_is_reported() {
    for key in ["address", "metrics"] {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = taken.local_addr().expect("an address");
        let other = if key == "address" {
            "metrics"
        } else {
            "address"
        };
        let output = Gateway::refused(&format!(
            "listen: [{{address: \"127.0.0.1:0\", tls: off}}]\nadmin: {{{key}: \"{port}\", {other}: off}}\n"
        ));
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{told}");
        let words = format!("roadstead: cannot listen on {port} (admin.{key}): ");
        assert!(told.contains(&words), "{told}");
        assert!(!text(&output.stdout).contains("ready"));
    }
}
