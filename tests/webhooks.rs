//! Webhooks: pushes, deletions and alerts are posted to endpoints, in order, whatever these do.

mod alerts;
mod failures;

use std::cell::RefCell;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Latch, Origin, Quota, Recorded};
use testkit::{sha256, until};

/// Anonymous clients may do everything.
const RULES: &str = "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull, push, delete]}]}\n";

struct Scene {
    origin: Origin,
    image: Image,
    hooks: Origin,
    gateway: Gateway,
    /// One connection, whose next request begins after the events of the one before.
    client: RefCell<Raw>,
}

/// A gateway with these webhooks, of which each `HOOKS` is the URL of the endpoint.
fn scene(events: &str) -> Scene {
    let hooks = Origin::start();
    hooks.fault(Fault::status(200).on("POST", "*"));
    scene_with(hooks, events)
}

fn scene_with(hooks: Origin, events: &str) -> Scene {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    origin.fault(Fault::status(202).on("DELETE", "*"));
    origin.fault(Fault::status(201).on("PUT", "*"));
    let events = events.replace("HOOKS", &hooks.url());
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true}}, {{name: other, v2: \"{}\", push: true}}]\n\
         {RULES}events:\n{events}",
        origin.url(),
        origin.url(),
    ));
    let client = RefCell::new(Raw::connect(gateway.url(1), None));
    Scene {
        origin,
        image,
        hooks,
        gateway,
        client,
    }
}

impl Scene {
    fn ask(&self, method: &str, path: &str) -> Reply {
        ask(&mut self.client.borrow_mut(), method, path)
    }

    /// Pushes a manifest.
    #[track_caller]
    fn push(&self, tag: &str) -> Reply {
        let reply = self.ask("PUT", &format!("/v2/hosted/team/app/manifests/{tag}"));
        assert_eq!(reply.status(), 201);
        reply
    }

    /// The first `n` requests to an endpoint.
    #[track_caller]
    fn posts(&self, path: &str, n: usize) -> Vec<Recorded> {
        self.hooks.wait_for("POST", path, n);
        let posts = self.hooks.requests_for("POST", path);
        assert_eq!(posts.len(), n, "{posts:?}");
        posts
    }

    /// Starts the gateway again.
    fn restart(&mut self) {
        self.gateway.restart();
        self.client = RefCell::new(Raw::connect(self.gateway.url(1), None));
    }

    /// Waits until the endpoints have taken so many events.
    fn wait_delivered(&self, n: usize) {
        until("the delivery", || {
            let requests = self.hooks.requests();
            requests.iter().filter(|post| post.status == 200).count() >= n
        });
    }
}

fn ask(client: &mut Raw, method: &str, path: &str) -> Reply {
    let mut headers = vec![("User-Agent", "docker/28.0")];
    if method == "PUT" {
        headers.extend([("Content-Length", "2"), ("Content-Type", "a/b")]);
    }
    client.request(method, path, &headers);
    if method == "PUT" {
        client.send("{}");
    }
    client.reply(method)
}

/// The only event of a request.
#[track_caller]
fn event(post: &Recorded) -> Value {
    let body: Value = serde_json::from_slice(&post.body).expect("JSON");
    let events = body["events"].as_array().expect("a list");
    assert_eq!(events.len(), 1);
    events[0].clone()
}

/// The tags that events are about.
fn tags(posts: &[Recorded]) -> Vec<String> {
    let tag = |post: &Recorded| event(post)["target"]["tag"].as_str().map(str::to_owned);
    posts.iter().filter_map(tag).collect()
}

#[test]
fn push_is_posted_in_distributions_format_and_signed() {
    let scene = scene("- {url: \"HOOKS/hook?to=ops\", secret: k3y}\n");
    let reply = scene.push("new");
    let post = &scene.posts("/hook", 1)[0];
    assert_eq!(post.query, "to=ops");
    assert_eq!(
        post.header("content-type"),
        Some("application/vnd.docker.distribution.events.v2+json")
    );
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"k3y").expect("a key");
    mac.update(&post.body);
    let signature = post.header("x-hub-signature-256").expect("a signature");
    let hex = signature.strip_prefix("sha256=").expect("an algorithm");
    let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
    let bytes = pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex"));
    let bytes: Vec<u8> = bytes.collect();
    mac.verify_slice(&bytes).expect("the body's signature");
    let event = event(post);
    assert_eq!(event["action"], "push");
    assert_eq!(event["id"].as_str().map(str::len), Some(36));
    let target = &event["target"];
    assert_eq!(target["mediaType"], "a/b");
    assert_eq!((&target["size"], &target["length"]), (&2.into(), &2.into()));
    assert_eq!(target["digest"], sha256(b"{}"));
    assert_eq!(target["registry"], "hosted");
    assert_eq!(target["repository"], "team/app");
    assert_eq!(target["tag"], "new");
    let url = format!(
        "http://localhost/v2/hosted/team/app/manifests/{}",
        sha256(b"{}")
    );
    assert_eq!(target["url"], url);
    let request = &event["request"];
    assert_eq!(request["id"], reply.header("x-request-id").expect("an id"));
    assert_eq!(request["method"], "PUT");
    assert_eq!(request["host"], "localhost");
    assert_eq!(request["useragent"], "docker/28.0");
    let address = request["addr"].as_str().expect("an address");
    assert!(address.starts_with("127.0.0.1:"), "{address}");
}

