//! Folders that are imported as content of a registry with a gate: it is judged like content that was fetched.

use serde_json::Value;

use super::distribution::{check, push};
use super::{get, import};
use crate::gate::signer::Signer;
use testkit::gateway::Gateway;
use testkit::http::Reply;
use testkit::image::{Layout, Made};
use testkit::real::{Registry, found};

fn yaml(registry: &Registry, gate: &str) -> String {
    let url = registry.url();
    format!(
        "registries: [{{name: hosted, v2: \"{url}\", tag_ttl: 0s, missing_ttl: 0s, gate: {{{gate}}}}}]\n"
    )
}

/// The status of an answer, and the rule of the gate that denied it.
fn fate(reply: &Reply) -> (u16, String) {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let rule = body["errors"][0]["detail"]["rule"].as_str();
    (reply.status(), rule.unwrap_or_default().to_owned())
}

/// Asserts that a rule denies an image, by its tag, its digest and those of everything in it.
#[track_caller]
fn assert_denied(gateway: &Gateway, name: &str, made: &Made, rule: &str) {
    let denied = (403, rule.to_owned());
    for reference in ["1", &made.digest] {
        let path = format!("/v2/{name}/manifests/{reference}");
        assert_eq!(fate(&get(gateway, &path)), denied, "{path}");
    }
    for digest in &made.content {
        // It is one of them.
        let as_kind = ["blobs", "manifests"].map(|kind| {
            let path = format!("/v2/{name}/{kind}/{digest}");
            fate(&get(gateway, &path))
        });
        assert!(as_kind.contains(&denied), "{digest}: {as_kind:?}");
        assert!(as_kind.iter().all(|(status, _)| *status != 200), "{digest}");
    }
}

#[test]
fn gate_holds_for_imported_content() {
    let Some(mut registry) = found(Registry::start()) else {
        return;
    };
    let Some((small, multi)) = push(&registry) else {
        return;
    };
    let signer = Signer::new();
    let mut gateway = Gateway::start(&yaml(&registry, "allow: [\"library/small:1\"]"));
    gateway.terminate();
    // The gate does not keep content out of the store: its rules may change.
    let told = import(&gateway, &registry.storage());
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(
        told.line("imported").starts_with("2 tags, 4 manifests, "),
        "{told:?}"
    );
    gateway.restart_with(&yaml(&registry, &signer.gate()));
    assert_denied(&gateway, "library/small", &small, "signed_by");
    assert_denied(&gateway, "library/multi", &multi, "signed_by");
    registry.down();
    gateway.restart_with(&yaml(&registry, "allow: [\"library/small:1\"]"));
    assert_denied(&gateway, "library/multi", &multi, "allow");
    // By digest an image is served once the tag that is allowed has led to it.
    let path = format!("/v2/library/small/manifests/{}", small.digest);
    assert_eq!(fate(&get(&gateway, &path)), (403, "allow".to_owned()));
    check(&gateway, "library/small", &small);
    gateway.restart_with(&yaml(&registry, "deny: [\"library/small\"]"));
    assert_denied(&gateway, "library/small", &small, "deny");
    check(&gateway, "library/multi", &multi);
    gateway.restart_with(&yaml(&registry, "platforms: [linux/arm64]"));
    assert_denied(&gateway, "library/small", &small, "platforms");
    let index = get(&gateway, "/v2/library/multi/manifests/1");
    let index: Value = serde_json::from_slice(&index.body).expect("an index");
    for (number, expected) in [(0, (403, "platforms")), (1, (200, ""))] {
        let digest = index["manifests"][number]["digest"]
            .as_str()
            .expect("a digest");
        let reply = get(&gateway, &format!("/v2/library/multi/manifests/{digest}"));
        let (status, rule) = fate(&reply);
        assert_eq!((status, &*rule), expected, "{digest}");
    }
}

#[test]
fn imported_target_is_served_until_the_next_is_old_enough() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let Some((old, _)) = push(&registry) else {
        return;
    };
    let mut gateway = Gateway::start(&yaml(&registry, "min_age: 3d"));
    gateway.terminate();
    let told = import(&gateway, &registry.storage());
    assert_eq!(told.code, Some(0), "{told:?}");
    // The tag moves before the gateway has answered it once.
    let mut layout = Layout::new();
    let new = layout.add_image("new", 9, 1000);
    if found(registry.push(&layout, &new, "library/small:1")).is_none() {
        return;
    }
    gateway.restart();
    let reply = get(&gateway, "/v2/library/small/manifests/1");
    assert_eq!(reply.status(), 200, "{reply:?}");
    assert_eq!(reply.header("docker-content-digest"), Some(&*old.digest));
    let warning = reply.header("warning").unwrap_or_default();
    assert!(warning.contains(&new.digest), "{reply:?}");
    check(&gateway, "library/small", &old);
    let path = format!("/v2/library/small/manifests/{}", new.digest);
    assert_eq!(fate(&get(&gateway, &path)), (403, "min_age".to_owned()));
}
