//! v1 clients, to which the gateway serves v2 images.

use super::*;
use crate::v1::versions::OLD;
use crate::v2_to_v1::image::{GZIP, file, gzip, push, tar};
use testkit::http::get;

#[test]
fn v1_clients_are_gated() {
    let origin = Origin::start();
    let layer = |seed| (GZIP, gzip(&tar(&[file("a", seed)])));
    push(
        &origin,
        "team/app",
        Some("1.0"),
        "amd64",
        &[layer(1), layer(2)],
    );
    push(
        &origin,
        "team/app",
        Some("2.0-rc1"),
        "amd64",
        &[layer(1), layer(3)],
    );
    push(&origin, "team/evil", Some("1.0"), "amd64", &[layer(4)]);
    let yaml = |gate: &str| {
        format!(
            "registries:\n- {{name: up.test, v2: \"{}\", bridge: true, default: true, tag_ttl: 1h{gate}}}\n\
             admin: {{address: off, metrics: \"127.0.0.1:0\"}}\n",
            origin.url()
        )
    };
    // The ids of all images are known to the client, and to the gateway, from before.
    let mut gateway = Gateway::start(&yaml(""));
    let ask = |gateway: &Gateway, path: &str| {
        let headers = [("User-Agent", OLD[4].agent)];
        Raw::connect(gateway.url(1), None).exchange("GET", path, &headers)
    };
    let json = |reply: &Reply| -> Value { serde_json::from_slice(&reply.body).expect("JSON") };
    let ancestry = |gateway: &Gateway, name: &str, tag: &str| -> Vec<String> {
        let id = json(&ask(
            gateway,
            &format!("/v1/repositories/{name}/tags/{tag}"),
        ));
        let id = id.as_str().expect("an id");
        let ids = json(&ask(gateway, &format!("/v1/images/{id}/ancestry")));
        serde_json::from_value(ids).expect("ids")
    };
    let good = ancestry(&gateway, "team/app", "1.0");
    let rc = ancestry(&gateway, "team/app", "2.0-rc1");
    let evil = ancestry(&gateway, "team/evil", "1.0");
    for id in [&good[0], &rc[0], &evil[0]] {
        assert_eq!(
            ask(&gateway, &format!("/v1/images/{id}/layer")).status(),
            200
        );
    }
    gateway.restart_with(&yaml(", gate: {deny: [team/evil, \"**:*-rc*\"]}"));
    assert_eq!(
        ask(&gateway, "/v1/repositories/team/evil/images").status(),
        403
    );
    assert_eq!(
        ask(&gateway, "/v1/repositories/team/evil/tags").status(),
        403
    );
    assert_eq!(
        ask(&gateway, "/v1/repositories/team/app/tags/2.0-rc1").status(),
        403
    );
    let tags = json(&ask(&gateway, "/v1/repositories/team/app/tags"));
    assert_eq!(tags, json!({"1.0": good[0]}));
    for part in ["ancestry", "json", "layer"] {
        for (id, status) in [
            (&rc[0], 403),
            (&evil[0], 403),
            (&good[0], 200),
            (&good[1], 200),
        ] {
            let path = format!("/v1/images/{id}/{part}");
            assert_eq!(ask(&gateway, &path).status(), status, "{path}");
        }
    }
    let metrics = get(gateway.operators("admin.metrics"), None, "/metrics").text();
    let denials =
        "roadstead_gate_denials_total{mode=\"enforce\",registry=\"up.test\",rule=\"deny\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(denials));
    assert_eq!(counted, Some("9"));
}
