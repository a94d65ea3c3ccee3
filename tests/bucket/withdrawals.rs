//! A withdrawn record is not accepted again, by its gateway or others, whatever happens meanwhile.

use testkit::http::Raw;

use super::*;

/// A gateway of a registry that takes pushes, whose tags are fresh for an hour.
fn pushed(origin: &Origin, s3: &S3) -> Gateway {
    Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, tag_ttl: 1h, link_ttl: 1h, visibility: public}}]\n\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, push, delete]}}]}}\n\
         store: {{min_free: 0B, {}}}\n",
        origin.url(),
        s3.yaml()
    ))
}

#[test]
fn withdrawal_during_a_bucket_outage_survives_a_kill() {
    let (origin, s3) = (Origin::start(), S3::start());
    origin.take_pushes();
    let image = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    let mut gateway = pushed(&origin, &s3);
    pull(&gateway, &image);
    shared(&s3, &image);
    let paths = [image.tag_path(), image.digest_path(), image.layer_path(0)];
    s3.set(Ill::Down);
    for path in &paths[1..] {
        let deleted = Raw::connect(gateway.url(1), None).exchange("DELETE", path, &[]);
        assert_eq!(deleted.status(), 202, "{path}");
    }
    gateway.kill();
    // It is killed once more before the bucket is back.
    gateway.restart();
    gateway.kill();
    s3.set(None);
    gateway.restart();
    for path in &paths {
        assert_eq!(ask(&gateway, path).status(), 404, "{path}");
    }
    until("the others know as well", || {
        let digest = image.digest.replace(':', "-");
        let layer = image.layer(0).0.replace(':', "-");
        [
            "_tags/full/latest".to_owned(),
            format!("_manifests/{digest}"),
            format!("_blobs/{layer}"),
        ]
        .iter()
        .all(|kind| s3.keys(&format!("repositories/*/{kind}")).is_empty())
    });
    let other = pushed(&origin, &s3);
    for path in &paths {
        assert_eq!(ask(&gateway, path).status(), 404, "{path}");
        assert_eq!(ask(&other, path).status(), 404, "{path}");
    }
    // Content that is pushed again is accepted again.
    let again = origin.push_image("library/app", "latest", &[random(1, SMALL)]);
    until("it is there again", || {
        ask(&gateway, &again.tag_path()).status() == 200
    });
    pull(&gateway, &again);
    shared(&s3, &again);
    origin.clear_requests();
    let third = pushed(&origin, &s3);
    pull(&third, &again);
    assert_eq!(origin.count("*", "*/manifests/*"), 0);
}
