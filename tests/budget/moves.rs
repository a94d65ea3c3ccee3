//! Tags that move while few pulls are left, or none.

use std::time::{SystemTime, UNIX_EPOCH};

use super::*;

/// The reserve of a limit of ten pulls.
const RESERVE: usize = 5;

#[test]
fn moved_tag_is_answered_stale_while_pulls_are_reserved() {
    let origin = hub(10);
    let gateway = gateway(&origin);
    let image = push(&origin, "app", 1);
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
    spend(&origin, &gateway, 4);
    assert_eq!(origin.pulls_left("anonymous"), RESERVE);
    let moved = push(&origin, "app", 2);
    for method in ["GET", "HEAD"] {
        let mut raw = Raw::connect(gateway.url(1), None);
        let reply = raw.exchange(method, &image.tag_path(), &[]);
        assert_eq!(digest(&reply), Some(&*image.digest), "{method}");
        assert_eq!(cache_status(&reply), "fwd=stale; detail=reserved");
        assert!(reply.header("warning").is_some() && reply.header("age").is_some());
    }
    let stale = "roadstead_stale_served_total{reason=\"reserved\"}";
    assert_eq!(metric(&gateway, stale), Some(2.0));
    assert_eq!(origin.count("GET", &moved.digest_path()), 0);
    // A tag that has not moved costs none, and what is not cached gets the last ones.
    origin.tag("library/app", "latest", &image.digest);
    let same = fetch(&gateway, &image.tag_path());
    assert_eq!(cache_status(&same), "fwd=stale; detail=revalidated");
    origin.tag("library/app", "latest", &moved.digest);
    spend(&origin, &gateway, RESERVE);
    assert_eq!(origin.pulls_left("anonymous"), 0);
    origin.renew_pulls();
    let followed = fetch(&gateway, &image.tag_path());
    assert_eq!(cache_status(&followed), "fwd=stale; stored; detail=moved");
    assert!(followed.body == moved.manifest);
    assert_eq!(origin.pull_totals().refused, 0);
}

#[test]
fn moved_index_is_followed_with_the_images_that_were_pulled() {
    let origin = hub(12);
    let gateway = gateway(&origin);
    let index = |seed| {
        let of =
            |platform: &str, seed| origin.push_image("library/app", platform, &[random(seed, 100)]);
        let (amd64, arm64) = (of("amd64", seed), of("arm64", seed + 1));
        let index = origin.push_index("library/app", "latest", &[&amd64, &arm64]);
        (index, amd64, arm64)
    };
    let (old, old_amd64, _) = index(1);
    for path in [old.tag_path(), old_amd64.digest_path()] {
        assert_eq!(fetch(&gateway, &path).status(), 200);
    }
    spend(&origin, &gateway, 4);
    let (new, new_amd64, new_arm64) = index(3);
    let count = |image: &Image| origin.count("GET", &image.digest_path());
    // The index may be fetched, its image may not: clients go on with the old one.
    assert_eq!(origin.pulls_left("anonymous"), RESERVE + 1);
    let reply = fetch(&gateway, &old.tag_path());
    assert_eq!(cache_status(&reply), "fwd=stale; detail=reserved");
    assert!(reply.body == old.manifest);
    assert_eq!((count(&new), count(&new_amd64)), (1, 0));
    assert_eq!(
        cache_status(&fetch(&gateway, &old_amd64.digest_path())),
        "hit"
    );
    origin.renew_pulls();
    let reply = fetch(&gateway, &old.tag_path());
    assert_eq!(cache_status(&reply), "fwd=stale; stored; detail=moved");
    assert!(reply.body == new.manifest);
    // Nothing is left when the client asks for the image.
    origin.fault(Fault::status(429).on("GET", "*/manifests/*"));
    let image = fetch(&gateway, &new_amd64.digest_path());
    assert_eq!(cache_status(&image), "hit");
    assert!(image.body == new_amd64.manifest);
    // The platform that nobody pulled was not fetched.
    let counts = (count(&new), count(&new_amd64), count(&new_arm64));
    assert_eq!(counts, (1, 1, 0));
}

/// An image becomes an index, and the reverse.
#[test]
fn tags_move_between_images_and_indexes() {
    let origin = hub(100);
    let gateway = gateway(&origin);
    let image = push(&origin, "app", 1);
    let [amd64, arm64] =
        ["amd64", "arm64"].map(|tag| origin.push_image("library/app", tag, &[random(2, 100)]));
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
    let index = origin.push_index("library/app", "latest", &[&amd64, &arm64]);
    assert!(fetch(&gateway, &image.tag_path()).body == index.manifest);
    assert_eq!(origin.count("GET", &amd64.digest_path()), 1, "the default");
    assert_eq!(origin.count("GET", &arm64.digest_path()), 0);
    origin.tag("library/app", "latest", &image.digest);
    assert!(fetch(&gateway, &image.tag_path()).body == image.manifest);
    assert_eq!(origin.pull_totals().pulls, 3);
}

