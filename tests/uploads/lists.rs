//! Lists: which parameters are valid, which go upstream, and what one request leaves for others.

use crate::uploads::Place;
use testkit::gateway::Gateway;
use testkit::http::get;
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::sha256;

const TAGS: &str = "/v2/team/app/tags/list";

fn scene() -> (Origin, Gateway) {
    let origin = Origin::start();
    for tag in ["a", "b", "c"] {
        origin.push_image("team/app", tag, &[random(1, 100)]);
    }
    let gateway = Gateway::mirror("up.example", &origin.url(), "");
    (origin, gateway)
}

#[test]
fn not_found_page_does_not_hide_the_list() {
    let (origin, gateway) = scene();
    let fault = origin.fault(Fault::status(404).on("GET", TAGS));
    for query in ["?last=zzz", "?n=1&last=zzz"] {
        let odd = get(gateway.url(1), None, &format!("{TAGS}{query}"));
        assert_eq!(odd.status(), 404, "{odd:?}");
    }
    origin.heal(fault);
    let list = get(gateway.url(1), None, TAGS);
    assert_eq!(list.status(), 200, "{list:?}");
}

#[test]
fn only_known_list_parameters_are_forwarded() {
    let (origin, gateway) = scene();
    let referrers = format!("/v2/team/app/referrers/{}", sha256(b"x"));
    for (path, query, status, sent) in [
        (TAGS, "n=2&last=a", 200, Some("n=2&last=a")),
        (TAGS, "last=b&n=2", 200, Some("n=2&last=b")),
        (TAGS, "n=0002&last=a", 200, None),
        (
            TAGS,
            "n=1&ns=up.example&x=y&artifactType=z",
            200,
            Some("n=1"),
        ),
        (TAGS, "next_page=a%2Bb%3D", 200, Some("next_page=a%2Bb%3D")),
        (TAGS, "n=x", 400, None),
        (TAGS, "n=", 400, None),
        (
            &referrers,
            "artifactType=a%2Fb&n=3&_=1",
            200,
            Some("n=3&artifactType=a%2Fb"),
        ),
    ] {
        origin.clear_requests();
        let reply = get(gateway.url(1), None, &format!("{path}?{query}"));
        assert_eq!(reply.status(), status, "{query} {reply:?}");
        let asked = origin.requests_for("GET", path);
        let queries: Vec<_> = asked.iter().map(|asked| asked.query.as_str()).collect();
        assert_eq!(queries, sent.as_slice(), "{query}");
    }
    // Nor does any query of a request by name.
    let manifest = get(gateway.url(1), None, "/v2/team/app/manifests/a?x=y&n=1");
    assert_eq!(manifest.status(), 200);
    assert!(
        origin
            .requests_for("*", "/v2/team/app/manifests/*")
            .iter()
            .all(|it| it.query.is_empty())
    );
    for (key, longest) in [("last", 2048), ("artifactType", 255), ("next_page", 2048)] {
        let path = if key == "artifactType" {
            &*referrers
        } else {
            TAGS
        };
        let ask = |length: usize| {
            let target = format!("{path}?{key}={}", "a".repeat(length));
            get(gateway.url(1), None, &target).status()
        };
        assert_eq!((ask(longest), ask(longest + 1)), (200, 400), "{key}");
    }
}

/// A registry without the referrers API answers 404 in plain text, after which clients try the referrers tag; after
/// `NAME_UNKNOWN` they do not.
#[test]
fn referrers_404_does_not_hide_the_repository() {
    let (origin, gateway) = scene();
    let passing = Place::of(&origin.url());
    let path = |name: &str| format!("/v2/{name}/referrers/{}", sha256(b"x"));
    let told = |url: &str, path: &str| {
        let reply = crate::uploads::send(url, Some("reader"), "GET", path, &[], b"");
        assert_eq!(reply.status(), 404, "{reply:?}");
        reply.error_code()
    };
    let fault = origin.fault(Fault::status(404).on("GET", "*/referrers/*"));
    let plain = origin.fault(Fault::header("Content-Type", "text/plain").on("GET", "*"));
    for url in [gateway.url(1), passing.gateway.url(1)] {
        for _ in 0..2 {
            // The second time from memory.
            assert_eq!(told(url, &path("team/app")).as_deref(), Some("UNSUPPORTED"));
        }
    }
    let routed = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", cache: false}}]\n",
        origin.url()
    ));
    assert_eq!(
        told(routed.url(1), &path("team/app")).as_deref(),
        Some("UNSUPPORTED")
    );
    origin.heal(fault);
    origin.heal(plain);
    // An absent repository is still reported as such.
    for url in [gateway.url(1), routed.url(1)] {
        for _ in 0..2 {
            assert_eq!(
                told(url, &path("team/none")).as_deref(),
                Some("NAME_UNKNOWN")
            );
        }
    }
}

/// A page whose link to the next is unusable must not look like the last.
#[test]
fn invalid_next_link_fails_the_list() {
    let (origin, gateway) = scene();
    for (link, expected) in [
        ("<?last=a&n=1>; rel=\"next\"", Ok("?n=1&last=a")),
        (
            "</v2/team/app/tags/list?n=1&next_page=x%2By>; rel=next",
            Ok("?n=1&next_page=x%2By"),
        ),
        (
            "<https://elsewhere.example/x?last=a>;rel=\"next\"",
            Ok("?last=a"),
        ),
        ("</v2/team/app/tags/list?page=2>; rel=\"next\"", Err(502)),
        ("</v2/team/app/tags/list>; rel=\"next\"", Err(502)),
    ] {
        let fault = origin.fault(Fault::header("Link", link).on("GET", TAGS));
        let path = format!("{TAGS}?n={}", 10 + link.len());
        let reply = get(gateway.url(1), None, &path);
        origin.heal(fault);
        let found = match reply.status() {
            200 => {
                let link = reply.header("link").expect("a Link");
                Ok(link.to_owned())
            }
            status => Err(status),
        };
        let expected =
            expected.map(|query| format!("<http://localhost{TAGS}{query}>; rel=\"next\""));
        assert_eq!(found, expected, "{link}");
    }
}
