//! Combined lists of both sides: tags, and the catalogue.

use serde_json::{Value, json};

use crate::v1_to_v2::{Scene, configuration, push};
use testkit::gateway::Gateway;
use testkit::http::{Reply, at_once};
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::until;
use testkit::v1::V1Registry;

const TAGS: &str = "/v2/team/app/tags/list";

fn body(reply: &Reply) -> Value {
    assert_eq!(reply.status(), 200, "{reply:?}");
    serde_json::from_slice(&reply.body).expect("JSON")
}

/// All pages of a list, by its `Link`s.
fn pages(scene: &Scene, first: &str, key: &str) -> Vec<Value> {
    let mut pages = Vec::new();
    let mut next = Some(first.to_owned());
    while let Some(path) = next {
        assert!(pages.len() < 20, "it has no end");
        let reply = scene.get(&path);
        pages.push(body(&reply)[key].clone());
        next = reply.header("link").map(|link| {
            let (url, rest) = link[1..].split_once('>').expect("a URL");
            assert_eq!(rest, "; rel=\"next\"");
            url[url.find("/v2/").expect("a path")..].to_owned()
        });
    }
    pages
}

#[test]
fn tags_of_v1_and_v2_are_merged() {
    let scene = Scene::start();
    let ids = push(&scene.v1, "team/app", "1.0", 1);
    scene.v1.put_tag("team/app", "3.0", &ids[0]);
    scene.v1.put_tag("team/app", "2.0", &ids[0]);
    // One side alone.
    let only_v1 = json!({"name": "team/app", "tags": ["1.0", "2.0", "3.0"]});
    assert_eq!(body(&scene.get(TAGS)), only_v1);
    for tag in ["2.0", "2.5", "latest"] {
        scene.v2.push_image("team/other", tag, &[random(1, 100)]);
    }
    let other = body(&scene.get("/v2/team/other/tags/list"));
    assert_eq!(other["tags"], json!(["2.0", "2.5", "latest"]));
    assert_eq!(scene.get("/v2/team/none/tags/list").status(), 404);

    // Both.
    let scene = Scene::start();
    let ids = push(&scene.v1, "team/app", "1.0", 1);
    scene.v1.put_tag("team/app", "3.0", &ids[0]);
    scene.v1.put_tag("team/app", "2.0", &ids[0]);
    for tag in ["2.0", "2.5", "latest"] {
        scene.v2.push_image("team/app", tag, &[random(1, 100)]);
    }
    let all = json!(["1.0", "2.0", "2.5", "3.0", "latest"]);
    assert_eq!(body(&scene.get(TAGS))["tags"], all);
    let by_two = pages(&scene, &format!("{TAGS}?n=2"), "tags");
    assert_eq!(
        by_two,
        [
            json!(["1.0", "2.0"]),
            json!(["2.5", "3.0"]),
            json!(["latest"])
        ]
    );
    assert_eq!(pages(&scene, &format!("{TAGS}?n=5"), "tags"), [all]);
    let behind = body(&scene.get(&format!("{TAGS}?last=2.5")));
    assert_eq!(behind["tags"], json!(["3.0", "latest"]));
}

/// A silently short list would be taken for complete; but an old registry that is down does not take the new one's list
/// with it.
#[test]
fn list_fails_without_the_v2_registry() {
    let scene = Scene::start();
    push(&scene.v1, "team/app", "1.0", 1);
    scene.v2.push_image("team/app", "2.0", &[random(1, 100)]);
    scene.v1.script(|script| script.broken = Some(503));
    assert_eq!(body(&scene.get(TAGS))["tags"], json!(["2.0"]));
    let names = body(&scene.get("/v2/_catalog"));
    assert_eq!(names["repositories"], json!(["team/app"]));
    // Repositories that the v2 side does not have are unknown then.
    assert_eq!(scene.get("/v2/team/none/tags/list").status(), 503);
    let scene = Scene::start();
    push(&scene.v1, "team/app", "1.0", 1);
    scene.v2.fault(Fault::status(503));
    assert_eq!(scene.get(TAGS).status(), 503);
    assert_eq!(scene.get("/v2/_catalog").status(), 503);
}

#[test]
fn catalogues_of_v1_and_v2_are_merged() {
    let scene = Scene::start();
    for name in ["team/b", "team/d", "library/a", "zoo/z"] {
        push(&scene.v1, name, "1", 1);
    }
    for name in ["team/a", "team/b", "team/c", "team/e", "team/f"] {
        scene.v2.push_image(name, "1", &[random(1, 100)]);
    }
    let all = [
        "a", "team/a", "team/b", "team/c", "team/d", "team/e", "team/f", "zoo/z",
    ];
    assert_eq!(body(&scene.get("/v2/_catalog"))["repositories"], json!(all));
    for n in 1..=9 {
        let pages = pages(&scene, &format!("/v2/_catalog?n={n}"), "repositories");
        let names: Vec<Value> = pages
            .iter()
            .flat_map(|it| it.as_array().expect("names").clone())
            .collect();
        assert_eq!(Value::from(names), json!(all), "{n}");
        assert!(
            pages
                .iter()
                .all(|page| page.as_array().is_some_and(|page| page.len() <= n))
        );
    }
    let behind = body(&scene.get("/v2/_catalog?n=2&last=team/c"));
    assert_eq!(behind["repositories"], json!(["team/d", "team/e"]));
}

/// Every request is answered within its client's timeout, and at once after the first failure.
#[test]
fn hanging_v1_registry_delays_no_list() {
    let (v1, v2) = (V1Registry::start(), Origin::start());
    let yaml = configuration(&v1.url(), &v2.url(), "push: true");
    let rules = "[{users: [anonymous], repositories: [\"**\"], actions: [pull]}]";
    let gateway = Gateway::start(&format!("{yaml}access: {{rules: {rules}}}\n"));
    let scene = Scene { v1, v2, gateway };
    push(&scene.v1, "team/old", "1.0", 1);
    scene.v2.push_image("team/app", "2.0", &[random(1, 100)]);
    scene.v1.script(|script| script.mute = true);
    let paths = [
        ("/v2/_catalog", 200),
        ("/v1/search?q=app", 200),
        ("/v1/repositories/team/old/images", 503),
        ("/v1/repositories/team/old/tags", 503),
        ("/v1/repositories/team/old/tags/1.0", 503),
    ];
    let statuses = at_once(paths.len(), |n| scene.get(paths[n].0).status());
    assert_eq!(statuses, paths.map(|(_, status)| status));
    let listed = body(&scene.get("/v2/_catalog"));
    assert_eq!(listed["repositories"], json!(["team/app"]));
    scene.v1.script(|script| script.mute = false);
    until("the names of the v1 side", || {
        body(&scene.get("/v2/_catalog"))["repositories"] == json!(["team/app", "team/old"])
    });
}
