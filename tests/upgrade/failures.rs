//! New processes that fail, each at another moment, and a stop meanwhile.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::Signal;
use testkit::gateway::Gateway;
use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Latch, Origin};
use testkit::{binary, until};

use super::{ADMIN, refused};

/// Starts the gateway by a name that the test makes another program of.
const RENAMED: [&str; 3] = ["bash", "-c", "exec -a ./successor \"$0\" \"$@\""];
const SIZE: usize = 3 << 20;
const HALF: u64 = SIZE as u64 / 2;

/// Reads messages until it has been sent the store.
const GETS_THE_STORE: &str = r#"
echo '{"message":"prepared"}' >&0
while :; do
    message=$(dd bs=65536 count=1 2>/dev/null)
    case $message in *'"store"'*) break ;; esac
    sleep 0.01
done
"#;

fn write_successor(folder: &Path, script: &str) {
    let path = folder.join("successor");
    std::fs::write(&path, format!("#!/bin/sh\n{script}")).expect("writable");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&path, executable).expect("a program");
}

/// The children of a process.
fn children(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process")
}

/// A download whose registry pauses after the first half, and the half that has come.
fn begin(origin: &Origin, gateway: &Gateway, digest: &str) -> (Latch, Raw, Vec<u8>) {
    let latch = Latch::new();
    let pause = Fault::PauseAt(HALF, latch.clone());
    let path = format!("/v2/library/app/blobs/{digest}");
    origin.fault(pause.on("GET", &path).times(1));
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &path, &[]);
    let head = client.read_head().expect("a head");
    assert_eq!(head.length(), Some(SIZE as u64));
    let body = client.read_exactly(HALF);
    (latch, client, body)
}

#[test]
fn successors_that_fail_leave_the_gateway_as_it_was() {
    let origin = Origin::start();
    let url = origin.url();
    let yaml = format!("registries: [{{name: docker.io, v2: \"{url}\"}}]\n{ADMIN}");
    let mut gateway = Gateway::start_under(&RENAMED, &yaml, &[]);
    let cached = origin.push_blob("library/app", random(1, 1000));
    let cached = format!("/v2/library/app/blobs/{cached}");
    assert!(get(gateway.url(1), None, &cached).is_complete());
    let mut files = None;
    for (number, (script, words)) in [
        ("exit 0", "ended before it was ready (exit status: 0)"),
        ("exit 3", "ended before it was ready (exit status: 3)"),
        (
            "exec 0<&-; exec sleep 600",
            "ended before it was ready (signal: 9",
        ),
        (
            "echo nonsense >&0; exec sleep 600",
            "ended before it was ready (signal: 9",
        ),
        (
            "dd if=/dev/zero bs=100000 count=1 2>/dev/null >&0; exec sleep 600",
            "ended before it was ready (signal: 9",
        ),
        (
            "echo '{\"message\":\"failed\",\"reason\":\"no luck\"}' >&0",
            "cannot take over: no luck",
        ),
        (
            &format!("{GETS_THE_STORE} kill -9 $$"),
            "ended before it was ready (signal: 9",
        ),
        (
            &format!("{GETS_THE_STORE} echo nonsense >&0; exec sleep 600"),
            "ended before it was ready (signal: 9",
        ),
        (
            &format!(
                "{GETS_THE_STORE} echo '{{\"message\":\"failed\",\"reason\":\"no luck\"}}' >&0"
            ),
            "cannot take over: no luck",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let bytes = random(100 + number as u64, SIZE);
        let digest = origin.push_blob("library/app", bytes.clone());
        let (latch, mut client, mut body) = begin(&origin, &gateway, &digest);
        write_successor(gateway.dir(), script);
        let error = refused(&gateway, 1);
        assert!(error.contains(words), "{script}: {error}");
        assert_eq!(children(gateway.pid()), "", "{script}");
        assert!(get(gateway.url(1), None, &cached).is_complete());
        latch.release();
        body.extend(client.read_exactly(SIZE as u64 - HALF));
        assert!(body == bytes, "{script}");
        drop(client);
        // Stored, whether the download was interrupted or not.
        let path = format!("/v2/library/app/blobs/{digest}");
        until("the blob is stored", || {
            let reply = get(gateway.url(1), None, &path);
            assert!(reply.is_complete() && reply.body == bytes);
            let status = reply.header("cache-status");
            status.is_some_and(|it| it.contains("; hit"))
        });
        let before = *files.get_or_insert_with(|| gateway.open_fds());
        until("no file is left open", || gateway.open_fds() <= before);
    }
    std::fs::remove_file(gateway.dir().join("successor")).expect("removed");
    let error = refused(&gateway, 1);
    assert!(error.contains("cannot start ./successor"), "{error}");
    std::os::unix::fs::symlink(binary(), gateway.dir().join("successor")).expect("a program");
    let first = gateway.pid();
    gateway.upgrade();
    assert_ne!(gateway.pid(), first);
    assert!(get(gateway.url(1), None, &cached).is_complete());
}

/// The new process has the store, and the gateway is told to end.
#[test]
fn stop_ends_an_upgrade() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    hooks.fault(Fault::status(200).on("POST", "*"));
    origin.fault(Fault::status(202).on("DELETE", "*"));
    let yaml = format!(
        "registries: [{{name: docker.io, v2: \"{}\", push: true}}]\n{ADMIN}\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, delete]}}]}}\n\
         events: [{{url: \"{}/hook\", actions: [delete]}}]\n",
        origin.url(),
        hooks.url()
    );
    let mut gateway = Gateway::start_under(&RENAMED, &yaml, &[]);
    let bytes = random(1, SIZE);
    let digest = origin.push_blob("library/app", bytes.clone());
    let (latch, mut client, mut body) = begin(&origin, &gateway, &digest);
    let answer = Latch::new();
    origin.fault(Fault::Hold(answer.clone()).on("DELETE", "*"));
    let mut deleting = Raw::connect(gateway.url(1), None);
    deleting.request("DELETE", "/v2/library/app/manifests/a", &[]);
    answer.wait_reached(1);

    let script = format!("{GETS_THE_STORE} echo $$ >has-the-store; exec sleep 600");
    write_successor(gateway.dir(), &script);
    gateway.signal(Signal::USR2);
    let told = gateway.dir().join("has-the-store");
    let successor = || std::fs::read_to_string(&told).unwrap_or_default();
    until("the new process has the store", || {
        successor().ends_with('\n')
    });
    gateway.begin_termination();
    latch.release();
    body.extend(client.read_exactly(SIZE as u64 - HALF));
    assert!(body == bytes);
    answer.release();
    assert_eq!(deleting.reply("DELETE").status(), 202);
    drop((client, deleting));
    assert_eq!(gateway.wait().code(), Some(0));
    let process = format!("/proc/{}", successor().trim());
    assert!(!Path::new(&process).exists(), "{process}");
    let log = gateway.log();
    assert!(log.contains("the gateway is ending"), "{log}");

    gateway.restart();
    let path = format!("/v2/library/app/blobs/{digest}");
    let reply = get(gateway.url(1), None, &path);
    assert!(reply.is_complete() && reply.body == bytes);
    until("the event is delivered", || {
        hooks.count("POST", "/hook") > 0
    });
}