#[test]
fn webhooks_get_what_their_filters_select() {
    let scene = scene(
        "- {url: HOOKS/all}\n\
         - {url: HOOKS/deletes, actions: [delete]}\n\
         - {url: HOOKS/other, repositories: [\"other/**\"]}\n\
         - {url: HOOKS/pulls, actions: [pull], repositories: [\"hosted/team/*\"]}\n",
    );
    scene.push("one");
    let layer = scene.image.layer_path(0).replace("/v2/", "/v2/hosted/");
    for (method, path, status) in [
        ("GET", &*layer, 200),
        ("HEAD", &layer, 200),
        ("GET", "/v2/hosted/team/app/manifests/latest", 200),
        ("GET", "/v2/hosted/team/app/manifests/absent", 404),
        ("PUT", "/v2/other/team/app/manifests/two", 201),
        ("DELETE", "/v2/hosted/team/app/manifests/one", 202),
    ] {
        assert_eq!(scene.ask(method, path).status(), status, "{method} {path}");
    }
    let actions = |path: &str, n: usize| {
        let posts = scene.posts(path, n);
        let action = |post| event(post)["action"].as_str().map(str::to_owned);
        let actions: Vec<String> = posts.iter().filter_map(action).collect();
        actions.join(" ")
    };
    assert_eq!(actions("/all", 3), "push push delete");
    assert_eq!(actions("/deletes", 1), "delete");
    assert_eq!(actions("/other", 1), "push");
    assert_eq!(actions("/pulls", 2), "pull pull");
    let pulled = event(&scene.posts("/pulls", 2)[0]);
    let digest = &scene.image.layer(0).0;
    assert_eq!(pulled["target"]["digest"], **digest);
    assert_eq!(pulled["target"]["size"], 1000);
}

#[test]
fn body_that_breaks_off_is_no_pull() {
    let scene = scene("- {url: HOOKS/pulls, actions: [pull]}\n");
    let image = (scene.origin).push_image("team/large", "latest", &[random(2, 300_000)]);
    let layer = image.layer_path(0);
    scene.origin.fault(Fault::WrongByteAt(9).on("GET", &layer));
    let mut client = Raw::connect(scene.gateway.url(1), None);
    client.request("GET", &layer.replace("/v2/", "/v2/hosted/"), &[]);
    let broken = client.reply("GET");
    assert_eq!(broken.status(), 200);
    assert!(!broken.is_complete());
    let path = "/v2/hosted/team/app/manifests/latest";
    assert_eq!(scene.ask("GET", path).status(), 200);
    let pulled = event(&scene.posts("/pulls", 1)[0]);
    assert_eq!(pulled["target"]["repository"], "team/app");
}

#[test]
fn events_of_an_endpoint_that_hangs_arrive_in_order() {
    let scene = scene("- {url: HOOKS/slow}\n- {url: HOOKS/quick}\n");
    let latch = Latch::new();
    scene
        .hooks
        .fault(Fault::Hold(latch.clone()).on("POST", "/slow"));
    for tag in ["a", "b", "c"] {
        // Answered while the endpoint holds the first event.
        scene.push(tag);
    }
    assert_eq!(tags(&scene.posts("/quick", 3)), ["a", "b", "c"]);
    latch.wait_reached(1);
    assert_eq!(scene.hooks.count("POST", "/slow"), 1);
    latch.release();
    assert_eq!(tags(&scene.posts("/slow", 3)), ["a", "b", "c"]);
}

/// The metrics are labelled with the host, which several webhooks may share.
#[test]
fn waiting_events_of_one_host_add_up() {
    let scene = scene(
        "- {url: HOOKS/slow}\n- {url: HOOKS/quick}\n\
         admin: {address: \"127.0.0.1:0\"}\n",
    );
    let latch = Latch::new();
    scene
        .hooks
        .fault(Fault::Hold(latch.clone()).on("POST", "/slow"));
    let series = "\nroadstead_webhook_pending_events{endpoint=\"127.0.0.1\"} ";
    let waits_for = |n: usize| {
        until("the metric", || {
            let admin = scene.gateway.operators("admin.address");
            let metrics = get(admin, None, "/metrics").text();
            metrics.contains(&format!("{series}{n}\n"))
        });
    };
    for tag in ["a", "b", "c"] {
        scene.push(tag);
    }
    scene.posts("/quick", 3);
    waits_for(3);
    latch.release();
    waits_for(0);
}
