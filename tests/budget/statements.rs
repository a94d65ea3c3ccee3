//! What registries say of the pulls that are left: nonsense stops no pull, and operators see what is understood.

use super::*;

#[test]
fn nonsense_stops_no_pull() {
    const HUGE: &str = "18446744073709551615";
    const TOO_LARGE: &str = "100000000000000000000000";
    for (limit, remaining, reset, follows) in [
        ("", "", "", true),
        ("100;w=21600", "", "", true),
        ("some", "none", "soon", true),
        ("-100;w=-1", "-5", "-1", true),
        ("100", TOO_LARGE, TOO_LARGE, true),
        (HUGE, HUGE, HUGE, true),
        ("0", "0", "0", true),
        ("0;w=0", "0;w=0", "", true),
        ("100;w=60", "1000;w=60", "", true),
        // All are allowed again already.
        ("100", "0", "0", true),
        ("100;w=0", "100", "", true),
        ("100;w=18446744073709551615", "0", HUGE, false),
        ("100;w=21600", "20;w=1", "", false),
        ("100;w=21600", "20", "99999999999", false),
    ] {
        let case = format!("{limit} {remaining} {reset}");
        let origin = Origin::start();
        for (name, value) in [
            ("ratelimit-limit", limit),
            ("ratelimit-remaining", remaining),
            ("ratelimit-reset", reset),
        ] {
            if !value.is_empty() {
                origin.fault(Fault::header(name, value));
            }
        }
        let gateway = gateway(&origin);
        let image = push(&origin, "app", 1);
        assert!(
            fetch(&gateway, &image.tag_path()).body == image.manifest,
            "{case}"
        );
        let moved = push(&origin, "app", 2);
        let reply = fetch(&gateway, &image.tag_path());
        let expected = if follows { &moved } else { &image };
        assert!(reply.body == expected.manifest, "{case}: {reply:?}");
        let new = push(&origin, "new", 3);
        assert_eq!(fetch(&gateway, &new.tag_path()).status(), 200, "{case}");
        // Operators see numbers or nothing.
        let rate_limit = &registry(&gateway)["rate_limit"];
        assert!(
            rate_limit.is_null() || rate_limit["remaining"].is_u64(),
            "{case}: {rate_limit}"
        );
    }
}

#[test]
fn pulls_are_shown_per_registry_and_account() {
    let origin = hub(100);
    let gateway = gateway(&origin);
    assert!(registry(&gateway)["rate_limit"].is_null());
    spend(&origin, &gateway, 3);
    let seen = registry(&gateway);
    let account = &seen["accounts"][0];
    assert_eq!(seen["accounts"].as_array().map(Vec::len), Some(1));
    assert!(account["name"].is_null() && account["refused"] == false);
    for rate_limit in [&seen["rate_limit"], &account["rate_limit"]] {
        assert_eq!(rate_limit["limit"], 100);
        assert_eq!(rate_limit["remaining"], 97);
        assert_eq!(rate_limit["window_seconds"], 6 * HOURS);
        assert_eq!(rate_limit["source"], "anonymous");
        assert!(rate_limit["retry_at"].is_null());
    }
    let labels = "{account=\"anonymous\",registry=\"docker.io\"}";
    let gauge = |name: &str| metric(&gateway, &format!("roadstead_ratelimit_{name}{labels}"));
    assert_eq!(
        (gauge("remaining"), gauge("limit")),
        (Some(97.0), Some(100.0))
    );
}

#[test]
fn numbers_of_other_hosts_are_not_the_registrys() {
    let origin = Origin::start();
    let storage = Origin::start_on(std::net::Ipv4Addr::new(127, 0, 0, 9));
    let image = push(&origin, "app", 1);
    storage.push_blob(&image.repository, image.layer(0).1.clone());
    let elsewhere = format!("{}{{path}}", storage.url());
    origin.fault(Fault::Redirect(307, elsewhere).on("GET", "*/blobs/*"));
    for (name, value) in [("ratelimit-limit", "100"), ("ratelimit-remaining", "0")] {
        storage.fault(Fault::header(name, value));
    }
    let gateway = gateway(&origin);
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
    assert!(fetch(&gateway, &image.layer_path(0)).body == image.layer(0).1);
    assert_eq!(storage.count("GET", "*/blobs/*"), 1);
    assert!(registry(&gateway)["rate_limit"].is_null());
}
