//! Registries that a reload adds, removes and changes.

use super::{ADMIN, Scene, applied};
use testkit::gateway::Gateway;
use testkit::http::{End, Raw};
use testkit::image::random;
use testkit::origin::{Auth, Fault, Latch, Origin};

fn registry(name: &str, origin: &Origin, more: &str) -> String {
    format!("  - {{name: {name}, v2: \"{}\"{more}}}\n", origin.url())
}

fn yaml(registries: &[String]) -> String {
    format!("registries:\n{}{ADMIN}", registries.concat())
}

#[test]
fn registries_come_and_go() {
    let (one, other) = (Scene::new(1000), Scene::new(2000));
    let (first, second) = (
        registry("one", &one.origin, ""),
        registry("two", &other.origin, ""),
    );
    let gateway = Gateway::start(&yaml(std::slice::from_ref(&first)));
    let mut client = Raw::connect(gateway.url(1), None);
    let mut get = |name: &str| {
        let reply = client.get(&format!("/v2/{name}/team/app/manifests/latest"));
        (reply.status(), reply.body)
    };
    assert_eq!(get("one"), (200, one.image.manifest.clone().into()));
    // A sole registry is the default, so the name is its own.
    assert_eq!(get("two").0, 404);
    applied(&gateway.reload(&yaml(&[first.clone(), second.clone()])));
    assert_eq!(get("two"), (200, other.image.manifest.clone().into()));
    assert_eq!(get("one").0, 200);
    // The upstream of a name changes; a tag of the former one is no answer of the new one once its time is up.
    let moved = registry("one", &other.origin, ", tag_ttl: 0s");
    applied(&gateway.reload(&yaml(&[moved, second.clone()])));
    assert_eq!(get("one"), (200, other.image.manifest.clone().into()));
    applied(&gateway.reload(&yaml(&[second])));
    assert_eq!(get("two").0, 200);
    assert_eq!(get("one").0, 404);
}

#[test]
fn remembered_404_of_a_former_upstream_does_not_count() {
    let (empty, full) = (Origin::start(), Scene::new(1000));
    let at = |origin: &Origin| yaml(&[registry("one", origin, ", missing_ttl: 1h")]);
    let gateway = Gateway::start(&at(&empty));
    let mut client = Raw::connect(gateway.url(1), None);
    let path = full.image.tag_path();
    assert_eq!(client.get(&path).status(), 404);
    let asked = empty.count("*", "*");
    assert_eq!(client.get(&path).status(), 404);
    assert_eq!(empty.count("*", "*"), asked, "it is remembered");
    applied(&gateway.reload(&at(&full.origin)));
    assert_eq!(client.get(&path).status(), 200);
}

#[test]
fn unchanged_registry_keeps_its_token() {
    let (one, other) = (Scene::new(1000), Scene::new(1000));
    one.origin.require(Auth::bearer());
    let first = |more: &str| registry("one", &one.origin, more);
    let gateway = Gateway::start(&yaml(&[first("")]));
    let mut client = Raw::connect(gateway.url(1), None);
    assert_eq!(client.get(&one.image.tag_path()).status(), 200);
    assert_eq!(one.origin.count("GET", "/token"), 1);
    let second = registry("two", &other.origin, "");
    // How long its tags are fresh says nothing about its upstream.
    applied(&gateway.reload(&yaml(&[first(", tag_ttl: 0s, default: true"), second])));
    assert_eq!(client.get(&one.image.layer_path(0)).status(), 200);
    assert_eq!(client.get(&one.image.tag_path()).status(), 200);
    assert_eq!(one.origin.count("GET", "/token"), 1, "its token is used on");
    let hosts = first(", tag_ttl: 0s, auth_hosts: [auth.example.org]");
    applied(&gateway.reload(&yaml(&[hosts])));
    assert_eq!(client.get(&one.image.tag_path()).status(), 200);
    assert_eq!(
        one.origin.count("GET", "/token"),
        2,
        "another client begins anew"
    );
}

#[test]
fn downloads_go_on() {
    const SIZE: usize = 3 << 20;

    let (one, other) = (Scene::new(SIZE), Scene::new(1000));
    let latch = Latch::new();
    one.origin
        .fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", "*/blobs/*"));
    let own = registry("one", &one.origin, ", connections_per_fill: 1");
    let gateway = Gateway::start(&yaml(std::slice::from_ref(&own)));
    let path = one.image.layer_path(0);
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &path, &[]);
    let head = client.read_head().expect("an answer");
    assert_eq!(head.status, 200);
    latch.wait_reached(1);
    // Its registry is removed, and another one added.
    applied(&gateway.reload(&yaml(&[registry("two", &other.origin, "")])));
    latch.release();
    let (body, end) = client.read_body("GET", &head);
    assert_eq!(end, End::Complete);
    assert!(body == random(1, SIZE));
    assert_eq!(one.origin.count("GET", "*/blobs/*"), 1);
    // The registry returns with what was stored of it.
    applied(&gateway.reload(&yaml(&[own])));
    assert!(client.get(&path).body == body);
    assert_eq!(one.origin.count("GET", "*/blobs/*"), 1);
}
