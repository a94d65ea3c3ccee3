//! Reloads: the configuration changes while the gateway serves.

mod limits;
mod listeners;
mod registries;
#[cfg(feature = "v1")]
mod v1;

use std::process::Output;

use testkit::gateway::Gateway;
use testkit::http::Raw;
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::{basic, until};

/// The commands reach the gateway by a socket file.
const ADMIN: &str = "admin: {address: \"unix:admin.sock\"}\n";
/// Both with the password `s3cret` (cost 4).
const READER: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";
const PUSHER: &str = "pusher:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

/// A registry with an image, and the configuration of a gateway in front of it.
struct Scene {
    origin: Origin,
    image: Image,
}

impl Scene {
    fn new(size: usize) -> Self {
        let origin = Origin::start();
        let image = origin.push_image("team/app", "latest", &[random(1, size)]);
        Self { origin, image }
    }

    /// With `more` YAML.
    fn yaml(&self, more: &str) -> String {
        let url = self.origin.url();
        format!("registries: [{{name: hosted, v2: \"{url}\", push: true}}]\n{ADMIN}{more}")
    }

    /// With accounts in `users` and a rule for them.
    fn access(&self, users: &str, actions: &str) -> String {
        self.yaml(&format!(
            "access:\n  htpasswd: users\n  rules: [{{users: [{users}], repositories: [\"hosted/**\"], actions: [{actions}]}}]\n"
        ))
    }
}

/// The gateway has applied the new configuration.
#[track_caller]
pub fn applied(output: &Output) {
    let (out, err) = texts(output);
    assert!(output.status.success(), "{out}{err}");
    assert_eq!(out, "reloaded CONFIG\n");
}

/// The gateway has refused the new configuration; returns what it says.
#[track_caller]
pub fn refused(output: &Output) -> String {
    let (out, err) = texts(output);
    assert_eq!(output.status.code(), Some(78), "{out}{err}");
    assert_eq!(out, "");
    err
}

/// Standard output and standard error, with the file's path as CONFIG.
fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let words = text.split_inclusive([' ', '\n', ':']);
        let named = words.map(|word| {
            let path = word.trim_end_matches([' ', '\n', ':']);
            if path.starts_with('/') && path.ends_with("/roadstead.yaml") {
                word.replace(path, "CONFIG")
            } else {
                word.to_owned()
            }
        });
        named.collect::<String>()
    };
    (text(&output.stdout), text(&output.stderr))
}

fn status(client: &mut Raw, path: &str, login: Option<&str>) -> u16 {
    let headers: Vec<_> = login
        .map(|login| ("Authorization", login))
        .into_iter()
        .collect();
    client.exchange("GET", path, &headers).status()
}

/// A configuration with users, which a gateway cannot be started with before they are written.
fn start_with_users(scene: &Scene, users: &str, yaml: &str) -> Gateway {
    let gateway = Gateway::start(&scene.yaml(""));
    std::fs::write(gateway.dir().join("users"), users).expect("written");
    applied(&gateway.reload(yaml));
    gateway
}

#[test]
fn rules_apply_to_the_next_request() {
    let scene = Scene::new(1000);
    let yaml = scene.access("reader", "pull");
    let gateway = start_with_users(&scene, READER, &yaml);
    let login = basic("reader", "s3cret");
    let mut client = Raw::connect(gateway.url(1), None);
    let path = scene.image.tag_path();
    assert_eq!(status(&mut client, &path, Some(&login)), 200);
    assert_eq!(status(&mut client, &path, None), 401);
    let push = |client: &mut Raw| {
        let path = "/v2/team/app/blobs/uploads/";
        let headers = [("Authorization", &*login), ("Content-Length", "0")];
        client.exchange("POST", path, &headers).status()
    };
    scene
        .origin
        .fault(Fault::status_with(202, "Location", "/v2/team/app/blobs/uploads/u").on("POST", "*"));
    assert_eq!(push(&mut client), 403);
    applied(&gateway.reload(&scene.access("reader, anonymous", "pull, push")));
    assert_eq!(push(&mut client), 202);
    assert_eq!(status(&mut client, &path, None), 200);
    applied(&gateway.reload(&scene.access("pusher", "pull")));
    assert_eq!(status(&mut client, &path, Some(&login)), 403);
    // Without `access` anonymous clients may pull what is public, and this registry takes pushes.
    applied(&gateway.reload(&scene.yaml("")));
    assert_eq!(status(&mut client, &path, Some(&login)), 403);
}

