//! The audit log: who logged in, failed to, was denied, and what was pushed and deleted.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::{basic, eventually, until};

/// `reader` and `pusher`, both with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n\
                     pusher:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

struct Scene {
    _origin: Origin,
    image: Image,
    gateway: Gateway,
    _users: tempfile::TempDir,
    /// How many lines were read.
    read: usize,
}

/// A gateway whose audit log is at `path`.
fn scene(path: &str) -> Scene {
    scene_with(path, "")
}

fn scene_with(path: &str, more: &str) -> Scene {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    origin.fault(Fault::status(202).on("DELETE", "*"));
    origin.fault(Fault::status(201).on("PUT", "*"));
    let users = tempfile::tempdir().expect("a folder");
    let htpasswd = users.path().join("users");
    std::fs::write(&htpasswd, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true}}]\n\
         access:\n  htpasswd: {}\n  rules:\n  \
         - {{users: [pusher], repositories: [\"hosted/**\"], actions: [pull, push, delete]}}\n  \
         - {{users: [\"*\"], repositories: [\"hosted/**\"], actions: [pull]}}\n\
         audit: {{path: {path}}}\n\
         admin: {{address: \"127.0.0.1:0\"}}\n{more}",
        origin.url(),
        htpasswd.display()
    ));
    Scene {
        _origin: origin,
        image,
        gateway,
        _users: users,
        read: 0,
    }
}

impl Scene {
    fn ask(&self, method: &str, path: &str, login: Option<&str>) -> Reply {
        let mut headers = vec![("User-Agent", "docker/28.0 \"x\"")];
        headers.extend(login.map(|login| ("Authorization", login)));
        if method == "PUT" {
            headers.extend([("Content-Length", "2"), ("Content-Type", "a/b")]);
        }
        let mut raw = Raw::connect(self.gateway.url(1), None);
        raw.request(method, path, &headers);
        if method == "PUT" {
            raw.send("{}");
        }
        raw.reply(method)
    }

    fn log(&self) -> PathBuf {
        self.gateway.dir().join("log/audit.log")
    }

    /// The next line, without its time, which is checked.
    fn next(&mut self) -> Value {
        let path = self.log();
        let line = eventually("a line of the audit log", || {
            let text = std::fs::read_to_string(&path).ok()?;
            let complete = &text[..=text.rfind('\n')?];
            complete.lines().nth(self.read).map(str::to_owned)
        });
        self.read += 1;
        let mut line: Value = serde_json::from_str(&line).expect("JSON");
        let time = line["time"].take();
        let time = time.as_str().expect("a time");
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
        line.as_object_mut().expect("an object").remove("time");
        line
    }
}

/// The fields that depend on the request alone.
fn expected(reply: &Reply, method: &str, more: &Value) -> Value {
    let mut line = json!({
        "user_agent": "docker/28.0 \"x\"",
        "request_id": reply.header("x-request-id").expect("an id"),
        "method": method,
    });
    let fields = line.as_object_mut().expect("an object");
    fields.extend(more.as_object().expect("an object").clone());
    line
}

