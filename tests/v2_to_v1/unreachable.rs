//! A registry whose own v1 side cannot be reached: only images that the v1 side lacked before are served from v2, since
//! it may have the others.

use crate::v2_to_v1::image::{GZIP, file, gzip, push, tar};
use crate::v2_to_v1::{BY_TAG, Daemon, FALLS_BACK, OLD};
use testkit::gateway::Gateway;
use testkit::origin::Origin;
use testkit::v1::V1Registry;

#[test]
fn only_issued_v2_images_are_served_while_v1_is_down() {
    let rules = "access: {rules: [{users: [anonymous], repositories: [\"hosted/team/**\"], actions: [pull]}]}";
    // Ids belong to a repository, or to a public registry.
    for (keys, access) in [
        ("visibility: rules, push: true", rules),
        ("visibility: rules, push: false", rules),
        ("push: false", ""),
    ] {
        let (mut origin, registry) = (Origin::start(), V1Registry::start());
        let layer = gzip(&tar(&[file("modern", 1)]));
        for name in ["team/both", "team/modern", "team/other"] {
            push(&origin, name, Some("1"), "amd64", &[(GZIP, layer.clone())]);
        }
        registry.push_image("team/both", "1", &[b"old"]);
        let mut gateway = Gateway::start(&format!(
            "registries:\n- {{name: hosted, v1: \"{}\", v2: \"{}\", default: true, {keys}}}\n{access}\n",
            registry.url(),
            origin.url()
        ));
        let pull = |gateway: &Gateway, version, name| {
            let pulled = Daemon::new(version, gateway, None).pull(name, "1");
            pulled.map_err(|(step, status)| (step.to_owned(), status))
        };
        let whole = Ok(vec![layer.clone()]);
        // A read by a v2 client issues no v1 image id.
        let manifest = "/v2/team/other/manifests/1";
        let read = testkit::http::get(gateway.url(1), None, manifest);
        assert_eq!(read.status(), 200);
        assert_eq!(pull(&gateway, OLD[0], "team/modern"), whole);
        drop(registry);
        for act in ["v1 stopped", "both stopped", "restarted"] {
            match act {
                "both stopped" => origin.down(),
                "restarted" => gateway.restart(),
                _ => {}
            }
            for version in OLD.into_iter().chain([FALLS_BACK]).chain(BY_TAG) {
                let at = format!("{keys} {access} {act} {}", version.agent);
                assert!(pull(&gateway, version, "team/modern") == whole, "{at}");
                for name in ["team/both", "team/other"] {
                    let refused = Err(("images".to_owned(), 503));
                    assert_eq!(pull(&gateway, version, name), refused, "{at} {name}");
                }
            }
        }
    }
}
