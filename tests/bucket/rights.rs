//! Records are shared only between gateways that ask with the same account.

use super::*;

/// Ann and Bob have logins that their registry knows; Bob may not read Ann's repository.
const ANN: &str = "Bearer ann-s3cret";
const BOB: &str = "Bearer bob-s3cret";

#[test]
fn caller_links_are_never_shared() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("team/app", "latest", &[random(1, SMALL)]);
    origin.require(Auth::Holders(vec![(ANN, vec!["team/app"]), (BOB, vec![])]));
    let start = || {
        Gateway::start(&format!(
            "registries: [{{name: theirs, v2: \"{}\", hosts: [theirs.example], visibility: caller}}]\n\
             listen: [{{address: \"127.0.0.1:0\"}}, {{address: \"127.0.0.1:0\", tls: off}}]\n\
             store: {{min_free: 0B, {}}}\n",
            origin.url(),
            s3.yaml()
        ))
    };
    let ask = |gateway: &Gateway, path: &str, login: &str| {
        let headers = [("Host", "theirs.example"), ("Authorization", login)];
        Raw::connect(gateway.url(1), None).exchange("GET", path, &headers)
    };
    let first = start();
    let paths = [
        image.tag_path(),
        image.digest_path(),
        image.blob_path(0),
        image.layer_path(0),
    ];
    for path in &paths {
        assert_eq!(ask(&first, path, ANN).status(), 200, "{path}");
    }
    until("its bytes are shared", || {
        first.log().matches("written to the bucket").count() == 3
    });
    origin.clear_requests();
    let second = start();
    for path in &paths {
        // That registry hides content from callers without access.
        assert_eq!(ask(&second, path, BOB).status(), 404, "{path}");
        let reply = ask(&second, path, ANN);
        assert!(reply.status() == 200 && reply.is_complete(), "{path}");
    }
    // The registry was asked for both, and sent no bytes.
    assert!(origin.count("HEAD", &image.tag_path()) >= 2);
    assert_eq!(origin.count("GET", "*/blobs/*"), 0);
    drop((first, second));
    assert_eq!(s3.keys("repositories/*"), [""; 0]);
    for put in ["repositories/*", "*/theirs/*"] {
        assert_eq!((s3.count("PUT", put), s3.count("GET", put)), (0, 0));
    }
}
