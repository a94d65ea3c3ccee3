//! Listeners that a reload adds, removes and changes, and their certificates.

use std::net::SocketAddr;

use super::{Scene, applied, refused};
use testkit::gateway::Gateway;
use testkit::http::{Connect, End, Raw};
use testkit::image::random;
use testkit::origin::{Fault, Latch};
use testkit::private_address;
use testkit::tls::{Ca, Leaf, certificates, shown};

const OPEN: &str =
    "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";

fn plain(address: SocketAddr) -> String {
    format!("  - {{address: \"{address}\", tls: off}}\n")
}

fn listen(listeners: &[String]) -> String {
    format!("{OPEN}listen:\n{}", listeners.concat())
}

fn answers(url: &str) -> bool {
    let client = Raw::connect_with(url, Connect::default());
    client.is_ok_and(|mut client| client.get("/v2/").status() == 200)
}

#[test]
fn listeners_come_and_go() {
    let scene = Scene::new(1000);
    let (one, other) = (private_address(), private_address());
    let (first, second) = (format!("http://{one}"), format!("http://{other}"));
    let socket = "  - {address: \"unix:extra.sock\", tls: off}\n".to_owned();
    let gateway = Gateway::start(&scene.yaml(&listen(&[plain(one)])));
    let mut client = Raw::connect(&first, None);
    assert_eq!(client.get("/v2/").status(), 200);
    applied(&gateway.reload(&scene.yaml(&listen(&[plain(one), plain(other), socket]))));
    let path = gateway.dir().join("extra.sock");
    let unix = format!("unix:{}", path.display());
    assert!(answers(&first) && answers(&second) && answers(&unix));
    // The open connection has outlived it.
    assert_eq!(client.get("/v2/").status(), 200);
    applied(&gateway.reload(&scene.yaml(&listen(&[plain(other)]))));
    assert!(answers(&second) && !answers(&first) && !answers(&unix));
    assert!(!path.exists(), "the socket file is removed");
    // An idle connection of a removed listener is closed.
    assert!(client.read_to_end().0.is_empty());
    // A listener is another one: it is read-only now.
    let read_only = plain(other).replace("tls: off", "tls: off, read_only: true");
    let mut client = Raw::connect(&second, None);
    let push = |client: &mut Raw| {
        let headers = [("Content-Length", "0")];
        let path = "/v2/team/app/blobs/uploads/";
        client.exchange("POST", path, &headers).status()
    };
    assert_eq!(push(&mut client), 403);
    applied(&gateway.reload(&scene.yaml(&listen(&[read_only]))));
    assert_eq!(push(&mut client), 405);
    let everywhere = format!("  - {{address: \":{}\", tls: off}}\n", other.port());
    let told = refused(&gateway.reload(&scene.yaml(&listen(&[everywhere]))));
    assert!(
        told.contains("which is listen of the running gateway"),
        "{told}"
    );
    assert!(answers(&second));
}

