//! Pulls by clients of the v1 API: from a v1 registry through the cache or not, and converted from v2.

use super::*;
use crate::v2_to_v1;
use crate::v2_to_v1::image::{GZIP, file, gzip, push, tar};
use testkit::v1::V1Registry;

const DOCKER_1_5: &str = "docker/1.5.0 go/go1.4 git-commit/0 kernel/4.9.0 os/linux arch/amd64";

fn as_old(gateway: &Gateway, path: &str) -> Reply {
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.exchange("GET", path, &[("User-Agent", DOCKER_1_5)])
}

/// Pulls as Docker 1.5 does: the lists, the ancestry, the JSON and layer of each image. Returns the first status and
/// `Cache-Status`.
fn pull_as_old(gateway: &Gateway, name: &str, tag: &str) -> (u16, String) {
    let first = as_old(gateway, &format!("/v1/repositories/{name}/images"));
    let cache = first.header("cache-status").expect("a status");
    let cache = cache.trim_start_matches("roadstead; ").to_owned();
    let answer = (first.status(), cache);
    if answer.0 != 200 {
        return answer;
    }
    let tags = as_old(gateway, &format!("/v1/repositories/{name}/tags"));
    let tags: Value = serde_json::from_slice(&tags.body).expect("JSON");
    let Some(top) = tags[tag].as_str() else {
        return answer;
    };
    let ancestry = as_old(gateway, &format!("/v1/images/{top}/ancestry"));
    let ancestry: Value = serde_json::from_slice(&ancestry.body).expect("JSON");
    for id in ancestry.as_array().expect("ids") {
        let id = id.as_str().expect("an id");
        for part in ["json", "layer"] {
            let reply = as_old(gateway, &format!("/v1/images/{id}/{part}"));
            assert_eq!(reply.status(), 200, "{part} {reply:?}");
        }
    }
    answer
}

/// The methods and paths of the planned requests.
fn planned(told: &Value, upstream: &str) -> Vec<String> {
    let requests = told["upstream"]["requests"]
        .as_array()
        .expect("requests")
        .iter();
    let requests = requests.map(|request| {
        let url = request["url"].as_str().expect("a URL");
        let path = url.strip_prefix(upstream).expect("a URL of the upstream");
        format!("{} {}", request["method"].as_str().expect("a method"), path)
    });
    let mut all: Vec<String> = requests.collect();
    all.sort();
    all
}

/// What the v1 registry was asked, but for its probes.
fn made(registry: &V1Registry) -> Vec<String> {
    let requests = registry.requests().into_iter();
    let lines = requests.filter_map(|one| one.line.strip_suffix(" HTTP/1.1").map(str::to_owned));
    let mut all: Vec<String> = lines.filter(|line| !line.ends_with("_ping")).collect();
    all.sort();
    all
}

fn question(gateway: &Gateway, image: &str) -> Value {
    json!({"image": image, "client": "docker-1.5", "listener": gateway.url(1)})
}

/// Explains a pull, makes it, and compares.
#[track_caller]
fn agrees(gateway: &Gateway, registry: &V1Registry, case: &str) -> Value {
    let before = made(registry);
    let told = explain(gateway, &question(gateway, "team/app:1"));
    assert_eq!(made(registry), before, "{case}: it asks nothing");
    let (status, cache) = pull_as_old(gateway, "team/app", "1");
    let said = told["answer"]["cache_status"].as_str().expect("a status");
    let without_ttl = |text: &str| text.split("; ttl=").next().map(str::to_owned);
    assert_eq!(
        (&told["answer"]["status"], without_ttl(said)),
        (&status.into(), without_ttl(&cache)),
        "{case} {told:#}"
    );
    let mut new = made(registry);
    for line in before {
        let at = new
            .iter()
            .position(|one| *one == line)
            .expect("an earlier request");
        new.remove(at);
    }
    let wanted = planned(&told, &registry.url());
    if told["upstream"]["incomplete"] == true {
        assert!(
            wanted.iter().all(|line| new.contains(line)),
            "{case}: {wanted:?} {new:?}"
        );
    } else {
        assert_eq!(new, wanted, "{case}: {told:#}");
    }
    told
}

#[test]
fn pulls_from_a_v1_registry_agree() {
    let registry = V1Registry::start();
    let layers = [random(1, 90_000), random(2, 300)];
    let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let ids = registry.push_image("team/app", "1", &parts);
    let cached = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\"}}]\n{ANYWHERE}",
        registry.url()
    ));
    let cold = agrees(&cached, &registry, "cold");
    assert_parts(
        &cold,
        &[
            ("/client/api", "v1".into()),
            ("/request/target", "/v1/repositories/team/app/images".into()),
            ("/route/registry", "old".into()),
            ("/tag/state", "absent".into()),
            ("/upstream/rate_limit_cost", 0.into()),
            ("/upstream/incomplete", true.into()),
        ],
    );
    assert_says(&cold, "/client/because", "table of old clients");
    let warm = agrees(&cached, &registry, "warm");
    assert_parts(
        &warm,
        &[
            ("/tag/state", "fresh".into()),
            ("/v1_image/id", ids[1].as_str().into()),
            ("/v1_image/parts/1/name", format!("{}/layer", ids[1]).into()),
            ("/v1_image/parts/1/state", "present".into()),
            ("/upstream/requests", json!([])),
        ],
    );
    assert_says(&warm, "/v1_image/because", "through the cache");
    evict(&cached, &testkit::sha256(&layers[0]));
    let part = agrees(&cached, &registry, "evicted layer");
    assert_parts(
        &part,
        &[
            ("/v1_image/parts/3/state", "missing".into()),
            ("/upstream/fetch_bytes", 90_000.into()),
        ],
    );

    let passed = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\", push: true, visibility: public}}]\n{ANYWHERE}",
        registry.url()
    ));
    let told = agrees(&passed, &registry, "passed through");
    assert_says(&told, "/v1_image/because", "each time");
}