#[test]
fn each_event_is_one_line_with_its_request() {
    let mut scene = scene("log/audit.log");
    let (reader, pusher) = (basic("reader", "s3cret"), basic("pusher", "s3cret"));
    let wrong = basic("pusher", "guess-1");
    let tag = "/v2/hosted/team/app/manifests/new";
    let put = testkit::sha256(b"{}");
    let by_digest = format!("/v2/hosted/team/app/manifests/{}", scene.image.digest);
    let login = |user: &str| json!({"action": "login", "user": user});
    let image = |action: &str, user: &str, more: Value| {
        let mut line = json!({
            "action": action, "user": user, "registry": "hosted", "repository": "team/app",
        });
        let fields = line.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        line
    };
    for (method, path, auth, lines) in [
        // What clients do before they log in is no event.
        ("GET", "/v2/", None, vec![]),
        ("GET", &*by_digest, None, vec![]),
        ("GET", "/token", Some(&reader), vec![login("reader")]),
        ("GET", &by_digest, Some(&reader), vec![login("reader")]),
        (
            "GET",
            "/token",
            Some(&wrong),
            vec![json!({"action": "login_failed", "user": "pusher"})],
        ),
        (
            "PUT",
            tag,
            Some(&reader),
            vec![
                login("reader"),
                image(
                    "denied",
                    "reader",
                    json!({"tag": "new", "detail": "by the access rules"}),
                ),
            ],
        ),
        (
            "PUT",
            tag,
            Some(&pusher),
            vec![
                login("pusher"),
                image("push", "pusher", json!({"tag": "new", "digest": put})),
            ],
        ),
        (
            "DELETE",
            tag,
            Some(&pusher),
            vec![
                login("pusher"),
                image("delete", "pusher", json!({"tag": "new"})),
            ],
        ),
        (
            "DELETE",
            &by_digest,
            Some(&pusher),
            vec![
                login("pusher"),
                image("delete", "pusher", json!({"digest": scene.image.digest})),
            ],
        ),
    ] {
        let reply = scene.ask(method, path, auth.map(String::as_str));
        for line in lines {
            let mut found = scene.next();
            let address = found["address"].take();
            let address = address.as_str().expect("an address");
            assert!(address.starts_with("127.0.0.1:"), "{address}");
            found.as_object_mut().expect("an object").remove("address");
            assert_eq!(found, expected(&reply, method, &line), "{method} {path}");
        }
    }
    let text = std::fs::read_to_string(scene.log()).expect("readable");
    assert_eq!(text.lines().count(), scene.read, "{text}");
    let secrets = ["s3cret", "guess-1", "Basic", "Bearer"];
    assert!(
        !secrets.iter().any(|secret| text.contains(secret)),
        "{text}"
    );
    let mode = std::fs::metadata(scene.log())
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn each_of_several_tags_is_a_push() {
    let mut scene = scene("log/audit.log");
    let pusher = basic("pusher", "s3cret");
    let digest = testkit::sha256(b"{}");
    let path = format!("/v2/hosted/team/app/manifests/{digest}?tag=a&tag=b");
    assert_eq!(scene.ask("PUT", &path, Some(&pusher)).status(), 201);
    assert_eq!(scene.next()["action"], "login");
    for tag in ["a", "b"] {
        let line = scene.next();
        assert_eq!(line["action"], "push");
        assert_eq!(
            (&line["tag"], &line["digest"]),
            (&json!(tag), &json!(digest))
        );
    }
}

#[test]
fn actions_of_operators_are_events() {
    let mut scene = scene("log/audit.log");
    let name = "hosted/team/app:latest";
    let operate = |method: &str, path: &str, body: &str| {
        let mut raw = Raw::connect(scene.gateway.operators("admin.address"), None);
        let length = body.len().to_string();
        let headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", &length),
            ("X-Roadstead-Request", "1"),
            ("User-Agent", "page"),
        ];
        raw.request(method, path, &headers);
        raw.send(body);
        raw.reply(method).status()
    };
    let reader = basic("reader", "s3cret");
    let pulled = scene.ask("GET", "/v2/hosted/team/app/manifests/latest", Some(&reader));
    assert_eq!(pulled.status(), 200);
    let image = format!("{{\"image\": \"{name}\"}}");
    let target = format!("{{\"target\": \"{name}\"}}");
    let dry = format!("{{\"target\": \"{name}\", \"dry_run\": true}}");
    let statuses = [
        operate("POST", "/api/v1/pins", &image),
        operate("DELETE", &format!("/api/v1/pins?image={name}"), ""),
        operate("POST", "/api/v1/purge", &dry),
        operate("POST", "/api/v1/purge", &target),
    ];
    assert_eq!(statuses, [200, 204, 200, 200]);
    assert_eq!(scene.next()["action"], "login");
    for (action, method) in [("pin", "POST"), ("unpin", "DELETE"), ("purge", "POST")] {
        let expected = json!({
            "action": action, "address": "127.0.0.1", "user_agent": "page",
            "method": method, "detail": name,
        });
        assert_eq!(scene.next(), expected);
    }
}