#[test]
fn requests_end_on_removed_listeners() {
    const SIZE: usize = 3 << 20;

    let scene = Scene::new(SIZE);
    let (one, other) = (private_address(), private_address());
    let latch = Latch::new();
    scene
        .origin
        .fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", "*/blobs/*"));
    let gateway = Gateway::start(&scene.yaml(&listen(&[plain(one), plain(other)])));
    let mut client = Raw::connect(&format!("http://{one}"), None);
    client.request("GET", &scene.image.layer_path(0), &[]);
    let head = client.read_head().expect("an answer");
    latch.wait_reached(1);
    applied(&gateway.reload(&scene.yaml(&listen(&[plain(other)]))));
    assert!(!answers(&format!("http://{one}")));
    latch.release();
    let (body, end) = client.read_body("GET", &head);
    assert_eq!(end, End::Complete);
    assert!(body == random(1, SIZE));
    assert!(client.read_to_end().0.is_empty(), "then it is closed");
}

#[test]
fn certificates_are_replaced() {
    let scene = Scene::new(1000);
    let (ca, clients) = (Ca::new(), Ca::new());
    let address = private_address();
    let host = address.ip().to_string();
    let (first, second) = (ca.issue(&[&host]), ca.issue(&["localhost", &host]));
    let tls = |leaf: &Leaf, more: &str| {
        let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
        let pair = format!("{{certificate: {certificate}, key: {key}}}");
        listen(&[format!(
            "  - {{address: \"{address}\", tls: {{certificates: [{pair}]{more}}}}}\n"
        )])
    };
    let gateway = Gateway::start(&scene.yaml(&tls(&first, "")));
    let (url, trusted) = (format!("https://{address}"), ca.path());
    let shows = |leaf: &Leaf| {
        let own = certificates(&leaf.certificate).swap_remove(0);
        shown(&address.to_string(), &trusted, &host) == own
    };
    assert!(shows(&first));
    let mut client = Raw::connect(&url, Some(&trusted));
    assert_eq!(client.get("/v2/").status(), 200);
    applied(&gateway.reload(&scene.yaml(&tls(&second, ""))));
    assert!(shows(&second));
    // The same files with other contents are in force at once, too.
    std::fs::copy(&first.certificate, &second.certificate).expect("copied");
    std::fs::copy(&first.key, &second.key).expect("copied");
    applied(&gateway.reload(&scene.yaml(&tls(&second, ""))));
    assert!(shows(&first));
    // Only new connections need the client certificate that is now required.
    let required = format!(", client_ca: {}", clients.path().display());
    applied(&gateway.reload(&scene.yaml(&tls(&first, &required))));
    assert_eq!(client.get("/v2/").status(), 200, "it is still open");
    let anonymous = Raw::connect_with(
        &url,
        Connect {
            ca: Some(&trusted),
            ..Connect::default()
        },
    );
    let refused = anonymous.map(|mut anonymous| {
        let _ = anonymous.try_send("GET /v2/ HTTP/1.1\r\nHost: h\r\n\r\n");
        anonymous.read_to_end().0
    });
    assert!(refused.is_err() || refused.is_ok_and(|bytes| bytes.is_empty()));
    // A broken certificate is a fault with its line.
    std::fs::write(&second.certificate, "no pem").expect("written");
    let told = super::refused(&gateway.reload(&scene.yaml(&tls(&second, ""))));
    assert!(told.contains("holds no certificate in PEM form"), "{told}");
    assert_eq!(client.get("/v2/").status(), 200);
}

#[test]
fn client_cas_are_replaced() {
    let scene = Scene::new(1000);
    let (first, second) = (Ca::new(), Ca::new());
    let address = private_address();
    let yaml = |client_ca: Option<&Ca>| {
        let tls = client_ca.map_or("auto".to_owned(), |ca| {
            format!("{{client_ca: \"{}\"}}", ca.path().display())
        });
        scene.yaml(&format!(
            "access: {{rules: [{{users: [\"cert:runner\"], repositories: [\"**\"], actions: [pull]}}]}}\n\
             listen:\n  - {{address: \"{address}\", tls: {tls}}}\n  - {{address: \"127.0.0.1:0\", tls: {{client_ca: \"{}\"}}}}\n",
            first.path().display()
        ))
    };
    let gateway = Gateway::start(&yaml(Some(&first)));
    let (url, trusted, path) = (
        format!("https://{address}"),
        gateway.ca_path(),
        scene.image.tag_path(),
    );
    let identities = [first.issue_to("runner"), second.issue_to("runner")];
    let connect = |identity: Option<&Leaf>| {
        let how = Connect {
            ca: Some(&trusted),
            identity,
            ..Connect::default()
        };
        Raw::connect_with(&url, how)
    };
    // The status that a new connection gets; 0: it is refused.
    let status = |identity: Option<&Leaf>| {
        let Ok(mut client) = connect(identity) else {
            return 0;
        };
        let sent = client.try_send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = sent.ok().and_then(|()| client.read_head().ok());
        head.map_or(0, |head| head.status)
    };
    let statuses = || {
        let [one, other] = &identities;
        [status(Some(one)), status(Some(other)), status(None)]
    };
    assert_eq!(statuses(), [200, 0, 0]);
    let mut open = connect(Some(&identities[0])).expect("a client of the first");
    assert_eq!(open.get(&path).status(), 200);
    applied(&gateway.reload(&yaml(Some(&second))));
    assert_eq!(statuses(), [0, 200, 0]);
    assert_eq!(open.get(&path).status(), 200, "it is still open");
    // Without a CA nobody is asked for a certificate, and nobody is its user.
    applied(&gateway.reload(&yaml(None)));
    assert_eq!(statuses(), [403, 403, 403]);
    applied(&gateway.reload(&yaml(Some(&first))));
    assert_eq!(statuses(), [200, 0, 0]);
    // A file without a CA changes nothing.
    let empty = gateway.dir().join("empty.pem");
    std::fs::write(&empty, "no pem").expect("writable");
    let path_of_first = first.path().display().to_string();
    let broken = yaml(Some(&first)).replace(&path_of_first, &empty.display().to_string());
    let told = refused(&gateway.reload(&broken));
    assert!(told.contains("empty.pem holds no certificate"), "{told}");
    assert_eq!(statuses(), [200, 0, 0]);
}