#[test]
fn limited_registry_takes_no_tag_away() {
    for (is_stated, has_head) in [(false, true), (false, false), (true, true), (true, false)] {
        let case = format!("stated: {is_stated}, HEAD: {has_head}");
        let origin = Origin::start();
        origin.limit_pulls(quota(3, is_stated));
        if !has_head {
            origin.fault(Fault::status(405).on("HEAD", "*/manifests/*"));
        }
        let gateway = gateway(&origin);
        let image = push(&origin, "app", 1);
        assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
        spend(&origin, &gateway, 2);
        push(&origin, "app", 2);
        let mut raw = Raw::connect(gateway.url(1), None);
        for _ in 0..2 {
            for (method, path) in [
                ("GET", image.tag_path()),
                ("HEAD", image.tag_path()),
                ("GET", image.digest_path()),
            ] {
                let reply = raw.exchange(method, &path, &[]);
                assert_eq!(reply.status(), 200, "{case}: {method} {path}");
                assert_eq!(digest(&reply), Some(&*image.digest), "{case}");
            }
        }
        let new = push(&origin, "new", 3);
        for _ in 0..3 {
            let refused = raw.get(&new.tag_path());
            let error = (refused.status(), refused.error_code());
            assert_eq!(error, (429, Some("TOOMANYREQUESTS".into())), "{case}");
            let wait = refused.header("retry-after").expect("a wait");
            let wait: u64 = wait.parse().expect("seconds");
            assert!((1..=60).contains(&wait), "{case}: {wait}");
        }
        // It was asked, and then not again for a while.
        assert_eq!(origin.pull_totals().refused, 1, "{case}");
        // Tags that have not moved are confirmed all the while.
        if has_head {
            origin.tag("library/app", "latest", &image.digest);
            let same = raw.get(&image.tag_path());
            assert_eq!(cache_status(&same), "fwd=stale; detail=revalidated");
        }
    }
}

#[test]
fn tags_are_fresh_for_longer_while_few_pulls_are_left() {
    for (max_stale, last) in [
        ("7d", "detail=stretched"),
        ("2s", "fwd=stale; detail=revalidated"),
    ] {
        let origin = hub(10);
        let keys = format!("store: {{tag_ttl: 1s, max_stale: {max_stale}}}\n");
        let gateway = Gateway::mirror("docker.io", &origin.url(), &keys);
        let image = push(&origin, "app", 1);
        assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
        spend(&origin, &gateway, 9);
        until("the end of its own lifetime", || {
            let reply = fetch(&gateway, &image.tag_path());
            assert!(reply.body == image.manifest);
            cache_status(&reply).ends_with(last)
        });
        let heads = origin.count("HEAD", &image.tag_path());
        assert_eq!(heads, if max_stale == "7d" { 1 } else { 2 });
    }
}

/// A wall clock that jumps: the records of the store are from another day.
#[test]
fn clock_that_jumps_takes_no_tag_away() {
    const DAY: i64 = 86_400;
    // Set back by a day; set forward by six; and by eight, beyond `max_stale`.
    for (checked_ago, is_stale) in [(-DAY, true), (6 * DAY, true), (8 * DAY, false)] {
        let origin = hub(10);
        let more = "store: {tag_ttl: 1h}\n";
        let mut gateway = Gateway::mirror("docker.io", &origin.url(), more);
        let image = push(&origin, "app", 1);
        assert_eq!(fetch(&gateway, &image.tag_path()).status(), 200);
        spend(&origin, &gateway, 4);
        let moved = push(&origin, "app", 2);
        gateway.terminate();
        let tag = "repositories/docker.io/library/app/_tags/full/latest";
        let file = gateway.store().join(tag);
        let record = std::fs::read(&file).expect("a record");
        let mut record: Value = serde_json::from_slice(&record).expect("JSON");
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = i64::try_from(now.expect("after 1970").as_secs()).expect("small");
        record["checked_at"] = (now - checked_ago).into();
        std::fs::write(&file, record.to_string()).expect("writable");
        gateway.restart();
        let reply = fetch(&gateway, &image.tag_path());
        let (expected, left) = if is_stale {
            ("fwd=stale; detail=reserved", RESERVE)
        } else {
            // Nothing that old is served: it counts as not cached.
            ("fwd=stale; stored; detail=moved", RESERVE - 1)
        };
        assert_eq!(cache_status(&reply), expected, "{checked_ago}");
        assert_eq!(reply.body == moved.manifest, !is_stale);
        assert_eq!(origin.pulls_left("anonymous"), left);
    }
}