/// What the gateway answers by itself, apart from the cached reads, is listed too.
#[test]
fn refused_logins_are_listed_as_denials() {
    let scene = scene("log/audit.log");
    let wrong = basic("reader", "wrong");
    assert_eq!(scene.ask("GET", "/token", Some(&wrong)).status(), 401);
    let form = "grant_type=password&service=s&username=reader&password=wrong";
    let length = form.len().to_string();
    let fields = [
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Length", &*length),
    ];
    let mut client = Raw::connect(scene.gateway.url(1), None);
    client.request("POST", "/token", &fields);
    client.send(form);
    assert_eq!(client.reply("POST").status(), 401);
    until("both to be listed", || {
        denials(&scene.gateway) == [(401, 2)]
    });
}

/// A failed login names its user, who is nobody that the gateway knows: at most 128 characters, as JSON writes them.
#[test]
fn refused_logins_are_listed_with_the_user_that_they_claim() {
    let scene = scene("log/audit.log");
    let long = format!("mallory\"<b>\u{202e}{}", "ä".repeat(500));
    let kept: String = long.chars().take(128).collect();
    let anonymous = scene.ask("GET", &scene.image.tag_path(), None);
    assert_eq!(anonymous.status(), 401);
    let wrong = basic("reader", "wrong");
    assert_eq!(scene.ask("GET", "/v2/", Some(&wrong)).status(), 401);
    let wrong = basic(&long, "wrong");
    assert_eq!(scene.ask("GET", "/v2/", Some(&wrong)).status(), 401);
    let denied = basic("reader", "s3cret");
    let pushed = scene.ask("PUT", "/v2/team/app/manifests/latest", Some(&denied));
    assert_eq!(pushed.status(), 403);
    // A client that sent no password is asked for one, which is no failure.
    let expected = [
        (json!("reader"), Value::Null, json!("push")),
        (Value::Null, json!(kept), json!("login")),
        (Value::Null, json!("reader"), json!("login")),
    ];
    until("each to be listed", || {
        let items = errors(&scene.gateway);
        let field = |item: &Value, name: &str| item[name].clone();
        let user = |item: &Value| {
            (
                field(item, "user"),
                field(item, "refused_user"),
                field(item, "action"),
            )
        };
        let listed: Vec<_> = items.iter().map(user).collect();
        listed.len() == expected.len() && expected.iter().all(|one| listed.contains(one))
    });
    let found = testkit::http::get(
        scene.gateway.operators("admin.address"),
        None,
        "/api/v1/errors?q=mallory",
    );
    let found: Value = serde_json::from_slice(&found.body).expect("JSON");
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
}

#[cfg(feature = "v1")]
#[test]
fn refused_v1_logins_are_listed_as_denials() {
    let users = tempfile::tempdir().expect("a folder");
    let htpasswd = users.path().join("users");
    std::fs::write(&htpasswd, USERS).expect("writable");
    let gateway = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"http://127.0.0.1:9\"}}]\n\
         access: {{htpasswd: {}, rules: []}}\nadmin: {{address: \"127.0.0.1:0\"}}\n",
        htpasswd.display()
    ));
    let wrong = basic("reader", "wrong");
    let mut client = Raw::connect(gateway.url(1), None);
    let refused = client.exchange("GET", "/v1/users/", &[("Authorization", &wrong)]);
    assert_eq!(refused.status(), 401);
    until("it to be listed", || denials(&gateway) == [(401, 1)]);
}

/// The statuses of the denials in the API, and how often each happened.
fn denials(gateway: &Gateway) -> Vec<(u64, u64)> {
    let listed = |item: &Value| Some((item["status"].as_u64()?, item["count"].as_u64()?));
    errors(gateway).iter().filter_map(listed).collect()
}

/// The denials in the API, newest first.
fn errors(gateway: &Gateway) -> Vec<Value> {
    let admin = gateway.operators("admin.address");
    let reply = testkit::http::get(admin, None, "/api/v1/errors?kind=denial");
    let page: Value = serde_json::from_slice(&reply.body).expect("JSON");
    page["items"].as_array().expect("a list").clone()
}

