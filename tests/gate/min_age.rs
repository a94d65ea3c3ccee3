//! `min_age`: a tag that moved answers its target of before, until the new one is old enough.

use super::*;
use testkit::image::random;
use testkit::origin::Fault;

const THREE_DAYS: &str = "min_age: 3d";

/// Two images, of which the tag's first target was pulled before it moved to the second.
struct Moved {
    scene: Scene,
    old: Image,
    new: Image,
}

fn push(scene: &Scene, tag: &str, seed: u64) -> Image {
    scene
        .origin
        .push_image("library/app", tag, &[random(seed, 1000)])
}

fn moved() -> Moved {
    let scene = Scene::new(THREE_DAYS);
    let old = push(&scene, "latest", 1);
    scene.pull(&old);
    let new = push(&scene, "latest", 2);
    Moved { scene, old, new }
}

impl Moved {
    /// Asserts that the tag answers the old image, with a warning that names the new one.
    #[track_caller]
    fn assert_held_back(&self) {
        for method in ["GET", "HEAD"] {
            let reply = self.scene.ask(method, &self.new.tag_path(), &[]);
            assert_eq!(
                (reply.status(), digest(&reply)),
                (200, &*self.old.digest),
                "{reply:?}"
            );
            let warning = format!(
                "299 - \"docker.io/library/app:latest moved to {} less than 3d ago; this is its target of before\"",
                self.new.digest
            );
            assert_eq!(reply.header("warning"), Some(&*warning));
            let cache = reply.header("cache-status").expect("a cache status");
            assert!(cache.ends_with("detail=min_age"), "{cache}");
            assert!(method == "HEAD" || reply.body == self.old.manifest);
        }
        self.scene.assert_denied("min_age", &content(&self.new));
    }

    /// Changes the record of the tag while the gateway is stopped: its clock or the file system's was changed.
    fn restart_with_move_at(&mut self, change: impl Fn(u64) -> u64) {
        self.scene.gateway.terminate();
        for record in ["tags/latest", &manifest_record(&self.new)] {
            let path = self.scene.record("library/app", record);
            let bytes = std::fs::read(&path).expect("a record");
            let mut json: Value = serde_json::from_slice(&bytes).expect("JSON");
            let moved_at = json["moved_at"].as_u64().expect("a time");
            json["moved_at"] = json!(change(moved_at));
            std::fs::write(&path, json.to_string()).expect("writable");
        }
        self.scene.gateway.restart();
    }
}

fn manifest_record(image: &Image) -> String {
    format!("manifests/{}", image.digest.replacen(':', "-", 1))
}

const DAY: u64 = 86_400;

#[test]
fn young_target_is_held_back() {
    let moved = moved();
    moved.assert_held_back();
    // All of the old one is served on.
    moved.scene.assert_served(&content(&moved.old));
}

#[test]
fn target_is_served_once_it_is_old_enough() {
    let mut moved = moved();
    moved.assert_held_back();
    moved.restart_with_move_at(|at| at - 2 * DAY);
    moved.assert_held_back();
    moved.restart_with_move_at(|at| at - DAY - 10);
    moved.scene.pull(&moved.new);
    let reply = moved.scene.get(&moved.new.tag_path());
    assert_eq!(reply.header("warning"), None);
    // The old one was served: it is by its digest still.
    moved.scene.assert_served(&content(&moved.old));
    // The next move counts from its own time.
    moved
        .scene
        .origin
        .tag("library/app", "latest", &moved.old.digest);
    let reply = moved.scene.get(&moved.old.tag_path());
    assert_eq!(digest(&reply), moved.new.digest);
}

#[test]
fn clock_that_was_set_back_does_not_release_a_tag() {
    let mut moved = moved();
    moved.assert_held_back();
    // The move is in the future now.
    moved.restart_with_move_at(|at| at + 1000 * DAY);
    moved.assert_held_back();
    let path = moved.scene.record("library/app", "tags/latest");
    let record: Value =
        serde_json::from_slice(&std::fs::read(path).expect("a record")).expect("JSON");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let moved_at = record["moved_at"].as_u64().expect("a time");
    assert!(
        moved_at <= now.expect("after 1970").as_secs(),
        "it counts from now: {record}"
    );
}

