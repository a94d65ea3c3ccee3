//! Each node checks its own clients' rights, before it shows a byte of another node's.

use testkit::origin::{Auth, Fault, Latch};

use super::*;

#[test]
fn repository_without_the_blob_gets_nothing_of_another_nodes_fill() {
    let scene = Scene::new(SIZE);
    let [first, second] = [(); 2].map(|()| scene.node());
    scene
        .origin
        .push_image("library/other", "latest", &[random(2, 1000)]);
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*"));
    let begun = scene.begin(&first, HALF);
    let other = scene.path.replace("library/app", "library/other");
    for _ in 0..2 {
        let reply = second.ask(&other);
        assert_eq!(reply.status(), 404, "{}", reply.text());
    }
    assert_eq!(second.counted("peer_received_bytes"), 0);
    // Nor does such a request take the lease.
    assert_eq!(scene.holder(), Some(first.url()));
    latch.release();
    begun.finish();
    assert_eq!(scene.fetches(), 1);
}

#[test]
fn nodes_with_different_rules_and_accounts_check_their_own() {
    let scene = Scene::new(SIZE);
    let [first, mut second, mut third] = [(); 3].map(|()| scene.node());
    let first_yaml = |yaml: &str| {
        yaml.replace(
            "}]\nlisten",
            ", visibility: rules, credentials: {username: me, password: right}}]\nlisten",
        )
    };
    let rules = |repositories: &str| {
        format!(
            "access: {{rules: [{{users: [anonymous], repositories: [\"{repositories}\"], actions: [pull]}}]}}\n"
        )
    };
    scene.origin.require(Auth::basic("me", "right"));
    let mut first = first;
    let yaml = first_yaml(&first.yaml) + &rules("**");
    first.gateway.restart_with(&yaml);
    // Its rules do not allow it.
    let yaml = first_yaml(&second.yaml) + &rules("docker.io/library/public");
    second.gateway.restart_with(&yaml);
    // Its account may not read it.
    let yaml = first_yaml(&third.yaml).replace("password: right", "password: wrong") + &rules("**");
    third.gateway.restart_with(&yaml);
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene
        .origin
        .fault(paused.on("GET", "*/blobs/*").with_header("Authorization"));
    let begun = scene.begin(&first, HALF);
    for node in [&second, &third] {
        let status = node.ask(&scene.path).status();
        assert!(matches!(status, 401 | 403), "{status}");
        assert_eq!(node.counted("peer_received_bytes"), 0);
    }
    assert_eq!(scene.holder(), Some(first.url()));
    latch.release();
    begun.finish();
}
