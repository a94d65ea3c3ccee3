//! The bucket for operators: metrics, readiness, and purges.

use super::*;

/// A bucket metric in `/metrics`; `None` if it is absent.
fn metric(gateway: &Gateway, name: &str) -> Option<u64> {
    let text = get(gateway.operators("admin.metrics"), None, "/metrics").text();
    let start = format!("roadstead_bucket_{name}_total ");
    let value = text.lines().find_map(|line| line.strip_prefix(&start));
    value.map(|value| value.parse().expect("a count"))
}

#[track_caller]
pub fn counted(gateway: &Gateway, name: &str) -> u64 {
    metric(gateway, name).unwrap_or_else(|| panic!("nothing is said of {name}"))
}

const NAMES: [&str; 8] = [
    "hits",
    "misses",
    "failures",
    "verify_failures",
    "uploads",
    "uploads_dropped",
    "records_dropped",
    "lease_timeouts",
];

#[test]
fn bucket_traffic_is_counted() {
    let (origin, image, s3, first) = scene(SMALL);
    for name in NAMES {
        assert_eq!(metric(&first, name), Some(0), "{name}");
    }
    pull(&first, &image);
    shared(&s3, &image);
    until("three are written", || counted(&first, "uploads") == 3);
    assert!(counted(&first, "misses") >= 4);
    assert_eq!(counted(&first, "hits"), 0);
    let second = gateway(&origin, &s3.yaml());
    pull(&second, &image);
    // The pointer, the manifest and its link, two blobs and their links.
    assert_eq!(counted(&second, "hits"), 7);
    assert_eq!(counted(&second, "misses"), 0);
    s3.change("blobs/*", |bytes| bytes[0] ^= 1);
    let third = gateway(&origin, &s3.yaml());
    pull(&third, &image);
    assert_eq!(counted(&third, "verify_failures"), 3);
    for gateway in [&first, &second, &third] {
        assert_eq!(counted(gateway, "failures"), 0);
    }
    s3.set(Ill::Down);
    let fourth = gateway(&origin, &s3.yaml());
    pull(&fourth, &image);
    assert!(counted(&fourth, "failures") > 0);

    let output = second.roadstead(&["stats"]);
    let stats = String::from_utf8(output.stdout).expect("UTF-8");
    let line = "\nbucket     7 hits, 0 misses; 0 written, 0 dropped\n";
    assert!(stats.contains(line), "{stats}");
    // Without a bucket it has no metrics.
    let without = gateway(&origin, "tag_ttl: 1h");
    pull(&without, &image);
    for name in NAMES {
        assert_eq!(metric(&without, name), None, "{name}");
    }
    let output = without.roadstead(&["stats"]);
    let stats = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(
        !stats.contains("bucket") && stats.contains("store "),
        "{stats}"
    );
}

#[test]
fn gateway_is_ready_while_the_bucket_is_down() {
    for ill in [Ill::Down, Ill::Silent, Ill::Refuses(503)] {
        let (_origin, image, s3, gateway) = scene(SMALL);
        s3.set(ill.clone());
        pull(&gateway, &image);
        assert!(counted(&gateway, "failures") > 0, "{ill:?}");
        let ready = get(gateway.operators("admin.metrics"), None, "/readyz");
        assert_eq!(
            (ready.status(), &*ready.text()),
            (200, "ready\n"),
            "{ill:?}"
        );
    }
}

/// The recipe's lifecycle rules cover everything that a pull writes to the bucket.
#[test]
fn lifecycle_recipe_matches_the_keys() {
    let readme = include_str!("../../docs/recipes/bucket.md");
    let blocks = readme.split("```json\n").skip(1);
    let mut blocks = blocks.filter_map(|rest| rest.split_once("\n```").map(|(block, _)| block));
    let recipe = blocks.find(|block| block.contains("AbortIncompleteMultipartUpload"));
    let recipe: serde_json::Value = serde_json::from_str(recipe.expect("a recipe")).expect("JSON");
    let rules = recipe["Rules"].as_array().expect("rules").iter();
    let prefix = |rule: &serde_json::Value| {
        let prefix = rule["Filter"]["Prefix"].as_str().expect("a prefix");
        let below = prefix
            .strip_prefix("tier/")
            .expect("the prefix of the tests");
        format!("{below}*")
    };
    let (_origin, image, s3, gateway) = scene(BIG);
    pull(&gateway, &image);
    shared(&s3, &image);
    let puts = |pattern: &str| s3.count("PUT", pattern);
    let mut expiring = 0;
    for rule in rules {
        assert!(puts(&prefix(rule)) > 0, "{rule}");
        if !rule["Expiration"].is_null() {
            expiring += puts(&prefix(rule));
        }
    }
    assert_eq!(
        puts("*"),
        expiring,
        "everything that is written is forgotten"
    );
}

#[track_caller]
fn purge(gateway: &Gateway, target: &str) -> String {
    let output = gateway.roadstead(&["purge", target]);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn purge_withdraws_shared_records() {
    let (origin, image, s3, first) = scene(SMALL);
    pull(&first, &image);
    shared(&s3, &image);
    purge(&first, "library/app");
    until("no record of it is left", || {
        s3.keys("repositories/*").is_empty()
    });
    // The other gateways ask the upstream again; the bytes are unchanged.
    origin.clear_requests();
    pull(&gateway(&origin, &s3.yaml()), &image);
    assert_eq!(origin.count("HEAD", &image.tag_path()), 1);
    assert_eq!(origin.count("GET", "*/blobs/*"), 0);
}

#[test]
fn bucket_records_are_rejected_after_a_purge() {
    let (origin, image, s3, first) = scene(SMALL);
    pull(&first, &image);
    shared(&s3, &image);
    let second = gateway(&origin, &s3.yaml());
    assert_eq!(purge(&second, "library/app"), "nothing matches\n");
    origin.clear_requests();
    pull(&second, &image);
    assert_eq!(origin.count("HEAD", &image.tag_path()), 1);
    assert_eq!(origin.count("GET", "*/blobs/*"), 0);
}

#[test]
fn digest_purged_everywhere_leaves_the_bucket() {
    let (origin, image, s3, first) = scene(SMALL);
    pull(&first, &image);
    shared(&s3, &image);
    let (digest, bytes) = image.layer(0);
    purge(&first, digest);
    until("it is gone", || s3.object(&blob_key(digest)).is_none());
    origin.clear_requests();
    let path = image.layer_path(0);
    assert!(ask(&first, &path).body == *bytes);
    assert_eq!(origin.count("GET", &path), 1);
}
