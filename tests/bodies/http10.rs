//! HTTP/1.0 clients, such as some proxies: a body ends with its length or the connection, so a truncated body without a
//! length looks complete.

use crate::bodies::scene;
use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Reply};
use testkit::image::random;
use testkit::origin::{Fault, Origin};

fn ask(gateway: &Gateway, path: &str) -> Reply {
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.send(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"));
    raw.reply("GET")
}

#[test]
fn http10_blob_of_unknown_length_waits_for_the_fill() {
    let (origin, image, gateway) = scene(300_000);
    origin.fault(Fault::Chunked.on("GET", "*/blobs/*"));
    for _ in 0..2 {
        let reply = ask(&gateway, &image.layer_path(0));
        assert_eq!((reply.status(), reply.end.clone()), (200, End::Complete));
        assert_eq!(reply.header("transfer-encoding"), None);
        assert_eq!(reply.head.length(), Some(300_000));
        assert!(reply.body == image.layer(0).1);
    }
    assert_eq!(origin.count("GET", "*/blobs/*"), 1);
}

#[test]
fn http10_pass_through_without_length_is_refused() {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 300_000)]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", cache: false}}]\n",
        origin.url()
    ));
    assert!(ask(&gateway, &image.layer_path(0)).body == image.layer(0).1);
    origin.fault(Fault::Chunked.on("GET", "*/blobs/*"));
    let refused = ask(&gateway, &image.layer_path(0));
    assert_eq!(
        (refused.status(), refused.end.clone()),
        (505, End::Complete)
    );
    assert_eq!(refused.error_code().as_deref(), Some("UNSUPPORTED"));
    let status = refused.header("cache-status");
    assert_eq!(status, Some("roadstead; detail=refused"));
}
