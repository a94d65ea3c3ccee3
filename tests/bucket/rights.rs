//! Records are shared only between gateways that ask with the same account.

use testkit::http::Raw;
use testkit::origin::Auth;

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

#[test]
fn shared_bucket_does_not_widen_rights() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/secret", "latest", &[random(1, SMALL)]);
    origin.require(Auth::basic("me", "hunter3"));
    let with = |credentials: &str| {
        Gateway::start(&format!(
            "registries: [{{name: docker.io, v2: \"{}\", visibility: rules{credentials}}}]\n\
             access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull]}}]}}\n\
             store: {{min_free: 0B, {}}}\n",
            origin.url(),
            s3.yaml()
        ))
    };
    let me = ", credentials: {username: me, password: hunter3}";
    let first = with(me);
    pull(&first, &image);
    shared(&s3, &image);
    origin.clear_requests();
    // The same account: its records apply.
    let same = with(me);
    pull(&same, &image);
    assert_eq!(origin.requests().len(), 0);
    // Without an account, or with another password, the upstream decides.
    for credentials in ["", ", credentials: {username: me, password: other}"] {
        let other = with(credentials);
        for path in [image.tag_path(), image.digest_path(), image.layer_path(0)] {
            let refused = ask(&other, &path).status();
            assert!(
                matches!(refused, 401 | 403),
                "{credentials} {path}: {refused}"
            );
        }
    }
    let keys = s3.keys("*").join(" ");
    assert!(!keys.contains("hunter3"), "{keys}");
}

#[test]
fn public_repository_record_is_shared() {
    let (origin, s3) = (Origin::start(), S3::start());
    let image = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    let start = || {
        Gateway::start(&format!(
            "registries: [{{name: docker.io, v2: \"{}\", visibility: public, credentials: {{username: me, password: hunter3}}}}]\n\
             store: {{min_free: 0B, {}}}\n",
            origin.url(),
            s3.yaml()
        ))
    };
    let first = start();
    pull(&first, &image);
    shared(&s3, &image);
    until("it is shared", || {
        !s3.keys("repositories/*/_public").is_empty()
    });
    origin.clear_requests();
    pull(&start(), &image);
    assert_eq!(origin.requests().len(), 0, "{:?}", origin.requests());
    // Without that record public access is checked again.
    s3.remove(&s3.keys("repositories/*/_public").remove(0));
    pull(&start(), &image);
    assert_eq!(origin.requests().len(), 1, "{:?}", origin.requests());
}