#[test]
fn hangup_without_an_audit_log_does_nothing() {
    let mut gateway = Gateway::start("");
    gateway.hang_up();
    assert!(gateway.terminate().success());
}

#[test]
fn renamed_audit_log_is_reopened_at_sighup() {
    let mut scene = scene("log/audit.log");
    let reader = basic("reader", "s3cret");
    scene.ask("GET", "/token", Some(&reader));
    assert_eq!(scene.next()["action"], "login");
    let older = scene.gateway.dir().join("log/audit.log.1");
    std::fs::rename(scene.log(), &older).expect("renamed");
    scene.gateway.hang_up();
    let log = scene.log();
    until("the new file", || log.exists());
    scene.read = 0;
    scene.ask("GET", "/token", Some(&reader));
    assert_eq!(scene.next()["user"], "reader");
    let lines = std::fs::read_to_string(&older).expect("readable");
    assert_eq!(lines.lines().count(), 1);
    // The log of before a restart is continued.
    scene.gateway.restart();
    scene.ask("GET", "/token", Some(&reader));
    scene.next();
}

#[test]
fn unwritable_audit_log_prevents_the_start() {
    let refused = Gateway::refused("audit: {path: /proc/none/audit.log}\nadmin: {address: off}\n");
    assert_eq!(refused.status.code(), Some(1));
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(
        told.contains("cannot open the audit log /proc/none/audit.log"),
        "{told}"
    );
}

/// A gateway whose audit log is a pipe that nobody reads: a disk that stalls. It has 400 events that wait.
fn stalled(more: &str) -> (Scene, Stalled) {
    let folder = testkit::temp_dir();
    let pipe = folder.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let scene = scene_with(pipe.to_str().expect("a path"), more);
    let reader = basic("reader", "s3cret");
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    let headers = [("Authorization", &*reader), ("Content-Length", "0")];
    // A pipe takes 64 KiB, which is fewer lines than these.
    for _ in 0..400 {
        let reply = raw.exchange("DELETE", "/v2/hosted/team/app/manifests/x", &headers);
        assert_eq!(reply.status(), 403);
    }
    (scene, Stalled { folder })
}

struct Stalled {
    folder: tempfile::TempDir,
}

impl Stalled {
    /// All lines: the events that wait are recorded before the process ends.
    fn lines_at_end(self, mut scene: Scene) -> String {
        let mut pipe = std::fs::File::open(self.folder.path().join("pipe")).expect("the pipe");
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            pipe.read_to_string(&mut text).expect("text");
            text
        });
        assert!(scene.gateway.terminate().success());
        reading.join().expect("read")
    }
}

#[test]
fn stalled_audit_log_delays_no_request() {
    let (scene, pipe) = stalled("");
    let lines = pipe.lines_at_end(scene);
    assert_eq!(lines.matches("\"action\":\"denied\"").count(), 400);
}

#[test]
fn pulls_leave_room_for_the_events_of_pushes() {
    // Events of pulls are emitted, and no endpoint gets one.
    let hooks = Origin::start();
    let events = format!(
        "events: [{{url: \"{}/hook\", actions: [pull], repositories: [\"other/*\"]}}]\n",
        hooks.url()
    );
    let (scene, pipe) = stalled(&events);
    let pusher = basic("pusher", "s3cret");
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    let path = scene.image.layer_path(0).replace("/v2/", "/v2/hosted/");
    for _ in 0..4100 {
        let reply = raw.exchange("GET", &path, &[("Authorization", &pusher)]);
        assert_eq!(reply.status(), 200);
    }
    let reply = scene.ask("PUT", "/v2/hosted/team/app/manifests/new", Some(&pusher));
    assert_eq!(reply.status(), 201);
    let lines = pipe.lines_at_end(scene);
    assert_eq!(lines.matches("\"action\":\"push\"").count(), 1, "{lines}");
}
