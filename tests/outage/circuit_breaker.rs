//! What opens the circuit breaker of a registry, and what does not: a failing path is no failing host.

use std::net::TcpListener;

use testkit::gateway::Gateway;
use testkit::http::get;
use testkit::image::{Layout, random};
use testkit::origin::{Auth, Bearer, Fault, Origin};
use testkit::real::{Registry, found};
use testkit::until;

fn scene() -> (Origin, Gateway) {
    let origin = Origin::start();
    let gateway = Gateway::mirror("hosted", &origin.url(), "");
    (origin, gateway)
}

fn status(gateway: &Gateway, path: &str) -> u16 {
    get(gateway.url(1), None, path).status()
}

/// Debian's docker-registry answers 500 if a layer is requested as a manifest, which any reader may do.
#[test]
fn layer_requested_as_manifest_opens_no_breaker() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let gateway = Gateway::mirror("hosted", &registry.url(), "");
    let mut layout = Layout::new();
    let made = layout.add_image("latest", 1, 1000);
    for name in ["open/app:latest", "team/app:latest"] {
        if found(registry.push(&layout, &made, name)).is_none() {
            return;
        }
    }
    let as_manifest = |digest: &String| format!("/v2/open/app/manifests/{digest}");
    let fails = |path: &String| get(&registry.url(), None, path).status() == 500;
    let failing: Vec<_> = made.content.iter().map(as_manifest).filter(fails).collect();
    assert!(!failing.is_empty(), "what this is about");
    for path in &failing {
        assert_eq!(status(&gateway, path), 503);
        assert_eq!(status(&gateway, "/v2/team/app/manifests/latest"), 200);
    }
}

/// However many paths fail, in however many repositories, and without a success in between.
#[test]
fn failing_paths_open_no_breaker() {
    let (origin, gateway) = scene();
    let image = |name: String| origin.push_image(&name, "latest", &[random(1, 1000)]);
    let images: Vec<_> = (0..12).map(|n| image(format!("open/app{n}"))).collect();
    let good = image("team/app".to_owned());
    for image in &images {
        let layer = format!("*/{}/manifests/{}", image.repository, image.layer(0).0);
        origin.fault(Fault::status(500).on("*", &layer));
    }
    for image in &images {
        let path = format!("/v2/{}/manifests/{}", image.repository, image.layer(0).0);
        assert_eq!(status(&gateway, &path), 503);
    }
    assert_eq!(status(&gateway, &good.tag_path()), 200);
    for image in &images {
        assert_eq!(status(&gateway, &image.tag_path()), 200);
    }
}

/// A path that hangs is like one that fails, and other requests do not wait for it.
#[test]
fn hanging_path_opens_no_breaker() {
    let (origin, gateway) = scene();
    let bad = origin.push_image("open/app", "latest", &[random(1, 1000)]);
    let good = origin.push_image("team/app", "latest", &[random(2, 1000)]);
    origin.fault(Fault::Stall.on("*", &bad.tag_path()));
    assert_eq!(status(&gateway, &bad.tag_path()), 503);
    assert_eq!(status(&gateway, &good.tag_path()), 200);
}

/// The storage that a registry redirects to is not the registry.
#[test]
fn unreachable_storage_opens_no_breaker() {
    let (origin, gateway) = scene();
    let bad = origin.push_image("open/app", "latest", &[random(1, 1000)]);
    let good = origin.push_image("team/app", "latest", &[random(2, 1000)]);
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let nowhere = Fault::Redirect(307, format!("http://{closed}{{path}}"));
    origin.fault(nowhere.on("*", &bad.layer_path(0)));
    assert_eq!(status(&gateway, &bad.layer_path(0)), 503);
    assert_eq!(status(&gateway, &good.tag_path()), 200);
    assert_eq!(status(&gateway, &good.layer_path(0)), 200);
}

/// A token that is refused for one repository may be granted for another.
#[test]
fn failing_token_endpoint_opens_no_breaker() {
    let (origin, gateway) = scene();
    let bad = origin.push_image("open/app", "latest", &[random(1, 1000)]);
    let good = origin.push_image("team/app", "latest", &[random(2, 1000)]);
    origin.require(Auth::Bearer(Bearer::default()));
    let token = origin.fault(Fault::status(500).on("GET", "/token"));
    assert_eq!(status(&gateway, &bad.tag_path()), 503);
    origin.heal(token);
    assert_eq!(status(&gateway, &good.tag_path()), 200);
}

/// After an outage the gateway probes the host itself: requests for a failing path do not prolong the outage.
#[test]
fn failing_path_does_not_prolong_an_open_breaker() {
    let (mut origin, gateway) = scene();
    let bad = origin.push_image("open/app", "latest", &[random(1, 1000)]);
    let good = origin.push_image("team/app", "latest", &[random(2, 1000)]);
    origin.fault(Fault::status(500).on("*", &bad.tag_path()));
    origin.down();
    assert_eq!(status(&gateway, &good.tag_path()), 503);
    origin.up();
    until("the registry to be asked again", || {
        for _ in 0..20 {
            assert_eq!(status(&gateway, &bad.tag_path()), 503);
        }
        status(&gateway, &good.tag_path()) == 200
    });
}

/// A host that fails every request is sent few of them.
#[test]
fn host_failing_every_request_opens_the_breaker() {
    let (origin, gateway) = scene();
    origin.fault(Fault::status(500));
    assert_eq!(status(&gateway, "/v2/team/app/manifests/first"), 503);
    // The probe of the host runs after the response.
    origin.wait_for("GET", "/v2/", 1);
    until("the rest", || {
        gateway.log().contains("requests are held back")
    });
    origin.clear_requests();
    for n in 0..100 {
        let path = format!("/v2/team/app{n}/manifests/latest");
        assert_eq!(status(&gateway, &path), 503);
    }
    let asked = origin.count("*", "*/manifests/*");
    assert!(asked <= 9, "{asked} of 100 were asked upstream");
}

/// A request that cannot be sent is not the registry's failure.
#[test]
fn oversized_request_is_a_client_error() {
    let (origin, gateway) = scene();
    let good = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    // Percent-encoding makes it three times as long.
    let path = format!("/v2/team/app/tags/list?last={}", "!".repeat(62 << 10));
    let reply = get(gateway.url(1), None, &path);
    assert!(
        matches!(reply.status(), 400 | 414),
        "{} {}",
        reply.status(),
        reply.text()
    );
    assert_eq!(status(&gateway, &good.tag_path()), 200);
}
