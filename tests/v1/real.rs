//! docker-registry 0.9.1 itself behind the gateway: every old Docker pushes, pulls, resumes half a layer and searches.
//! Without Python 2.7 only the scripted registry is tested.

use serde_json::{Value, json};

use crate::v1::{Daemon, FALLS_BACK, OLD, PUSHER, READER, gateway_before};
use testkit::basic;
use testkit::gateway::Gateway;
use testkit::gzip;
use testkit::http::{End, Raw, Reply, get};
use testkit::image::random;
use testkit::real::{DockerRegistry, found_perhaps};

fn scene() -> Option<(DockerRegistry, Gateway)> {
    let registry = found_perhaps(DockerRegistry::start())?;
    let gateway = gateway_before(&registry.url(), "");
    Some((registry, gateway))
}

fn ask(gateway: &Gateway, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    Raw::connect(gateway.url(1), None).exchange(method, path, headers)
}

#[test]
fn old_docker_versions_push_and_pull() {
    let Some((_registry, gateway)) = scene() else {
        return;
    };
    for (number, version) in OLD.into_iter().enumerate() {
        let seed = number as u64;
        let layers = [gzip(&random(seed, 90_000)), gzip(&random(seed + 50, 700))];
        let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        for name in [format!("team/app-{number}"), format!("short-{number}")] {
            for who in [None, READER] {
                let refused = Daemon::new(version, &gateway, who).push(&name, "1", &parts);
                assert!(matches!(refused, Err(("begin", 401 | 403))), "{refused:?}");
            }
            let mut daemon = Daemon::new(version, &gateway, PUSHER);
            let pushed = daemon.push(&name, "1", &parts);
            assert!(pushed.is_ok(), "{} {pushed:?}", version.agent);
            assert_eq!(daemon.push(&name, "again", &parts), pushed);
            for version in [version, FALLS_BACK] {
                let pulled = Daemon::new(version, &gateway, PUSHER).pull(&name, "again");
                let whole = vec![layers[1].clone(), layers[0].clone()];
                assert!(pulled == Ok(whole), "{} {:?}", version.agent, pulled.err());
            }
            let pulled = Daemon::new(version, &gateway, READER).pull(&name, "1");
            if name.starts_with("team/") {
                assert!(pulled.is_ok(), "{:?}", pulled.err());
            } else {
                assert_eq!(pulled, Err(("images", 403)));
            }
        }
    }
    let search = |who| {
        Daemon::new(OLD[4], &gateway, who)
            .search("app-")
            .expect("found")
    };
    assert_eq!(
        (
            search(PUSHER).len(),
            search(READER).len(),
            search(None).len()
        ),
        (5, 5, 0)
    );
}

#[test]
fn interrupted_layer_is_resumed() {
    let Some((registry, gateway)) = scene() else {
        return;
    };
    let layer = gzip(&random(7, 50_000));
    let mut daemon = Daemon::new(OLD[4], &gateway, PUSHER);
    let ids = daemon.push("team/app", "1", &[&layer]).expect("pushed");
    let list = ask(
        &gateway,
        "GET",
        "/v1/repositories/team/app/images",
        &[("Authorization", &basic("reader", "password"))],
    );
    let token = format!("Token {}", list.header("x-docker-token").expect("a token"));
    let path = format!("/v1/images/{}/layer", ids[0]);
    let json = path.replace("layer", "json");
    let size = layer.len();
    let described = ask(&gateway, "GET", &json, &[("Authorization", &token)]);
    assert_eq!(described.header("x-docker-size"), Some(&*size.to_string()));
    let part = |first: usize, last: usize| {
        let range = format!("bytes={first}-{last}");
        ask(
            &gateway,
            "GET",
            &path,
            &[("Authorization", &token), ("Range", &range)],
        )
    };
    for first in [0, 1, size / 2, size - 1] {
        let reply = part(first, size);
        assert_eq!(
            (reply.status(), &reply.end),
            (206, &End::Complete),
            "{reply:?}"
        );
        assert!(reply.body == layer[first..], "{first}");
        let range = format!("bytes {first}-{}/{size}", size - 1);
        assert_eq!(reply.header("content-range"), Some(&*range));
    }
    let nothing = part(size, size);
    assert_eq!((nothing.status(), nothing.head.length()), (416, Some(0)));
    // The registry itself announces a byte more than it sends; the gateway corrects that.
    let theirs = Raw::connect(&registry.url(), None).exchange(
        "GET",
        &path,
        &[("Range", &format!("bytes=10-{size}"))],
    );
    assert_eq!(
        theirs.header("content-range"),
        Some(&*format!("10-{size}/{size}"))
    );

    // It answers 304 to any date, whether the image exists or not.
    let date = ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT");
    let reply = ask(&gateway, "GET", &json, &[("Authorization", &token), date]);
    assert_eq!(reply.status(), 200);
    let theirs = Raw::connect(&registry.url(), None).exchange("GET", &json, &[date]);
    assert_eq!(theirs.status(), 304);
}

#[test]
fn registry_state_equals_that_of_direct_pushes() {
    let Some((registry, gateway)) = scene() else {
        return;
    };
    let layer = gzip(b"a layer");
    let mut daemon = Daemon::new(OLD[2], &gateway, PUSHER);
    let ids = daemon.push("app", "1", &[&layer]).expect("pushed");
    let direct = |path: &str| get(&registry.url(), None, path);
    let tags: Value =
        serde_json::from_slice(&direct("/v1/repositories/library/app/tags").body).expect("JSON");
    assert_eq!(tags, json!({"1": ids[0]}));
    assert!(direct(&format!("/v1/images/{}/layer", ids[0])).body == layer);
    let pusher = basic("pusher", "password");
    let with = [("Authorization", &*pusher)];
    let untagged = ask(&gateway, "DELETE", "/v1/repositories/app/tags/1", &with);
    assert_eq!(untagged.status(), 200, "{untagged:?}");
    let removed = ask(&gateway, "DELETE", "/v1/repositories/app", &with);
    assert_eq!(removed.status(), 200, "{removed:?}");
    assert_eq!(direct("/v1/repositories/library/app/tags").status(), 404);
}
