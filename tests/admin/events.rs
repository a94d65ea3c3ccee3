//! `/api/v1/events`: live data, and the limit of listeners.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use testkit::origin::{Fault, Latch};
use testkit::{eventually, until};

/// A listener that has read the head of the response.
struct Listener {
    raw: Raw,
    seen: String,
}

impl Listener {
    #[track_caller]
    fn start(gateway: &Gateway, query: &str, headers: &str) -> Self {
        let mut raw = Raw::connect(gateway.operators("admin.address"), None);
        raw.send(format!(
            "GET /api/v1/events?{query} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n"
        ));
        let head = raw.read_head().expect("an answer");
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        Self {
            raw,
            seen: String::new(),
        }
    }

    /// Reads until an event with this name has data that `wanted` accepts.
    #[track_caller]
    fn event(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("an event {name}"), || {
            while let Some((event, rest)) = self.seen.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.seen = rest;
                let line = |start: &str| event.lines().find_map(|line| line.strip_prefix(start));
                if line("event: ") != Some(name) {
                    continue;
                }
                let data = line("data: ").expect("data");
                let mut data: Value = serde_json::from_str(data).expect("JSON");
                if wanted(&data) {
                    if let Some(id) = line("id: ") {
                        data["event_id"] = id.into();
                    }
                    return Some(data);
                }
            }
            let piece = self.raw.read_some(1 << 16).expect("events");
            self.seen.push_str(&text(&piece));
            None
        })
    }
}

#[test]
fn fills_and_requests_appear_while_they_happen() {
    let (origin, image, gateway) = scene(600_000, ANYWHERE);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(300_000, latch.clone()).on("GET", &image.layer_path(0)));
    let mut live = Listener::start(&gateway, "topics=overview,fills", "");
    let overview = live.event("overview", |_| true);
    assert_eq!(overview["event_listeners"], 1);
    assert_eq!(live.event("fills", |_| true)["total"], 0);
    let mut log = Listener::start(&gateway, "topics=requests", "");
    let first = log.event("requests", |_| true);
    assert_eq!(
        (&first["items"], &first["event_id"]),
        (&Value::Array(vec![]), &"0".into())
    );
    std::thread::scope(|scope| {
        let client = scope.spawn(|| pull(&gateway, &image));
        latch.wait_reached(1);
        let half = |data: &Value| data["items"][0]["fetched_bytes"].as_u64() == Some(300_000);
        let fills = live.event("fills", half);
        let fill = &fills["items"][0];
        assert_eq!(fill["repository"], "library/app");
        assert_eq!(fill["digest"], image.layer(0).0);
        assert_eq!(
            (&fill["phase"], &fill["readers_total"]),
            (&"streaming".into(), &1.into())
        );
        assert_eq!(fill["size_bytes"], 600_000);
        let hub = &read(&gateway, "/api/v1/registries")["items"][0];
        assert_eq!(hub["fills_in_flight"], 1);
        latch.release();
        client.join().expect("a pull");
    });
    live.event("fills", |data| data["total"] == 0);
    let layer = image.layer_path(0);
    let is_layer = |item: &Value| item["path"] == layer && item["status"] == 200;
    let lines = log.event("requests", |data| {
        data["items"]
            .as_array()
            .expect("items")
            .iter()
            .any(is_layer)
    });
    // A reconnecting client gets the lines it missed.
    let last: u64 = lines["event_id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("a number");
    let resumed = format!("Last-Event-ID: {}\r\n", last - 1);
    let mut again = Listener::start(&gateway, "topics=requests", &resumed);
    let batch = again.event("requests", |_| true);
    assert_eq!(batch["items"].as_array().map(Vec::len), Some(1), "{batch}");
    assert_eq!(batch["items"][0]["id"], last);
    // A filter leaves other lines out.
    let mut other = Listener::start(&gateway, "topics=requests&q=no-such-line", "");
    assert_eq!(
        other.event("requests", |_| true)["items"],
        Value::Array(vec![])
    );
}

#[test]
fn denials_and_errors_appear() {
    let (mut origin, image, gateway) = scene(1000, ANYWHERE);
    let mut live = Listener::start(&gateway, "topics=errors,overview", "");
    live.event("overview", |_| true);
    origin.down();
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 503);
    let error = live.event("errors", |_| true);
    assert_eq!(
        (&error["kind"], &error["status"]),
        (&"error".into(), &503.into())
    );
    assert_eq!(error["repository"], "library/app");
    assert_eq!(error["reference"], "latest");
    let reason = error["reason"].as_str().expect("a reason");
    assert!(reason.len() > 20, "{reason}");
    let page = read(&gateway, "/api/v1/errors?q=LIBRARY");
    assert_eq!(page["items"][0]["id"], error["id"]);
    assert_eq!(
        read(&gateway, "/api/v1/errors?kind=denial")["items"],
        Value::Array(vec![])
    );
    until("the registry to be seen failing", || {
        fetch(&gateway, &image.tag_path());
        let registries = read(&gateway, "/api/v1/registries");
        let hub = &registries["items"][0];
        hub["health"] == "failing" && hub["last_failure"]["message"].is_string()
    });
}

