//! Webhooks, the audit log and the service manager across an upgrade.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use testkit::gateway::Gateway;
use testkit::http::Raw;
use testkit::image::random;
use testkit::origin::{Fault, Latch, Origin, Recorded};
use testkit::{temp_dir, until};

use super::ADMIN;

/// Each event reaches its webhook once, also that of a request which ends in the old process.
#[test]
fn events_are_delivered_whichever_process_has_them() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    hooks.fault(Fault::status(200).on("POST", "*"));
    origin.fault(Fault::status(202).on("DELETE", "*"));
    origin.push_image("team/app", "latest", &[random(1, 1000)]);
    let mut gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true}}]\n{ADMIN}\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, push, delete]}}]}}\n\
         audit: {{path: audit.log}}\n\
         events: [{{url: \"{}/hook\", actions: [delete]}}]\n",
        origin.url(),
        hooks.url()
    ));
    let path = |tag: &str| format!("/v2/team/app/manifests/{tag}");
    let delete = |client: &mut Raw, tag: &str| client.exchange("DELETE", &path(tag), &[]).status();
    // The endpoint is away: two events wait on disk.
    let away = hooks.fault(Fault::status(503).on("POST", "*"));
    let mut client = Raw::connect(gateway.url(1), None);
    assert_eq!(delete(&mut client, "a"), 202);
    assert_eq!(delete(&mut client, "b"), 202);
    let answer = Latch::new();
    origin.fault(Fault::Hold(answer.clone()).on("DELETE", "*/manifests/c"));
    let ends_late = thread::spawn(move || client.exchange("DELETE", &path("c"), &[]).status());
    answer.wait_reached(1);
    gateway.upgrade();
    answer.release();
    assert_eq!(ends_late.join().expect("answered"), 202);
    let mut client = Raw::connect(gateway.url(1), None);
    assert_eq!(delete(&mut client, "d"), 202);
    hooks.heal(away);
    // An attempt that failed is repeated with the same id.
    let events = || {
        let posts = hooks.requests_for("POST", "/hook").into_iter();
        let event = |post: Recorded| {
            let event: Value = serde_json::from_slice(&post.body).expect("JSON");
            let event = &event["events"][0];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&event["target"]["tag"]), text(&event["id"]))
        };
        posts.map(event).collect::<BTreeSet<_>>()
    };
    until("all events are delivered", || events().len() >= 4);
    let events = events();
    let tags: Vec<&str> = events.iter().map(|(tag, _)| tag.as_str()).collect();
    assert_eq!(tags, ["a", "b", "c", "d"]);
    until("the audit log has all of them", || {
        let log = std::fs::read_to_string(gateway.dir().join("audit.log")).expect("a log");
        ["a", "b", "c", "d"].iter().all(|tag| {
            let lines = log.lines().filter(|line| line.contains("\"delete\""));
            lines
                .filter(|line| line.contains(&format!("\"tag\":\"{tag}\"")))
                .count()
                == 1
        })
    });
    let log = std::fs::read_to_string(gateway.dir().join("audit.log")).expect("a log");
    assert!(log.contains("\"upgrade\""), "{log}");
}

#[test]
fn service_manager_is_told_of_the_new_process() {
    let folder = temp_dir();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a socket");
    let timeout = Some(Duration::from_secs(30));
    manager.set_read_timeout(timeout).expect("a timeout");
    let told = || {
        let mut bytes = [0; 4096];
        let length = manager.recv(&mut bytes).expect("a notification");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let name = path.to_str().expect("a path");
    let mut gateway = Gateway::start_with(ADMIN, &[("NOTIFY_SOCKET", name)]);
    assert_eq!(told(), "READY=1");
    gateway.upgrade();
    let mut both = [told(), told()];
    both.sort();
    assert_eq!(
        both,
        [format!("MAINPID={}", gateway.pid()), "READY=1".to_owned()]
    );
    until("the old process ends", || {
        gateway.process().first_has_ended()
    });
    gateway.begin_termination();
    assert_eq!(told(), "STOPPING=1");
}
