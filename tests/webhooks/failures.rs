//! Endpoints that fail, and restarts with events that wait.

use super::*;

/// Each failure is followed by another attempt, in order, while clients are answered.
#[test]
fn failed_events_are_sent_again_in_order() {
    let failures = [
        ("/500", Fault::status(500)),
        ("/404", Fault::status(404)),
        ("/429", Fault::status_with(429, "Retry-After", "3600")),
        ("/reset", Fault::Reset),
        ("/hang-up", Fault::Hangup),
        ("/redirect", Fault::Redirect(307, "/elsewhere".to_owned())),
    ];
    let webhooks = failures
        .each_ref()
        .map(|(path, _)| format!("- {{url: HOOKS{path}}}\n"));
    let scene = scene(&webhooks.concat());
    for (path, failure) in &failures {
        scene.hooks.fault(failure.clone().on("POST", path).times(1));
    }
    for tag in ["a", "b"] {
        scene.push(tag);
    }
    for (path, _) in &failures {
        let posts = scene.posts(path, 3);
        assert_eq!(tags(&posts), ["a", "a", "b"], "{path}");
        assert_eq!(posts[0].body, posts[1].body, "{path}: the same event");
    }
    assert_eq!(scene.hooks.count("*", "/elsewhere"), 0);
}

#[test]
fn rejected_event_does_not_stop_those_behind_it() {
    let scene = scene("- {url: HOOKS/hook}\n");
    let rejected = Fault::status(400).on("POST", "/hook").times(1);
    scene.hooks.fault(rejected);
    for tag in ["a", "b"] {
        scene.push(tag);
    }
    assert_eq!(tags(&scene.posts("/hook", 2)), ["a", "b"]);
}

/// An event that cannot be read, as without free descriptors, is not one that is gone.
#[test]
fn unreadable_event_is_sent_once_it_can_be_read() {
    let scene = scene("- {url: HOOKS/hook}\n");
    let latch = Latch::new();
    scene
        .hooks
        .fault(Fault::Hold(latch.clone()).on("POST", "/hook").times(1));
    for (n, tag) in ["a", "b"].into_iter().enumerate() {
        scene.push(tag);
        until("the event", || waiting(&scene.gateway) == n + 1);
    }
    latch.wait_reached(1);
    let queues = std::fs::read_dir(scene.gateway.store().join("events"));
    let queue = queues.expect("queues").flatten().next().expect("a queue");
    let events = std::fs::read_dir(queue.path()).expect("events").flatten();
    let last = events.map(|event| event.path()).max().expect("an event");
    let aside = scene.gateway.dir().join("aside");
    std::fs::rename(&last, &aside).expect("renamed");
    std::fs::create_dir(&last).expect("a folder, which cannot be read");
    latch.release();
    until("the failure", || {
        scene.gateway.log().contains("cannot read the event")
    });
    std::fs::remove_dir(&last).expect("removed");
    std::fs::rename(&aside, &last).expect("renamed");
    assert_eq!(tags(&scene.posts("/hook", 2)), ["a", "b"]);
}

/// How many events wait on disk.
pub(super) fn waiting(gateway: &Gateway) -> usize {
    let queues = gateway.store().join("events");
    let queues = std::fs::read_dir(queues).into_iter().flatten().flatten();
    let events = queues.flat_map(|queue| std::fs::read_dir(queue.path()).into_iter().flatten());
    let names = events.flatten().map(|event| event.file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".json"))
        .count()
}

#[test]
fn events_survive_restarts() {
    let mut scene = scene("- {url: HOOKS/hook}\n");
    scene.hooks.down();
    for (n, tag) in ["a", "b", "c", "d"].into_iter().enumerate() {
        scene.push(tag);
        until("the event", || waiting(&scene.gateway) == n + 1);
        match tag {
            "a" => scene.gateway.kill(),
            "b" => assert!(scene.gateway.terminate().success()),
            _ => continue,
        }
        scene.restart();
    }
    // A delivery that the end of the process cuts off would be repeated.
    assert!(scene.gateway.terminate().success());
    scene.hooks.up();
    scene.restart();
    let posts = scene.posts("/hook", 4);
    assert_eq!(tags(&posts), ["a", "b", "c", "d"]);
    scene.wait_delivered(4);
    until("an empty queue", || waiting(&scene.gateway) == 0);
}

#[test]
fn secrets_go_to_their_endpoint_alone() {
    let hooks = Origin::start();
    let target = Origin::start();
    let redirect = Fault::Redirect(307, format!("{}/stolen", target.url()));
    hooks.fault(Fault::status(200).on("POST", "*"));
    hooks.fault(redirect.on("POST", "*").times(1));
    let scene = scene_with(hooks, "- {url: HOOKS/t0ken/hook?key=qu3ry, secret: k3y}\n");
    scene.push("a");
    scene.posts("/t0ken/hook", 2);
    assert_eq!(target.requests().len(), 0);
    let log = scene.gateway.log();
    assert!(
        log.contains("cannot deliver events to the webhook"),
        "{log}"
    );
    for secret in ["t0ken", "qu3ry", "k3y"] {
        assert!(!log.contains(secret), "{log}");
    }
    let to_registry = scene.origin.requests();
    let signed = |request: &Recorded| request.header("x-hub-signature-256").is_some();
    assert!(!to_registry.iter().any(signed));
}

/// 10,000 events wait at most: the newest are dropped and counted, and no push waits for any of that.
#[test]
fn full_queue_drops_the_newest_and_stops_no_push() {
    const CAPACITY: usize = 10_000;
    let mut scene = scene("- {url: HOOKS/hook}\nadmin: {address: \"127.0.0.1:0\"}\n");
    scene.hooks.down();
    scene.push("a");
    until("the event", || waiting(&scene.gateway) == 1);
    assert!(scene.gateway.terminate().success());
    let queues = std::fs::read_dir(scene.gateway.store().join("events"));
    let queue = queues.expect("queues").flatten().next().expect("a queue");
    let mut events = std::fs::read_dir(queue.path()).expect("events").flatten();
    let event = events.next().expect("an event").path();
    let digits = event.file_stem().map_or(0, std::ffi::OsStr::len);
    for number in 1..CAPACITY {
        let file = queue.path().join(format!("{number:0digits$}.json"));
        std::fs::hard_link(&event, file).expect("another event");
    }
    scene.restart();
    let metrics = || {
        let admin = scene.gateway.operators("admin.address");
        get(admin, None, "/metrics").text()
    };
    let has = |series: &str| metrics().lines().any(|line| line == series);
    let dropped = "roadstead_webhook_events_total{endpoint=\"127.0.0.1\",outcome=\"dropped\"}";
    assert!(has(&format!("{dropped} 0")), "{}", metrics());
    scene.push("new");
    until("the drop", || has(&format!("{dropped} 1")));
    assert_eq!(waiting(&scene.gateway), CAPACITY);
    // With room again, events are queued again.
    scene.hooks.up();
    until("room", || waiting(&scene.gateway) < CAPACITY - 1);
    scene.push("b");
    scene.hooks.wait_for("POST", "/hook", 3);
    assert!(has(&format!("{dropped} 1")), "{}", metrics());
}