/// However many dashboards are open, a few listen, and the others are told to poll.
#[test]
fn listeners_are_bounded() {
    let (_origin, _, gateway) = scene(1, ANYWHERE);
    let listeners: Vec<Listener> = (0..16).map(|_| Listener::start(&gateway, "", "")).collect();
    let refused = ask(&gateway, "/api/v1/events");
    assert_eq!(refused.status(), 503, "{refused:?}");
    assert_eq!(refused.header("retry-after"), Some("10"));
    let problem: Value = serde_json::from_slice(&refused.body).expect("JSON");
    assert_eq!(problem["code"], "too-many-listeners");
    assert_eq!(read(&gateway, "/api/v1/overview")["event_listeners"], 16);
    drop(listeners);
    until("the places to be free", || {
        read(&gateway, "/api/v1/overview")["event_listeners"] == 0
    });
    let mut next = Listener::start(&gateway, "topics=overview", "");
    next.event("overview", |_| true);
}

/// Many dashboards at once: some listen, some hold connections, and the others are told to poll.
#[test]
fn pulls_go_on_with_ten_thousand_dashboards() {
    const DASHBOARDS: usize = 10_000;
    /// With those that listen, fewer than the connections that the admin address has.
    const AT_ONCE: usize = 12;

    let _alone = crate::heavy_test();
    let (_origin, image, gateway) = scene(100_000, ANYWHERE);
    pull(&gateway, &image);
    let (descriptors, memory) = (gateway.open_fds(), gateway.rss_kib());
    let mut listeners: Vec<Listener> = (0..16)
        .map(|_| Listener::start(&gateway, "topics=overview,requests", ""))
        .collect();
    let opened = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while opened.fetch_add(1, Ordering::Relaxed) < DASHBOARDS {
                    let refused = ask(&gateway, "/api/v1/events");
                    let kind = refused.header("content-type");
                    assert_eq!(
                        (refused.status(), kind, refused.header("retry-after")),
                        (503, Some("application/problem+json"), Some("10")),
                        "{refused:?}"
                    );
                }
            });
        }
        let mut pulls = 0;
        while pulls < 50 || opened.load(Ordering::Relaxed) < DASHBOARDS {
            assert_eq!(fate(&gateway, &image.layer_path(0)), "hit");
            pulls += 1;
        }
    });
    let grown = gateway.rss_kib().saturating_sub(memory);
    assert!(grown < 32 << 10, "{grown} KiB");
    for listener in &mut listeners {
        listener.event("overview", |data| data["event_listeners"] == 16);
    }

    // Connections that ask for nothing take all places, and no more.
    let url = gateway.operators("admin.address");
    let idle: Vec<Raw> = (0..300).map(|_| Raw::connect(url, None)).collect();
    assert_eq!(fate(&gateway, &image.layer_path(0)), "hit");
    assert!(gateway.open_fds() < descriptors + 100);
    drop(idle);
    until("a place to be free", || {
        let Ok(mut raw) = Raw::connect_with(url, Connect::default()) else {
            return false;
        };
        let asked = raw.try_send("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n");
        asked.is_ok() && raw.read_head().is_ok_and(|head| head.status == 200)
    });
    // While few are left, an answer does not hold one.
    let crowd: Vec<Raw> = (0..20)
        .map(|_| {
            let mut raw = Raw::connect(url, None);
            assert_eq!(raw.get("/livez").status(), 200);
            raw
        })
        .collect();
    let one_more = ask(&gateway, "/livez");
    assert_eq!(one_more.header("connection"), Some("close"));
    drop((crowd, listeners));
    until("the places to be free", || {
        ask(&gateway, "/livez").header("connection").is_none()
    });
}

/// A listener does not keep the gateway from stopping.
#[test]
fn listeners_end_when_the_gateway_drains() {
    let (_origin, _, mut gateway) = scene(1, ANYWHERE);
    let mut live = Listener::start(&gateway, "topics=overview", "");
    live.event("overview", |_| true);
    assert_eq!(gateway.terminate().code(), Some(0));
}
