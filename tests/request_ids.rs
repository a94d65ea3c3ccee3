//! Request ids and the access log: every response has an id, by which the log names its request.

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, Web};
use testkit::image::random;
use testkit::origin::{Image, Origin};
use testkit::{basic, eventually};

const LISTEN: &str = "listen:
- {address: \"127.0.0.1:0\"}
- {address: \"127.0.0.1:0\", tls: off}
- {address: \"127.0.0.1:0\", tls: off, trusted_proxies: [\"127.0.0.0/8\"]}
- {address: \"127.0.0.1:0\", tls: off, trusted_proxies: [\"10.0.0.0/8\", \"::1\"]}
";

fn scene() -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 50_000)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), LISTEN);
    (origin, image, gateway)
}

/// The access log's line of a request, which is written after its response.
#[track_caller]
pub fn logged(gateway: &Gateway, id: &str) -> String {
    let field = format!("request_id={id} ");
    eventually("the line of the request", || {
        let log = gateway.log();
        let mut lines = log.lines().filter(|line| line.contains(&field));
        let line = lines.next()?.to_owned();
        assert_eq!(lines.next(), None, "an id is of one request");
        Some(line)
    })
}

#[track_caller]
fn made(id: Option<&str>) -> &str {
    let id = id.expect("an id");
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    assert!(id.len() == 32 && id.bytes().all(is_hex), "{id}");
    id
}

#[test]
fn every_response_has_a_request_id_that_the_access_log_names() {
    let (_origin, image, gateway) = scene();
    for (method, path) in [
        ("GET", &*image.tag_path()),
        ("GET", &image.layer_path(0)),
        ("GET", &image.layer_path(0)),
        ("HEAD", &image.layer_path(0)),
        ("PUT", "/v2/library/app/manifests/new"),
        ("GET", "/v2/"),
        ("GET", "/token"),
        ("GET", "/v1/_ping"),
        ("GET", "/nothing"),
        ("BREW", "/v2/"),
    ] {
        let reply = Raw::connect(gateway.url(1), None).exchange(method, path, &[]);
        let line = logged(&gateway, made(reply.header("x-request-id")));
        assert!(line.contains(&format!("path=\"{path}\"")), "{line}");
        let url = format!("{}{path}", gateway.url(0));
        let fetched = Web::h2(Some(&gateway.ca_path())).fetch(method, &url, &[]);
        let line = logged(&gateway, made(fetched.header("x-request-id")));
        assert!(line.contains(&format!("path=\"{path}\"")), "{line}");
    }
}

#[test]
fn request_ids_of_trusted_proxies_alone_are_reused() {
    let (_origin, image, gateway) = scene();
    let ask = |listener: usize, ids: &[&str]| -> Reply {
        let headers: Vec<_> = ids.iter().map(|id| ("X-Request-Id", *id)).collect();
        let path = image.layer_path(0);
        Raw::connect(gateway.url(listener), None).exchange("GET", &path, &headers)
    };
    let longest = "x".repeat(64);
    for id in ["7", "0f8a-1.B_z", &longest] {
        let reply = ask(2, &[id]);
        assert_eq!(reply.header("x-request-id"), Some(id));
        logged(&gateway, id);
        // The listener trusts nobody, or others.
        for listener in [1, 3] {
            made(ask(listener, &[id]).header("x-request-id"));
        }
    }
    let longer = "x".repeat(65);
    for ids in [
        &[][..],
        &[""],
        &[&*longer],
        &["a b"],
        &["a,b"],
        &["a=b"],
        &["a", "b"],
    ] {
        made(ask(2, ids).header("x-request-id"));
    }
}

#[test]
fn access_log_has_bounded_user_agents() {
    let (_origin, image, gateway) = scene();
    let long = "a".repeat(300);
    for (agent, shown) in [
        ("docker/28.0 (linux)", "docker/28.0 (linux)".to_owned()),
        ("a\tb", "a\\\\tb".to_owned()),
        (&long, format!("{}…", "a".repeat(256))),
    ] {
        let headers = [("User-Agent", agent)];
        let reply = Raw::connect(gateway.url(1), None).exchange("GET", &image.tag_path(), &headers);
        let line = logged(&gateway, made(reply.header("x-request-id")));
        assert!(line.contains(&format!("user_agent=\"{shown}\"")), "{line}");
    }
    let reply = Raw::connect(gateway.url(1), None).get(&image.tag_path());
    let line = logged(&gateway, made(reply.header("x-request-id")));
    assert!(line.contains("user_agent=\"-\""), "{line}");
}

#[test]
fn access_log_names_the_user_of_a_refused_password() {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 100)]);
    let users = tempfile::tempdir().expect("a folder");
    let path = users.path().join("users");
    // s3cret
    let line = "alice:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";
    std::fs::write(&path, line).expect("writable");
    let has_v1 = cfg!(feature = "v1");
    let v1 = format!(", v1: \"{}\"", origin.url());
    let v1 = if has_v1 { &v1 } else { "" };
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\"{v1}}}]\n\
         access:\n  htpasswd: {}\n  rules: [{{users: [alice], repositories: [\"**\"], actions: [pull]}}]\n",
        origin.url(),
        path.display()
    ));
    let ask = |path: &str, user: &str, password: &str| {
        let login = basic(user, password);
        let headers = [("Authorization", &*login)];
        let reply = Raw::connect(gateway.url(1), None).exchange("GET", path, &headers);
        logged(&gateway, made(reply.header("x-request-id")))
    };
    let paths = [&*image.tag_path(), "/token", "/v1/users/"];
    for path in paths.into_iter().take(if has_v1 { 3 } else { 2 }) {
        for user in ["alice", "mallory"] {
            let line = ask(path, user, "guess-1");
            assert!(line.contains("user=\"anonymous\""), "{line}");
            assert!(line.contains(&format!("refused_user=\"{user}\"")), "{line}");
        }
        let line = ask(path, "alice", "s3cret");
        assert!(line.contains("user=\"alice\""), "{line}");
        assert!(!line.contains("refused_user"), "{line}");
    }
    assert!(!gateway.log().contains("guess-1") && !gateway.log().contains("s3cret"));
}