/// A registry that speaks v1 alone is told to Docker 1.6 to 1.12 as well, and to no other client.
#[test]
fn registry_of_v1_alone_is_explained_to_each_client() {
    let registry = V1Registry::start();
    registry.push_image("team/app", "1", &[b"layer"]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\", hosts: [\"127.0.0.1\"]}}]\n{ANYWHERE}",
        registry.url()
    ));
    for (client, api, status, words) in [
        ("docker-1.5", "v1", 200, "table of old clients"),
        ("docker-1.12", "v1", 200, "speaks v1 alone"),
        ("containerd", "v2", 404, "no table"),
    ] {
        let mut question = question(&gateway, "team/app:1");
        question["client"] = client.into();
        let told = explain(&gateway, &question);
        assert_parts(
            &told,
            &[
                ("/client/api", api.into()),
                ("/answer/status", status.into()),
            ],
        );
        assert_says(&told, "/client/because", words);
    }
    let told = explain(
        &gateway,
        &question(&gateway, &format!("team/app@sha256:{}", "0".repeat(64))),
    );
    assert_parts(&told, &[("/answer/status", 404.into())]);
}

#[test]
fn rights_of_old_clients_are_explained() {
    let folder = testkit::temp_dir();
    let registry = V1Registry::start();
    registry.push_image("team/app", "1", &[b"layer"]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\", push: true, default: true}}]\n\
         access:\n  htpasswd: {}\n  rules: [{{users: [alice], repositories: [\"old/**\"], actions: [pull]}}]\n{ANYWHERE}",
        registry.url(),
        accounts(folder.path()).display()
    ));
    for (user, status) in [
        (None, 401),
        (Some("alice"), 200),
        (Some("bob"), 403),
        (Some("eve"), 401),
    ] {
        let mut question = question(&gateway, "team/app:1");
        question["as"] = user.into();
        let told = explain(&gateway, &question);
        assert_parts(
            &told,
            &[
                ("/access/status", status.into()),
                ("/answer/status", status.into()),
            ],
        );
        let login = user.map(|user| testkit::basic(user, "secret"));
        let login = login.iter().map(|login| ("Authorization", login.as_str()));
        let headers: Vec<(&str, &str)> = [("User-Agent", DOCKER_1_5)]
            .into_iter()
            .chain(login)
            .collect();
        let mut raw = Raw::connect(gateway.url(1), None);
        let real = raw.exchange("GET", "/v1/repositories/team/app/images", &headers);
        assert_eq!(real.status(), status, "{user:?}");
    }
}

/// A v2 image for an old client: the requests of the v2 side, and the id that is derived from the digest.
#[test]
fn converted_images_are_explained() {
    let origin = Origin::start();
    let layer = gzip(&tar(&[file("one", 4000)]));
    let image = push(&origin, "team/app", Some("1"), "amd64", &[(GZIP, layer)]);
    let gateway = Gateway::start(&format!("{}{ANYWHERE}", v2_to_v1::yaml(&origin)));
    for case in ["cold", "warm"] {
        origin.clear_requests();
        let told = explain(&gateway, &question(&gateway, "team/app:1"));
        assert_eq!(origin.requests().len(), 0, "{case}");
        let (status, cache) = pull_as_old(&gateway, "team/app", "1");
        assert_parts(
            &told,
            &[
                ("/answer/status", status.into()),
                ("/answer/cache_status", cache.into()),
            ],
        );
        let wanted = planned(&told, &origin.url());
        let requests = origin
            .requests()
            .into_iter()
            .filter(|one| one.path != "/v2/");
        let mut made: Vec<String> = requests
            .map(|one| {
                if one.query.is_empty() {
                    format!("{} {}", one.method, one.path)
                } else {
                    format!("{} {}?{}", one.method, one.path, one.query)
                }
            })
            .collect();
        made.sort();
        assert_says(&told, "/v1_image/because", "converted from the v2 image");
        if case == "warm" {
            assert_eq!(made, wanted, "{told:#}");
            let tags = as_old(&gateway, "/v1/repositories/team/app/tags");
            let tags: Value = serde_json::from_slice(&tags.body).expect("JSON");
            assert_parts(
                &told,
                &[
                    ("/manifest/digest", image.digest.as_str().into()),
                    ("/v1_image/id", tags["1"].clone()),
                    ("/upstream/incomplete", false.into()),
                ],
            );
        } else {
            assert!(
                wanted.iter().all(|line| made.contains(line)),
                "{wanted:?} {made:?}"
            );
            assert_parts(&told, &[("/upstream/incomplete", true.into())]);
        }
    }
}
