//! Fills with callers' logins: joined and continued only by callers that the registry admits.

use testkit::http::Raw;
use testkit::origin::{Auth, Fault, Latch};
use testkit::until;

use super::{ANN, BOB, CLEO, HOST, by, scene};

#[test]
fn authorised_callers_share_a_fill_and_others_get_no_bytes() {
    let scene = scene(2 << 20);
    let layer = scene.app.layer_path(0);
    let latch = Latch::new();
    scene
        .origin
        .fault(Fault::PauseAt(1 << 20, latch.clone()).on("GET", &layer));
    let replies = std::thread::scope(|scope| {
        let ask = |login| {
            let (scene, layer) = (&scene, &layer);
            scope.spawn(move || scene.ask("GET", layer, Some(login)))
        };
        let ann = ask(ANN);
        scene.origin.wait_for("GET", &layer, 1);
        // Bob gets the registry's answer at once, as before.
        assert_eq!(scene.ask("GET", &layer, Some(BOB)).status(), 404);
        assert_eq!(scene.ask("HEAD", &layer, Some(BOB)).status(), 404);
        let stolen = layer.replace("team/app", "team/other");
        assert_eq!(scene.ask("GET", &stolen, Some(BOB)).status(), 404);
        assert_eq!(scene.ask("GET", &layer, None).status(), 401);
        let cleo = ask(CLEO);
        until("Cleo was let in", || {
            let heads = scene.origin.requests_for("HEAD", &layer);
            by(&heads, CLEO).iter().any(|head| head.status == 200)
        });
        latch.release();
        [ann.join().expect("Ann"), cleo.join().expect("Cleo")]
    });
    for reply in replies {
        assert!(reply.body == scene.app.layer(0).1, "{reply:?}");
    }
    let gets = scene.origin.requests_for("GET", &layer);
    assert_eq!(gets.len(), 1, "{gets:?}");
    assert_eq!(gets[0].header("authorization"), Some(ANN));
}

#[test]
fn fill_continues_with_the_next_authorised_caller_only() {
    let scene = scene(2 << 20);
    let layer = scene.app.layer_path(0);
    let latch = Latch::new();
    let origin = &scene.origin;
    origin.fault(
        Fault::PauseAt(1 << 20, latch.clone())
            .on("GET", &layer)
            .times(1),
    );
    origin.fault(Fault::TruncateAt((1 << 20) + 1).on("GET", &layer).times(1));
    let (ann, body) = std::thread::scope(|scope| {
        let ann = scope.spawn(|| scene.ask("GET", &layer, Some(ANN)));
        origin.wait_for("GET", &layer, 1);
        let mut cleo = Raw::connect(scene.gateway.url(1), None);
        cleo.request("GET", &layer, &[("Host", HOST), ("Authorization", CLEO)]);
        // With her headers she follows the same download.
        let head = cleo.read_head().expect("Cleo's headers");
        assert_eq!((head.status, origin.count("GET", &layer)), (200, 1));
        origin.require(Auth::Holders(vec![(CLEO, vec!["team/app"])]));
        latch.release();
        let body = cleo.read_body("GET", &head).0;
        (ann.join().expect("Ann"), body)
    });
    // Ann had access when it began, and reads the same file.
    assert!(ann.body == body);
    assert!(body == scene.app.layer(0).1);
    let gets = origin.requests_for("GET", &layer);
    let shown: Vec<_> = gets.iter().map(|get| get.header("authorization")).collect();
    assert!(shown.contains(&Some(CLEO)), "{shown:?}");
    assert!(
        shown
            .iter()
            .all(|shown| [Some(ANN), Some(CLEO)].contains(shown)),
        "{shown:?}"
    );
}

#[test]
fn partial_is_resumed_by_an_authorised_caller() {
    let mut scene = scene(4 << 20);
    let layer = scene.app.layer_path(0);
    scene
        .origin
        .fault(Fault::StallAt(3 << 20).on("GET", &layer));
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.request("GET", &layer, &[("Host", HOST), ("Authorization", ANN)]);
    let digest = scene.app.layer(0).0.replacen(':', "-", 1);
    let partial = scene.gateway.store().join("partials").join(digest);
    until("3 MiB are here", || {
        std::fs::metadata(&partial).is_ok_and(|meta| meta.len() >= 3 << 20)
    });
    scene.gateway.kill();
    scene.origin.heal_all();
    scene.origin.clear_requests();
    scene.gateway.restart();
    assert_eq!(scene.ask("GET", &layer, Some(BOB)).status(), 404);
    assert_eq!(scene.origin.count("GET", "*"), 0, "no login is sent here");
    let reply = scene.ask("GET", &layer, Some(CLEO));
    assert!(reply.body == scene.app.layer(0).1, "{reply:?}");
    let gets = scene.origin.requests_for("GET", &layer);
    assert_eq!(gets.len(), 1);
    assert_eq!(gets[0].header("authorization"), Some(CLEO));
    assert_eq!(gets[0].header("range"), Some("bytes=3145728-"));
}
