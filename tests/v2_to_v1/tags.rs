//! Tags: their cost, their platform, and stable ids.

use std::time::{Duration, Instant};

use crate::v2_to_v1::image::{GZIP, file, gzip, push, push_index, tar};
use crate::v2_to_v1::{BY_TAG, OLD, ancestry, ask, bridged, json, top};
use testkit::origin::{MEDIA_MANIFEST, Origin};

/// Old Docker's timeout for a list.
const GIVES_UP: Duration = Duration::from_secs(60);

#[test]
fn five_hundred_tags_cost_one_head_each() {
    let origin = Origin::start();
    for number in 0..500 {
        let part = gzip(&tar(&[file("one", number)]));
        push(
            &origin,
            "team/app",
            Some(&format!("v{number}")),
            "amd64",
            &[(GZIP, part)],
        );
    }
    // Referrers tags are no images.
    let companion = format!("sha256-{}.sig", "0".repeat(64));
    push(&origin, "team/app", Some(&companion), "amd64", &[]);
    let gateway = bridged(&origin);
    let started = Instant::now();
    let first = json(&ask(
        &gateway,
        &OLD[0],
        "GET /v1/repositories/team/app/tags",
        &[],
    ));
    assert!(started.elapsed() < GIVES_UP);
    let tags = first.as_object().expect("a map");
    assert_eq!(tags.len(), 500);
    assert_eq!(origin.count("HEAD", "/v2/team/app/manifests/*"), 500);
    assert_eq!(origin.count("GET", "/v2/team/app/manifests/*"), 0);
    assert_eq!(origin.count("*", "/v2/team/app/blobs/*"), 0);
    // The second list costs nothing.
    let again = json(&ask(
        &gateway,
        &OLD[0],
        "GET /v1/repositories/team/app/tags",
        &[],
    ));
    assert_eq!(again, first);
    assert_eq!(origin.count("HEAD", "*"), 500);
    // An image is read when it is first requested.
    assert_eq!(
        ancestry(&gateway, tags["v7"].as_str().expect("an id")).len(),
        1
    );
    assert_eq!(origin.count("GET", "/v2/team/app/manifests/*"), 1);
}

#[test]
fn ids_survive_a_restart_and_follow_the_content() {
    let origin = Origin::start();
    let base = (GZIP, gzip(&tar(&[file("base", 1)])));
    let part = |seed| (GZIP, gzip(&tar(&[file("top", seed)])));
    push(
        &origin,
        "team/app",
        Some("1"),
        "amd64",
        &[base.clone(), part(2)],
    );
    push(
        &origin,
        "team/other",
        Some("1"),
        "amd64",
        &[base.clone(), part(3)],
    );
    let mut gateway = bridged(&origin);
    let ids = ancestry(&gateway, &top(&gateway, "team/app", "1"));
    let untouched = top(&gateway, "team/other", "1");
    gateway.restart();
    // It is found by its id alone, also if it was only listed so far.
    let path = format!("GET /v1/images/{}/layer", ids[1]);
    assert!(ask(&gateway, &OLD[0], &path, &[]).body == base.1);
    let others = ancestry(&gateway, &untouched);
    assert_eq!(others[1], ids[1], "the base is one");
    assert_eq!(ancestry(&gateway, &top(&gateway, "team/app", "1")), ids);
    // Another gateway gives the same ids.
    let second = bridged(&origin);
    assert_eq!(ancestry(&second, &top(&second, "team/app", "1")), ids);
    // A tag that moves has another id, and the old id is unchanged.
    push(&origin, "team/app", Some("1"), "amd64", &[base, part(4)]);
    let third = bridged(&origin);
    assert_ne!(top(&third, "team/app", "1"), ids[0]);
    assert_eq!(ancestry(&gateway, &ids[0]), ids);
}

#[test]
fn platforms_never_share_an_id() {
    let origin = Origin::start();
    let base = (GZIP, gzip(&tar(&[file("base", 1)])));
    let children: Vec<_> = ["amd64", "arm64", "arm"]
        .into_iter()
        .zip(2..)
        .map(|(architecture, seed)| {
            let part = (GZIP, gzip(&tar(&[file("top", seed)])));
            let image = push(
                &origin,
                "team/app",
                None,
                architecture,
                &[base.clone(), part],
            );
            image.descriptor(MEDIA_MANIFEST, Some(("linux", architecture)))
        })
        .collect();
    push_index(&origin, "team/app", Some("1"), &children);
    // A single image, which every platform gets.
    push(
        &origin,
        "team/one",
        Some("1"),
        "amd64",
        std::slice::from_ref(&base),
    );
    let gateway = bridged(&origin);
    let agents = [
        ("docker/1.5.0 go/go1.4.1 os/linux arch/amd64", "amd64"),
        ("docker/1.5.0 go/go1.4.1 os/linux arch/arm64", "arm64"),
        ("docker/1.5.0 go/go1.4.1 os/linux arch/arm", "arm"),
        // without a platform: linux/amd64
        ("docker/1.5.0", "amd64"),
        ("Go 1.1 package http", "amd64"),
    ];
    let mut known = std::collections::BTreeMap::new();
    for name in ["team/app", "team/one"] {
        for (agent, architecture) in agents {
            let mut version = BY_TAG[0];
            version.agent = agent;
            let tags = json(&ask(
                &gateway,
                &version,
                &format!("GET /v1/repositories/{name}/tags"),
                &[],
            ));
            let id = tags["1"].as_str().expect("an id").to_owned();
            let line = format!("GET /v1/repositories/{name}/tags/1");
            assert_eq!(json(&ask(&gateway, &version, &line, &[])), *id);
            let first = known.entry(id.clone()).or_insert((name, architecture));
            assert_eq!(*first, (name, architecture), "{agent}");
            // The id determines the platform, not the client that requests it.
            let described = json(&ask(
                &gateway,
                &OLD[0],
                &format!("GET /v1/images/{id}/json"),
                &[],
            ));
            let is = if name == "team/one" {
                "amd64"
            } else {
                architecture
            };
            assert_eq!(described["architecture"], is, "{agent}");
        }
    }
    assert_eq!(known.len(), 6);
}
