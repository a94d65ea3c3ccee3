//! Alerts: conditions that only an operator can change are posted to webhooks.

use super::failures::waiting;
use super::*;
use std::time::{Duration, SystemTime};

/// A gateway for one registry, with a webhook for alerts.
fn alerting(origin: &Origin, hooks: &Origin, registry: &str, more: &str) -> Gateway {
    hooks.fault(Fault::status(200).on("POST", "*"));
    Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\"{registry}}}]\n\
         events: [{{url: \"{}/hook\", actions: [alert]}}]\n{more}",
        origin.url(),
        hooks.url()
    ))
}

/// The first alert.
#[track_caller]
fn alert(hooks: &Origin) -> Value {
    hooks.wait_for("POST", "/hook", 1);
    let event = event(&hooks.requests_for("POST", "/hook")[0]);
    assert_eq!(event["action"], "alert");
    assert_eq!(event.get("target"), None);
    event["alert"].clone()
}

#[test]
fn full_disk_is_an_alert() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let store = "store: {min_free: 99.99%}\n";
    let mut gateway = alerting(&origin, &hooks, "", store);
    for _ in 0..3 {
        get(gateway.url(1), None, &image.layer_path(0));
    }
    assert_eq!(alert(&hooks)["kind"], "disk_full");
    until("the delivery", || waiting(&gateway) == 0);
    // Its end records what was raised before.
    assert!(gateway.terminate().success());
    let alerts = hooks.count("POST", "/hook") + waiting(&gateway);
    assert_eq!(alerts, 1, "once an hour");
}

#[test]
fn refused_account_is_an_alert() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    let image = origin.push_image("library/app", "latest", &[random(1, 1000)]);
    let challenge = "Basic realm=\"upstream\"";
    origin.fault(Fault::status_with(401, "WWW-Authenticate", challenge));
    let account = ", credentials: {username: me, password: s3cret}, visibility: rules";
    let gateway = alerting(&origin, &hooks, account, RULES);
    assert_eq!(get(gateway.url(1), None, &image.tag_path()).status(), 403);
    let alert = alert(&hooks);
    assert_eq!(alert["kind"], "account_refused");
    assert_eq!(alert["subject"], "docker.io");
    assert!(
        !hooks.requests()[0]
            .body
            .windows(6)
            .any(|part| part == b"s3cret")
    );
}

#[test]
fn budget_that_is_nearly_gone_is_an_alert() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    origin.limit_pulls(Quota {
        limit: 10,
        window: Duration::from_secs(21_600),
        is_stated: true,
    });
    let gateway = alerting(&origin, &hooks, "", "");
    for number in 0..7 {
        assert_eq!(hooks.count("POST", "/hook"), usize::from(number > 4));
        let image = origin.push_image(&format!("library/app-{number}"), "latest", &[]);
        assert_eq!(get(gateway.url(1), None, &image.tag_path()).status(), 200);
        if number == 4 {
            hooks.wait_for("POST", "/hook", 1);
        }
    }
    let alert = alert(&hooks);
    assert_eq!(alert["kind"], "budget_low");
    assert_eq!(alert["subject"], "docker.io");
    let message = alert["message"].as_str().expect("a sentence");
    assert!(message.starts_with("5 of 10 pulls are left"), "{message}");
    assert_eq!(hooks.count("POST", "/hook"), 1, "once an hour");
}

#[test]
fn damage_on_disk_is_an_alert() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    let image = origin.push_image("library/app", "latest", &[random(1, 100_000)]);
    let admin = "admin: {address: \"unix:admin.sock\"}\n";
    let gateway = alerting(&origin, &hooks, "", admin);
    get(gateway.url(1), None, &image.layer_path(0));
    let digest = &image.layer(0).0;
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    let blobs = gateway.store().join("blobs").join(algorithm);
    let path = blobs.join(&hex[..2]).join(hex);
    until("the blob", || path.exists());
    let mut bytes = std::fs::read(&path).expect("a blob");
    bytes[50_000] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let verified = gateway.roadstead(&["verify"]);
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    let alert = alert(&hooks);
    assert_eq!(alert["kind"], "damage_found");
    assert_eq!(alert["subject"], **digest);
}

#[test]
fn certificate_that_expires_soon_is_an_alert() {
    let (origin, hooks) = (Origin::start(), Origin::start());
    let folder = testkit::temp_dir();
    let (certificate, key) = (
        folder.path().join("leaf.pem"),
        folder.path().join("leaf.key"),
    );
    let pair = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = (SystemTime::now() + Duration::from_secs(86_400)).into();
    let leaf = params.self_signed(&pair).expect("a certificate");
    std::fs::write(&certificate, leaf.pem()).expect("writable");
    std::fs::write(&key, pair.serialize_pem()).expect("writable");
    let listen = format!(
        "listen: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{{certificate: {}, key: {}}}]}}}}]\n",
        certificate.display(),
        key.display()
    );
    let _gateway = alerting(&origin, &hooks, "", &listen);
    let alert = alert(&hooks);
    assert_eq!(alert["kind"], "certificate_expires");
    assert_eq!(alert["subject"], certificate.display().to_string());
}
