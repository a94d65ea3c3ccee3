//! Buckets that fail or have wrong contents are ignored.

use std::time::{Duration, Instant};

use testkit::s3::Ill;
use testkit::{eventually_within, until};

use super::operators::counted;
use super::{BIG, READ_TIMEOUT, SMALL, contents, gateway, pull, scene, shared};

#[test]
fn bucket_failure_during_a_fill_loses_no_bytes() {
    for ill in [Ill::DiesAt(2 << 20), Ill::StallsAt(2 << 20)] {
        let (origin, image, s3, first) = scene(BIG);
        pull(&first, &image);
        shared(&s3, &image);
        origin.clear_requests();
        s3.set(ill.clone());
        let second = gateway(&origin, &s3.yaml());
        pull(&second, &image);
        assert_eq!(origin.count("GET", &image.layer_path(0)), 1, "{ill:?}");
        assert!(second.log().contains("the bucket fails"), "{ill:?}");
        let left = std::fs::read_dir(second.store().join("partials")).expect("a store");
        assert_eq!(left.count(), 0, "{ill:?}");
    }
}

#[test]
fn corrupt_bucket_body_is_never_served_and_is_overwritten() {
    let flip: fn(&mut Vec<u8>) = |bytes| bytes[0] ^= 1;
    let empty: fn(&mut Vec<u8>) = Vec::clear;
    let more: fn(&mut Vec<u8>) = |bytes| bytes.push(0);
    for (what, change) in [("other", flip), ("no", empty), ("more", more)] {
        let (origin, image, s3, first) = scene(SMALL);
        pull(&first, &image);
        shared(&s3, &image);
        origin.clear_requests();
        assert_eq!(s3.change("blobs/*", change), contents(&image).len());
        let second = gateway(&origin, &s3.yaml());
        pull(&second, &image);
        assert_eq!(origin.count("GET", "*/blobs/*"), 2, "{what} bytes");
        assert!(
            second.log().contains("the bucket has wrong bytes"),
            "{what}"
        );
        shared(&s3, &image);
    }
}

#[test]
fn failing_bucket_is_ignored() {
    let ills = [
        Ill::Down,
        Ill::Silent,
        Ill::Slow(Duration::from_secs(3)),
        Ill::Full,
        Ill::Refuses(403),
        // A bucket that does not exist.
        Ill::Refuses(404),
        Ill::Refuses(503),
    ];
    std::thread::scope(|scope| {
        for ill in ills {
            scope.spawn(move || {
                let (origin, image, s3, gateway) = scene(SMALL);
                s3.set(ill.clone());
                let started = Instant::now();
                pull(&gateway, &image);
                let took = started.elapsed();
                assert!(took < READ_TIMEOUT, "{ill:?}: {took:?}");
                assert_eq!(origin.count("GET", "*/blobs/*"), 2, "{ill:?}");
                until(&format!("{ill:?} is said"), || {
                    gateway.log().contains("the bucket fails")
                });
                assert!(!gateway.log().contains("AKIDSHARED"), "{ill:?}");
                if ill == Ill::Down {
                    // The writes are retried for a while: at least two of three uploads are dropped, since two run at a time.
                    eventually_within(Duration::from_secs(150), "two are given up", || {
                        (gateway.log().matches("not written to the bucket").count() >= 2)
                            .then_some(())
                    });
                    assert!(counted(&gateway, "uploads_dropped") >= 2);
                    until("what was learned is given up", || {
                        counted(&gateway, "records_dropped") > 0
                    });
                }
                if ill == Ill::Full {
                    // The bucket can still be read, and the remaining writes succeed once it accepts them.
                    s3.set(None);
                    shared(&s3, &image);
                }
            });
        }
    });
}

type Change<'a> = &'a dyn Fn(&str) -> String;

#[test]
fn invalid_bucket_records_are_rejected() {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let checked_at = |text: &str, at: u64| {
        let start = text.find("\"checked_at\":").expect("a time") + 13;
        let end = start
            + text[start..]
                .find(|c: char| !c.is_ascii_digit())
                .expect("an end");
        format!("{}{at}{}", &text[..start], &text[end..])
    };
    let (origin, image, s3, first) = scene(SMALL);
    pull(&first, &image);
    shared(&s3, &image);
    let good = |text: &str| text.to_owned();
    let cases: [(&str, Change<'_>, bool); 6] = [
        ("right", &good, true),
        (
            "from the future",
            &|text| checked_at(text, now + 3600),
            false,
        ),
        ("too old", &|text| checked_at(text, now - 9_000_000), false),
        (
            "of another name",
            &|text| text.replace("library/app", "library/other"),
            false,
        ),
        (
            "of another kind",
            &|text| text.replace("\"record\":{", "\"record\":{\"x\":1,"),
            false,
        ),
        ("no JSON", &|text| text[1..].to_owned(), false),
    ];
    let records = s3.keys("repositories/*");
    let originals: Vec<_> = records
        .iter()
        .map(|key| s3.object(key).expect("a record"))
        .collect();
    for (what, change, trusted) in cases {
        for (key, original) in records.iter().zip(&originals) {
            let text = String::from_utf8(original.clone()).expect("JSON");
            s3.put(key, change(&text).as_bytes());
        }
        origin.clear_requests();
        let second = gateway(&origin, &s3.yaml());
        pull(&second, &image);
        let heads = origin.count("HEAD", "*");
        assert_eq!(heads == 0, trusted, "{what}: {heads}");
        // The bytes are correct whatever the records say.
        assert_eq!(origin.count("GET", "*/blobs/*"), 0, "{what}");
    }
}
