//! Pushes that begin before an upgrade and end after it.

use std::thread;

use testkit::gateway::Gateway;
use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Latch, MEDIA_MANIFEST, Origin};

use super::ADMIN;

fn scene() -> (Origin, Gateway) {
    let origin = Origin::start();
    let url = origin.url();
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{url}\", push: true, tag_ttl: 1h}}]\n{ADMIN}\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, push]}}]}}\n"
    ));
    (origin, gateway)
}

#[test]
fn push_that_ends_in_the_old_process_is_seen_by_the_new_one() {
    let (origin, mut gateway) = scene();
    let old = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    let new = origin.push_image("team/app", "next", &[random(2, 1000)]);
    let tag = old.tag_path();
    let answer = Latch::new();
    let put = ("PUT", "*/manifests/latest");
    origin.fault(Fault::Hold(answer.clone()).on(put.0, put.1));
    origin.fault(Fault::status_with(201, "Docker-Content-Digest", &new.digest).on(put.0, put.1));
    let (url, manifest) = (gateway.url(1).to_owned(), new.manifest.clone());
    let path = tag.clone();
    let push = thread::spawn(move || {
        let mut client = Raw::connect(&url, None);
        let head = format!(
            "PUT {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: {MEDIA_MANIFEST}\r\n\
             Content-Length: {}\r\n\r\n",
            manifest.len()
        );
        client.send(head);
        client.send(&manifest);
        client.reply("PUT").status()
    });
    answer.wait_reached(1);
    gateway.upgrade();
    let mut client = Raw::connect(gateway.url(1), None);
    assert_eq!(client.get(&tag).body, old.manifest, "not moved yet");
    origin.tag("team/app", "latest", &new.digest);
    answer.release();
    assert_eq!(push.join().expect("answered"), 201);
    // Fresh for an hour, had the new process not been told.
    assert_eq!(client.get(&tag).body, new.manifest);
}

/// The registry's upload outlives the process that began it.
#[test]
fn upload_goes_on_in_the_new_process() {
    let (origin, mut gateway) = scene();
    origin.take_pushes();
    let mut client = Raw::connect(gateway.url(1), None);
    let empty = [("Content-Length", "0")];
    let upload = client.exchange("POST", "/v2/team/app/blobs/uploads/", &empty);
    assert_eq!(upload.status(), 202);
    let location = upload.header("location").expect("a location");
    let path = &location[location.find("/v2/").expect("a path")..];
    gateway.upgrade();
    let body = random(3, 100_000);
    let digest = testkit::sha256(&body);
    let joined = if path.contains('?') { '&' } else { '?' };
    let mut client = Raw::connect(gateway.url(1), None);
    client.send(format!(
        "PUT {path}{joined}digest={digest} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    client.send(&body);
    let put = client.reply("PUT");
    assert_eq!(put.status(), 201, "{}", put.text());
    let path = format!("/v2/team/app/blobs/{digest}");
    let reply = get(gateway.url(1), None, &path);
    assert!(reply.is_complete() && reply.body == body);
    assert_eq!(origin.count("POST", "*/uploads/"), 1);
}