#[test]
fn removed_user_is_refused_on_open_connections() {
    let scene = Scene::new(1000);
    let yaml = scene.access("\"*\"", "pull");
    let users = format!("{READER}{PUSHER}");
    let gateway = start_with_users(&scene, &users, &yaml);
    let login = basic("reader", "s3cret");
    let path = scene.image.tag_path();
    let mut client = Raw::connect(gateway.url(1), None);
    let scope = "/token?scope=repository:team/app:pull";
    let token = client.exchange("GET", scope, &[("Authorization", &login)]);
    let token: serde_json::Value = serde_json::from_slice(&token.body).expect("JSON");
    let token = format!("Bearer {}", token["token"].as_str().expect("a token"));
    let mut by_token = Raw::connect(gateway.url(1), None);
    assert_eq!(status(&mut client, &path, Some(&login)), 200);
    assert_eq!(status(&mut by_token, &path, Some(&token)), 200);
    std::fs::write(gateway.dir().join("users"), PUSHER).expect("written");
    applied(&gateway.reload(&yaml));
    assert_eq!(status(&mut client, &path, Some(&login)), 401);
    assert_eq!(status(&mut by_token, &path, Some(&token)), 401);
    // Another file has other users.
    std::fs::write(gateway.dir().join("others"), READER).expect("written");
    applied(&gateway.reload(&yaml.replace("htpasswd: users", "htpasswd: others")));
    assert_eq!(status(&mut client, &path, Some(&login)), 200);
    let pusher = basic("pusher", "s3cret");
    assert_eq!(status(&mut client, &path, Some(&pusher)), 401);
}

#[test]
fn faults_change_nothing() {
    let scene = Scene::new(1000);
    let good = scene.yaml("");
    let mut gateway = Gateway::start(&good);
    let path = scene.image.tag_path();
    let mut client = Raw::connect(gateway.url(1), None);
    let served = status(&mut client, &path, None);
    for (yaml, words) in [
        (format!("{good}acess: off\n"), vec!["unknown key \"acess\""]),
        ("registries: [".to_owned(), vec!["roadstead.yaml:"]),
    ] {
        let told = refused(&gateway.reload(&yaml));
        for word in words {
            assert!(told.contains(word), "{told}");
        }
        assert_eq!(status(&mut client, &path, None), served);
    }
    // The file itself is good, and cannot be applied to this process.
    let yaml = format!("{good}limits: {{fills: 7}}\nkeys: elsewhere\n");
    let told = refused(&gateway.reload(&yaml));
    let fault = "limits.fills cannot change from 64 to 7 while the gateway runs";
    assert!(told.contains(fault), "{told}");
    assert!(
        told.contains("keys cannot change from var/keys to elsewhere"),
        "{told}"
    );
    assert!(told.contains("nothing has changed"), "{told}");
    // By signal the log has it.
    let logged = || {
        let log = gateway.log();
        log.lines().filter(|line| line.contains(fault)).count()
    };
    let before = logged();
    assert_eq!(before, 1);
    drop(client);
    gateway.hang_up();
    until("the fault in the log", || {
        gateway
            .log()
            .lines()
            .filter(|line| line.contains(fault))
            .count()
            == 2
    });
    let mut client = Raw::connect(gateway.url(1), None);
    assert_eq!(status(&mut client, &path, None), served);
    applied(&gateway.reload(&good));
}

