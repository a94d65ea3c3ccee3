//! What is told of denials: the answer, the counter, the audit log, the page; and `mode: report`, which only tells.

use super::signer::Signer;
use super::*;
use testkit::http::get;
use testkit::image::random;
use testkit::until;

/// The value of a counter of denials; `None`: there is none.
fn counted(scene: &Scene, rule: &str, mode: &str) -> Option<u64> {
    let metrics = get(scene.gateway.operators("admin.metrics"), None, "/metrics").text();
    let name = format!(
        "roadstead_gate_denials_total{{mode=\"{mode}\",registry=\"docker.io\",rule=\"{rule}\"}} "
    );
    let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
    value.map(|value| value.parse().expect("a count"))
}

#[test]
fn denials_are_counted_logged_and_shown() {
    let gate = "deny: [\"library/evil:1\"], platforms: [linux/arm64]";
    let scene = Scene::of(Origin::start(), gate, "audit: {path: audit.log}\n");
    assert_eq!(
        counted(&scene, "deny", "enforce"),
        Some(0),
        "from the start"
    );
    assert_eq!(
        counted(&scene, "min_age", "enforce"),
        None,
        "it is not configured"
    );
    let image = scene
        .origin
        .push_image("library/evil", "1", &[random(1, 1000)]);
    let reply = scene.ask("GET", &image.tag_path(), &[("User-Agent", "docker/28")]);
    let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
    let message =
        "denied by the gate rule deny: docker.io/library/evil:1 matches \"library/evil:1\"";
    assert_eq!(
        body,
        json!({"errors": [{
            "code": "DENIED",
            "message": message,
            "detail": {
                "rule": "deny",
                "registry": "docker.io",
                "repository": "library/evil",
                "reference": "1",
            },
        }]})
    );
    assert_eq!(reply.header("cache-status"), Some("roadstead; detail=gate"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    assert_eq!(scene.ask("HEAD", &image.tag_path(), &[]).status(), 403);
    assert_eq!(scene.get(&image.layer_path(0)).status(), 403);
    scene.origin.tag("library/evil", "2", &image.digest);
    assert_eq!(scene.get(&image.manifest_path("2")).status(), 403);
    assert_eq!(counted(&scene, "deny", "enforce"), Some(3));
    assert_eq!(counted(&scene, "platforms", "enforce"), Some(1));

    let log = scene.gateway.dir().join("audit.log");
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    until("four lines in the audit log", || {
        lines().lines().count() == 4
    });
    let first: Value = serde_json::from_str(lines().lines().next().expect("a line")).expect("JSON");
    assert_eq!(
        (
            &first["action"],
            &first["detail"],
            &first["repository"],
            &first["tag"]
        ),
        (
            &json!("denied"),
            &json!("by the gate rule deny"),
            &json!("library/evil"),
            &json!("1")
        )
    );
    assert!(lines().contains("by the gate rule platforms"));

    let admin = format!("unix:{}", scene.gateway.dir().join("admin.sock").display());
    let shown = get(&admin, None, "/api/v1/errors");
    assert!(
        shown.text().contains("denied by the gate rule deny"),
        "{shown:?}"
    );
}

#[test]
fn report_serves_everything_and_tells_what_it_would_deny() {
    let signer = Signer::new();
    let origin = Origin::start();
    let denied = origin.push_image("library/evil", "1", &[random(1, 1000)]);
    let rc = origin.push_image("library/app", "2-rc1", &[random(2, 1000)]);
    let unsigned = origin.push_image("library/app", "1", &[random(3, 1000)]);
    let windows = push_for(&origin, "library/app", "windows", "windows/amd64", 4);
    signer.sign(&origin, &windows);
    let pinned = origin.push_image("library/app", "pinned", &[random(5, 1000)]);
    let gate = format!(
        "mode: report, allow: [\"library/app\"], deny: [\"**:*-rc*\"], platforms: [linux/amd64], {}, \
         pins: {{\"library/app:pinned\": \"{}\"}}",
        signer.gate(),
        testkit::sha256(b"absent")
    );
    let scene = Scene::of(origin, &gate, "");
    let reported = |rule: &str| counted(&scene, rule, "report").expect("a counter");
    for (image, rule) in [
        (&denied, "allow"),
        (&rc, "deny"),
        (&unsigned, "signed_by"),
        (&windows, "platforms"),
        (&pinned, "pins"),
    ] {
        let before = reported(rule);
        let reply = scene.get(&image.tag_path());
        assert_eq!(
            (reply.status(), digest(&reply)),
            (200, &*image.digest),
            "{rule}"
        );
        assert_eq!(reported(rule), before + 1, "{rule}");
    }
    scene.pull(&denied);
    scene.pull(&rc);
    let list = scene.get("/v2/library/app/tags/list");
    assert!(list.text().contains("2-rc1"), "{list:?}");
    assert_eq!(counted(&scene, "allow", "enforce"), None);
    until("a line in the log", || {
        let log = scene.gateway.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("the gate would deny this"));
        lines.any(|line| line.contains("rule=\"deny\"") && line.contains("reference=\"2-rc1\""))
    });
}

#[test]
fn report_serves_a_young_target() {
    let mut scene = Scene::new("mode: report, min_age: 3d");
    let old = scene
        .origin
        .push_image("library/app", "latest", &[random(1, 1000)]);
    scene.pull(&old);
    assert_eq!(counted(&scene, "min_age", "report"), Some(0));
    let new = scene
        .origin
        .push_image("library/app", "latest", &[random(2, 1000)]);
    let reply = scene.get(&new.tag_path());
    assert_eq!(
        (digest(&reply), reply.header("warning")),
        (&*new.digest, None)
    );
    assert_eq!(counted(&scene, "min_age", "report"), Some(1));
    scene.pull(&new);
    // What was only reported was not admitted, and the tag's move is on record.
    scene.restart_with("min_age: 3d");
    scene.assert_denied("min_age", &content(&new));
    assert_eq!(digest(&scene.get(&new.tag_path())), old.digest);
}

#[test]
fn report_fails_nothing() {
    let signer = Signer::new();
    let scene = Scene::new(&format!("mode: report, {}", signer.gate()));
    let image = scene
        .origin
        .push_image("library/app", "1", &[random(1, 1000)]);
    let fault = testkit::origin::Fault::status(503).on("*", "*.sig");
    scene.origin.fault(fault);
    for path in [image.tag_path(), image.digest_path()] {
        assert_eq!(scene.get(&path).status(), 200);
    }
    assert_eq!(
        counted(&scene, "signed_by", "report"),
        Some(0),
        "it is not known"
    );
}

#[test]
fn registry_without_a_gate_has_no_records_of_one() {
    let scene = Scene::new("");
    let image = scene
        .origin
        .push_image("library/app", "1", &[random(1, 1000)]);
    scene.pull(&image);
    assert!(!scene.record("library/app", "").exists());
    let metrics = get(scene.gateway.operators("admin.metrics"), None, "/metrics").text();
    assert!(!metrics.contains("roadstead_gate"), "{metrics}");
    // Names alone need none either.
    let mut scene = scene;
    scene.restart_with("deny: [\"library/evil\"]");
    scene.pull(&image);
    assert!(!scene.record("library/app", "").exists());
}
