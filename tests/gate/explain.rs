//! `roadstead explain` tells what the gate does with a pull, and asks nothing to find that out.

use super::signer::Signer;
use super::*;
use testkit::image::random;

/// An explanation, as the command prints it.
#[track_caller]
fn explained(scene: &Scene, image: &str, more: &[&str]) -> Value {
    let arguments = [&["explain", image, "--json"], more].concat();
    let output = scene.gateway.roadstead(&arguments);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Explains a pull, then makes its first request: the status and the digest are those of the explanation.
#[track_caller]
fn agrees(scene: &Scene, reference: &str, more: &[&str], gate: (&str, &str)) -> Value {
    scene.origin.clear_requests();
    let told = explained(scene, &format!("docker.io/library/app{reference}"), more);
    let asked = usize::from(more.contains(&"--ask"));
    assert_eq!(scene.origin.requests().len(), asked, "{told:#}");
    let rule = told["gate"]["rule"].as_str().unwrap_or_default();
    let decision = told["gate"]["decision"].as_str().unwrap_or_default();
    assert_eq!((decision, rule), gate, "{told:#}");
    let reply = scene.get(&format!("/v2/library/app/manifests/{}", &reference[1..]));
    assert_eq!(
        told["answer"]["status"],
        reply.status(),
        "{reply:?} {told:#}"
    );
    if reply.status() == 200 && told["manifest"].is_object() {
        assert_eq!(told["manifest"]["digest"], digest(&reply), "{told:#}");
    }
    told
}

#[track_caller]
fn assert_says(told: &Value, pointer: &str, words: &str) {
    let said = told.pointer(pointer).and_then(Value::as_str);
    assert!(said.is_some_and(|said| said.contains(words)), "{told:#}");
}

#[test]
fn explanations_name_the_rule_of_a_name() {
    let mut scene = Scene::new("allow: [\"library/app\"], deny: [\"**:*-rc*\"]");
    let image = scene
        .origin
        .push_image("library/app", "1", &[random(1, 1000)]);
    scene.origin.tag("library/app", "1-rc1", &image.digest);
    let told = agrees(&scene, ":1-rc1", &[], ("denied", "deny"));
    assert_says(
        &told,
        "/gate/because",
        "library/app:1-rc1 matches \"**:*-rc*\"",
    );
    assert_says(&told, "/answer/because", "denied by the gate rule deny");
    // By its digest, before a tag that is allowed has led to it and after.
    let by_digest = format!("@{}", image.digest);
    agrees(&scene, &by_digest, &[], ("denied", "deny"));
    agrees(&scene, ":1", &[], ("served", ""));
    agrees(&scene, &by_digest, &[], ("served", ""));
    let other = explained(&scene, "docker.io/library/other", &[]);
    assert_eq!(other["gate"]["rule"], "allow", "{other:#}");
    // What would be denied is served in report mode.
    scene.restart_with("mode: report, deny: [\"**:*-rc*\"]");
    let told = agrees(&scene, ":1-rc1", &[], ("denied", "deny"));
    assert_eq!(told["gate"]["mode"], "report");
    assert_says(&told, "/gate/because", "the gate only reports");
    scene.restart_with("");
    let told = agrees(&scene, ":1-rc1", &[], ("", ""));
    assert_eq!(told["gate"], Value::Null);
}

#[test]
fn explanations_tell_which_target_a_tag_answers() {
    let mut scene = Scene::new("min_age: 3d");
    let old = scene
        .origin
        .push_image("library/app", "latest", &[random(1, 1000)]);
    agrees(&scene, ":latest", &[], ("served", ""));
    let new = scene
        .origin
        .push_image("library/app", "latest", &[random(2, 1000)]);
    let told = agrees(&scene, ":latest", &["--ask"], ("held-back", "min_age"));
    assert_eq!(told["manifest"]["digest"], old.digest.as_str());
    assert_says(&told, "/gate/because", &new.digest);
    let told = agrees(&scene, ":latest", &[], ("held-back", "min_age"));
    assert_says(&told, "/answer/because", "target of before");
    let by_digest = format!("@{}", new.digest);
    agrees(&scene, &by_digest, &[], ("denied", "min_age"));
    scene.origin.tag("library/app", "other", &new.digest);
    agrees(&scene, ":other", &["--ask"], ("denied", "min_age"));
    let text = scene.gateway.roadstead(&["explain", "app"]);
    let shown = super::text(&text.stdout);
    let line = "gate       held-back by min_age, mode enforce";
    assert!(shown.contains(line), "{shown}");
    // A pin answers at once.
    let pins = format!("pins: {{\"library/app:latest\": \"{}\"}}", new.digest);
    scene.restart_with(&format!("min_age: 3d, {pins}"));
    let told = agrees(&scene, ":latest", &[], ("pinned", "pins"));
    assert_eq!(told["manifest"]["digest"], new.digest.as_str());
}

#[test]
fn explanations_tell_what_the_gate_looks_at() {
    let signer = Signer::new();
    let scene = Scene::new(&format!("platforms: [linux/amd64], {}", signer.gate()));
    let origin = &scene.origin;
    let amd64 = push_for(origin, "library/app", "", "linux/amd64", 1);
    let windows = push_for(origin, "library/app", "", "windows/amd64", 2);
    let index = origin.push_index("library/app", "latest", &[&amd64, &windows]);
    signer.sign(origin, &index);
    let told = agrees(&scene, ":latest", &[], ("undecided", "platforms"));
    assert_eq!(told["upstream"]["incomplete"], true);
    let told = agrees(&scene, ":latest", &[], ("served", ""));
    assert_eq!(told["upstream"]["failures"], json!([]));
    // The child for another platform is denied once its configuration is known.
    scene.assert_denied("platforms", &[windows.digest_path()]);
    let by_digest = format!("@{}", windows.digest);
    agrees(&scene, &by_digest, &[], ("denied", "platforms"));
    // Not signed: that is known once the registry was asked.
    let unsigned = push_for(origin, "library/app", "unsigned", "linux/amd64", 3);
    let told = explained(&scene, "docker.io/library/app:unsigned", &["--ask"]);
    assert_eq!(told["gate"]["decision"], "undecided", "{told:#}");
    scene.assert_denied("signed_by", &[unsigned.tag_path()]);
    let told = explained(&scene, "docker.io/library/app:unsigned", &[]);
    assert_eq!(told["gate"]["rule"], "signed_by", "{told:#}");
    let asked = told["upstream"]["requests"].as_array().expect("requests");
    let signature = format!("{}.sig", unsigned.digest.replacen(':', "-", 1));
    let looks = |request: &&Value| {
        request["url"]
            .as_str()
            .is_some_and(|url| url.ends_with(&signature))
    };
    assert_eq!(asked.iter().filter(looks).count(), 1, "{told:#}");
}
