//! Mounts that name no source (distribution-spec, "Mounting a blob from another repository").

use crate::uploads::{Place, push};
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::real::{Registry, found};
use testkit::sha256;

#[test]
fn mount_without_source_finds_a_readable_one() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let place = Place::of(&registry.url());
    let own = place.push("mine/b", &random(1, 10_000));
    let mount = |name: &str, digest: &str| {
        let path = format!("/v2/{name}/blobs/uploads/?mount={digest}");
        place.send("pusher", "POST", &path, &[], b"")
    };
    let mounted = mount("mine/c", &own);
    assert_eq!(mounted.status(), 201, "{mounted:?}");
    assert_eq!(
        place
            .get("pusher", &format!("/v2/mine/c/blobs/{own}"))
            .status(),
        200
    );
    // Content that only others may read is not found, though its bytes are cached.
    let secret = push(&registry.url(), None, "secret/app", &random(2, 10_000));
    assert_eq!(
        place
            .get("reader", &format!("/v2/secret/app/blobs/{secret}"))
            .status(),
        200
    );
    let begun = mount("mine/c", &secret);
    assert_eq!(begun.status(), 202, "{begun:?}");
    assert_eq!(
        place
            .get("pusher", &format!("/v2/mine/c/blobs/{secret}"))
            .status(),
        404
    );
    // Nor is absent content.
    assert_eq!(mount("mine/c", &sha256(b"nothing")).status(), 202);
}

/// The registry gets no request that the caller was not checked for.
#[test]
fn mount_response_names_the_found_source_only() {
    let origin = Origin::start();
    let place = Place::of(&origin.url());
    let bytes = random(1, 1000);
    let digest = sha256(&bytes);
    origin.push_blob("secret/app", bytes.clone());
    assert_eq!(
        place
            .get("reader", &format!("/v2/secret/app/blobs/{digest}"))
            .status(),
        200
    );
    origin.fault(Fault::status_with(202, "Location", "/v2/mine/a/blobs/uploads/u").on("POST", "*"));
    let mount = format!("/v2/mine/a/blobs/uploads/?mount={digest}");
    let asked = || {
        origin
            .requests_for("POST", "*")
            .pop()
            .expect("a request")
            .query
    };
    assert_eq!(place.send("pusher", "POST", &mount, &[], b"").status(), 202);
    assert_eq!(asked(), "");
    origin.push_blob("mine/b", bytes);
    assert_eq!(
        place
            .get("pusher", &format!("/v2/mine/b/blobs/{digest}"))
            .status(),
        200
    );
    assert_eq!(place.send("pusher", "POST", &mount, &[], b"").status(), 202);
    let expected = format!("mount={}&from=mine%2Fb", digest.replace(':', "%3A"));
    assert_eq!(asked(), expected);
    // With `origin`, `from` is a repository of another registry: it is ignored, and a source in this registry is found.
    let copied = format!("{mount}&from=mine/b&origin=index.docker.io");
    assert_eq!(
        place.send("pusher", "POST", &copied, &[], b"").status(),
        202
    );
    assert_eq!(asked(), expected, "found here all the same");
}
