//! Locations of uploads, and registries that send uploads elsewhere.

use testkit::gateway::Gateway;
use testkit::http::Raw;
use testkit::origin::{Fault, Origin};

use super::{ANYTHING, Pusher, gateway};

#[test]
fn upload_to_another_host_is_refused() {
    let origin = Origin::start();
    let gateway = gateway(&origin.url(), "");
    for (version, client) in Pusher::all(&gateway) {
        let elsewhere = "https://bucket.example.com/v2/team/app/blobs/uploads/u?sig=secret";
        let fault = Fault::status_with(202, "Location", elsewhere).on("POST", "*");
        let fault = origin.fault(fault);
        let begun = client.ask("POST", "/v2/team/app/blobs/uploads/");
        assert_eq!(
            (begun.status, begun.header("location")),
            (502, None),
            "{version}"
        );
        origin.heal(fault);
    }
    assert!(
        gateway
            .log()
            .contains("sent an upload location outside itself")
    );
    assert!(!gateway.log().contains("secret"));
}

#[test]
fn upload_locations_are_absolute_and_keep_their_query() {
    let origin = Origin::start();
    let state = "_state=a%2bB-_~%3D%3D&x=%41+b";
    let own = origin.url();
    for (public, external) in [
        ("", None),
        (
            "public_url: \"https://registry.example.com\"",
            Some("https://registry.example.com"),
        ),
    ] {
        let yaml = format!(
            "registries: [{{name: hosted, v2: \"{own}\", push: true}}]\n{ANYTHING}listen: [{{address: \"127.0.0.1:0\", tls: off, {public}}}]\n"
        );
        let gateway = Gateway::start(&yaml);
        let external = external.map_or("http://registry.local:5000", |external| external);
        for (typed, location) in [
            (
                "team/app",
                format!("/v2/team/app/blobs/uploads/u-1?{state}"),
            ),
            (
                "hosted/team/app",
                format!("/v2/team/app/blobs/uploads/u-1?{state}"),
            ),
            (
                "team/app",
                format!("{own}/v2/team/app/blobs/uploads/u-1?{state}"),
            ),
        ] {
            let fault =
                origin.fault(Fault::status_with(202, "Location", &location).on("POST", "*"));
            let path = format!("/v2/{typed}/blobs/uploads/");
            let mut raw = Raw::connect(gateway.url(0), None);
            let begun = raw.exchange(
                "POST",
                &path,
                &[("Host", "registry.local:5000"), ("Content-Length", "0")],
            );
            let here = format!("{external}/v2/{typed}/blobs/uploads/u-1?{state}");
            assert_eq!(begun.header("location"), Some(here.as_str()), "{location}");
            origin.heal(fault);
            // The query is forwarded unchanged.
            let fault = origin.fault(Fault::status(204).on("PATCH", "*"));
            raw.exchange(
                "PATCH",
                &format!("/v2/{typed}/blobs/uploads/u-1?{state}"),
                &[("Content-Length", "0")],
            );
            let patched = origin.requests_for("PATCH", "/v2/team/app/blobs/uploads/u-1");
            assert_eq!(patched.last().expect("a request").query, state);
            origin.heal(fault);
        }
        // The registry learns nothing about the client.
        let begun = origin.requests_for("POST", "*");
        let begun = begun.last().expect("a request");
        for name in ["x-forwarded-proto", "x-forwarded-host", "x-forwarded-for"] {
            assert_eq!(begun.header(name), None, "{name}");
        }
        assert_eq!(begun.header("host"), Some(origin.authority().as_str()));
    }
}