#[test]
fn unusable_parts_change_nothing() {
    let scene = Scene::new(1000);
    let good = scene.yaml("");
    let gateway = Gateway::start(&good);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let listen = format!(
        "listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"127.0.0.1:0\", tls: off}}, {{address: \"{address}\", tls: off}}]\n"
    );
    for (more, words) in [
        (listen, "another program listens there"),
        (
            "audit: {path: /proc/none/audit.log}\n".to_owned(),
            "cannot open the audit log",
        ),
        (
            "access: {htpasswd: none, rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n".to_owned(),
            "none cannot be read",
        ),
    ] {
        // A rule that would let nobody pull is applied with the rest, or not at all.
        let changed = scene
            .yaml(&more)
            .replace("push: true", "push: true, visibility: caller, hosts: [h]");
        let changed = changed.replace(", push: true", "");
        let told = refused(&gateway.reload(&changed));
        assert!(told.contains(words), "{told}");
        let sole = Raw::connect(gateway.url(1), None)
            .get("/v2/other/app/tags/list")
            .status();
        assert_eq!(sole, 403, "the registry still needs access");
    }
    applied(&gateway.reload(&good));
}

#[test]
fn hangup_reloads() {
    let scene = Scene::new(1000);
    let mut gateway = Gateway::start(&scene.yaml(""));
    let path = scene.image.tag_path();
    let ask = |gateway: &Gateway| Raw::connect(gateway.url(1), None).get(&path).status();
    assert_eq!(ask(&gateway), 403);
    let open = "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";
    gateway.write_config(&scene.yaml(open));
    gateway.hang_up();
    until("the reload", || ask(&gateway) == 200);
    assert!(gateway.log().contains("reloaded the configuration"));
    assert!(gateway.terminate().success());
}

#[test]
fn webhooks_come_and_go() {
    let scene = Scene::new(1000);
    scene.origin.fault(Fault::status(201).on("PUT", "*"));
    let open =
        "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull, push]}]}\n";
    let hooks = Origin::start();
    let one = format!("{open}events: [{{url: \"{}/one\"}}]\n", hooks.url());
    let both = format!(
        "{open}events: [{{url: \"{0}/one\", secret: k}}, {{url: \"{0}/two\"}}]\n",
        hooks.url()
    );
    let gateway = Gateway::start(&scene.yaml(open));
    let push = |tag: &str| {
        let path = format!("/v2/team/app/manifests/{tag}");
        let headers = [("Content-Length", "2"), ("Content-Type", "a/b")];
        let mut client = Raw::connect(gateway.url(1), None);
        client.request("PUT", &path, &headers);
        client.send("{}");
        assert_eq!(client.reply("PUT").status(), 201);
    };
    let failing = hooks.fault(Fault::status(503).on("POST", "*"));
    push("none");
    applied(&gateway.reload(&scene.yaml(&one)));
    push("first");
    // The event waits for an endpoint that fails, through two reloads.
    hooks.wait_for("POST", "/one", 1);
    applied(&gateway.reload(&scene.yaml(&both)));
    push("second");
    hooks.wait_for("POST", "/two", 1);
    hooks.fault(Fault::status(200).on("POST", "*"));
    hooks.heal(failing);
    let delivered = |path: &str| -> Vec<(String, bool)> {
        let posts = hooks.requests_for("POST", path).into_iter();
        let taken = posts.filter(|post| post.status == 200);
        let tag = |post: testkit::origin::Recorded| {
            let body: serde_json::Value = serde_json::from_slice(&post.body).expect("JSON");
            let tag = body["events"][0]["target"]["tag"].as_str();
            let signed = post.header("x-hub-signature-256").is_some();
            (tag.unwrap_or_default().to_owned(), signed)
        };
        taken.map(tag).collect()
    };
    until("the delivery", || {
        delivered("/one").len() == 2 && delivered("/two").len() == 1
    });
    let events = |all: &[(&str, bool)]| -> Vec<(String, bool)> {
        let all = all.iter();
        all.map(|(tag, signed)| ((*tag).to_owned(), *signed))
            .collect()
    };
    // The changed key signs what was waiting.
    assert_eq!(
        delivered("/one"),
        events(&[("first", true), ("second", true)])
    );
    assert_eq!(delivered("/two"), events(&[("second", false)]));
    applied(&gateway.reload(&scene.yaml(&one)));
    push("third");
    until("the delivery", || delivered("/one").len() == 3);
    assert_eq!(delivered("/two").len(), 1);
    assert_eq!(delivered("/one")[2], ("third".to_owned(), false));
}