#[test]
fn tag_that_moves_back_and_forth_is_held_back_each_time() {
    let mut moved = moved();
    moved.assert_held_back();
    moved.restart_with_move_at(|at| at - 2 * DAY);
    moved
        .scene
        .origin
        .tag("library/app", "latest", &moved.old.digest);
    let back = moved.scene.get(&moved.old.tag_path());
    assert_eq!(
        (digest(&back), back.header("warning")),
        (&*moved.old.digest, None)
    );
    // It would be old enough, had it stayed.
    moved
        .scene
        .origin
        .tag("library/app", "latest", &moved.new.digest);
    moved.assert_held_back();
    moved.restart_with_move_at(|at| at.saturating_sub(2 * DAY));
    moved.assert_held_back();
    // A third one: what the tag left is not what it answers.
    let third = push(&moved.scene, "latest", 3);
    let reply = moved.scene.get(&third.tag_path());
    assert_eq!(digest(&reply), moved.old.digest);
    moved.scene.assert_denied("min_age", &content(&third));
    moved.scene.assert_denied("min_age", &content(&moved.new));
}

#[test]
fn held_back_tag_survives_restarts_and_purges() {
    let mut moved = moved();
    moved.assert_held_back();
    moved.scene.gateway.restart();
    moved.assert_held_back();
    for target in [
        "docker.io/library/app:latest",
        &format!("docker.io/library/app@{}", moved.new.digest),
        "docker.io/library/app",
        "docker.io",
        &moved.new.digest,
    ] {
        let output = moved.scene.gateway.roadstead(&["purge", target]);
        assert!(output.status.success(), "{output:?}");
        // The old one is fetched again, by its digest.
        moved.assert_held_back();
    }
}

#[test]
fn warming_is_gated() {
    let moved = moved();
    let output = moved
        .scene
        .gateway
        .roadstead(&["warm", "docker.io/library/app:latest"]);
    assert!(output.status.success(), "{output:?}");
    moved.assert_held_back();
    let direct = format!("docker.io/library/app@{}", moved.new.digest);
    let output = moved.scene.gateway.roadstead(&["warm", &direct]);
    assert!(!output.status.success());
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("gate rule min_age"), "{said}");
    assert_eq!(moved.scene.origin.count("*", &moved.new.layer_path(0)), 0);
}

#[test]
fn previous_target_that_is_gone_is_not_replaced_by_the_new_one() {
    let moved = moved();
    moved.assert_held_back();
    let output = moved
        .scene
        .gateway
        .roadstead(&["purge", "docker.io/library/app"]);
    assert!(output.status.success(), "{output:?}");
    moved
        .scene
        .origin
        .delete_manifest("library/app", &moved.old.digest);
    let reply = moved.scene.get(&moved.new.tag_path());
    assert_eq!(
        (reply.status(), rule(&reply)),
        (403, "min_age".to_owned()),
        "{reply:?}"
    );
    assert!(
        reply.text().contains("no longer has its target of before"),
        "{reply:?}"
    );
    moved.scene.assert_denied("min_age", &content(&moved.new));
}

#[test]
fn previous_target_is_served_during_an_outage() {
    let mut moved = moved();
    moved.assert_held_back();
    moved.scene.origin.down();
    moved.scene.gateway.restart();
    let reply = moved.scene.get(&moved.new.tag_path());
    assert_eq!(
        (reply.status(), digest(&reply)),
        (200, &*moved.old.digest),
        "{reply:?}"
    );
    moved.scene.assert_served(&content(&moved.old));
}

#[test]
fn tag_that_was_cached_before_the_gate_is_held_back() {
    let mut scene = Scene::new("");
    let old = push(&scene, "latest", 1);
    scene.pull(&old);
    scene.restart_with(THREE_DAYS);
    let new = push(&scene, "latest", 2);
    let moved = Moved { scene, old, new };
    moved.assert_held_back();
}

#[test]
fn unreadable_history_is_not_a_first_sight() {
    let moved = moved();
    moved.assert_held_back();
    let path = moved.scene.record("library/app", "tags/latest");
    let Moved { mut scene, new, .. } = moved;
    scene.gateway.terminate();
    std::fs::remove_file(&path).expect("a record");
    std::fs::create_dir(&path).expect("a folder in its place");
    scene.gateway.restart();
    let reply = scene.get(&new.tag_path());
    assert_eq!(reply.status(), 500, "{reply:?}");
}

#[test]
fn upstream_failures_stay_what_they_are() {
    let moved = moved();
    moved.assert_held_back();
    let fault = moved
        .scene
        .origin
        .fault(Fault::status(403).on("*", "*/manifests/latest"));
    let reply = moved.scene.get(&moved.new.tag_path());
    assert_eq!(
        (reply.status(), reply.error_code().as_deref()),
        (403, Some("DENIED"))
    );
    assert!(reply.text().contains("denied by the upstream"), "{reply:?}");
    moved.scene.origin.heal(fault);
    moved.assert_held_back();
}
