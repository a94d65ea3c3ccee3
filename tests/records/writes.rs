//! Answers that were requested before a write are not stored after it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::image::random;
use testkit::origin::{Fault, Latch, MEDIA_MANIFEST, Origin};
use testkit::sha256;

use super::{TAG, ask, delete, head, is_hit, manifest, pushed, put, send};

/// Delays the response to the first `method` of `path`, whose content is that of its arrival, until after `meanwhile`.
fn held(
    origin: &Origin,
    gateway: &Gateway,
    (method, path): (&str, &str),
    meanwhile: impl FnOnce(),
) -> Reply {
    let latch = Latch::new();
    let fault = origin.fault(Fault::Hold(latch.clone()).on("*", path).times(1));
    let reply = std::thread::scope(|threads| {
        let request =
            threads.spawn(|| Raw::connect(gateway.url(1), None).exchange(method, path, &[]));
        latch.wait_reached(1);
        meanwhile();
        latch.release();
        request.join().expect("an answer")
    });
    origin.heal(fault);
    reply
}

#[test]
fn tag_response_from_before_a_push_does_not_undo_it() {
    let (origin, gateway) = pushed("tag_ttl: 1h");
    origin.push_manifest("team/app", Some("latest"), MEDIA_MANIFEST, manifest(0));
    let before = held(&origin, &gateway, ("GET", TAG), || {
        put(&gateway, TAG, &manifest(1));
        assert!(ask(&gateway, TAG).body == manifest(1));
    });
    assert_eq!(before.status(), 200);
    let after = ask(&gateway, TAG);
    assert!(after.body == manifest(1), "{}", after.text());
    assert!(is_hit(&after), "what was pushed stays known: {after:?}");
}

#[test]
fn push_keeps_other_tags_cached() {
    let (origin, gateway) = pushed("tag_ttl: 1h");
    origin.push_manifest("team/app", Some("latest"), MEDIA_MANIFEST, manifest(0));
    let reply = held(&origin, &gateway, ("GET", TAG), || {
        put(&gateway, "/v2/team/app/manifests/other", &manifest(1));
        put(&gateway, "/v2/team/more/manifests/latest", &manifest(2));
    });
    assert!(reply.body == manifest(0));
    let after = ask(&gateway, TAG);
    assert!(after.body == manifest(0));
    assert!(is_hit(&after), "{after:?}");
}

/// A read after the response to a push sees the pushed content or later content, whatever other clients read meanwhile.
#[test]
fn reads_after_a_push_see_the_new_content() {
    const MOVES: usize = 300;
    const READERS: usize = 4;
    let (origin, gateway) = pushed("tag_ttl: 10m");
    // Responses of different ages are in flight at once.
    origin.fault(Fault::Delay(Duration::from_millis(3)).on("HEAD", "*"));
    let (pushed, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let begun = AtomicUsize::new(0);
    put(&gateway, TAG, &manifest(0));
    let number = |reply: &Reply| -> usize {
        assert_eq!(reply.status(), 200, "{}", reply.text());
        let text = reply.text();
        let number = text
            .split("\"n\":\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next());
        number
            .and_then(|number| number.parse().ok())
            .expect("a number")
    };
    let check = |raw: &mut Raw| {
        let least = pushed.load(Ordering::SeqCst);
        let seen = number(&raw.get(TAG));
        assert!(seen >= least, "{seen} was read after {least} was pushed");
        let most = begun.load(Ordering::SeqCst);
        assert!(seen <= most, "{seen} was read before it was pushed");
    };
    std::thread::scope(|threads| {
        for _ in 0..READERS {
            threads.spawn(|| {
                let _done = Done(&done);
                let mut raw = Raw::connect(gateway.url(1), None);
                while !done.load(Ordering::SeqCst) {
                    check(&mut raw);
                }
            });
        }
        // The tag's record is dropped now and then, so that it is requested while it moves.
        threads.spawn(|| {
            let _done = Done(&done);
            while !done.load(Ordering::SeqCst) {
                send(&gateway, "DELETE", "/v2/team/app/manifests/latest", b"");
                send(
                    &gateway,
                    "PUT",
                    "/v2/team/app/manifests/other",
                    &manifest(0),
                );
            }
        });
        let _done = Done(&done);
        let mut raw = Raw::connect(gateway.url(1), None);
        for count in 1..=MOVES {
            begun.store(count, Ordering::SeqCst);
            put(&gateway, TAG, &manifest(count));
            pushed.store(count, Ordering::SeqCst);
            check(&mut raw);
        }
    });
}

/// Ends the other threads with this one, also after a panic.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn late_response_does_not_restore_deleted_content() {
    let (origin, gateway) = pushed("tag_ttl: 1h, link_ttl: 1h");
    let digest = origin.push_manifest("team/app", Some("latest"), MEDIA_MANIFEST, manifest(0));
    let by_digest = format!("/v2/team/app/manifests/{digest}");
    for path in [TAG, by_digest.as_str()] {
        origin.push_manifest("team/app", Some("latest"), MEDIA_MANIFEST, manifest(0));
        held(&origin, &gateway, ("GET", path), || {
            delete(&gateway, &by_digest);
        });
        for path in [TAG, by_digest.as_str()] {
            assert_eq!(ask(&gateway, path).status(), 404, "{path}");
            assert_eq!(head(&gateway, path).status(), 404, "{path}");
        }
    }
    let layer = random(1, 1000);
    let digest = origin.push_blob("team/app", layer.clone());
    let path = format!("/v2/team/app/blobs/{digest}");
    for method in ["HEAD", "GET"] {
        origin.push_blob("team/app", layer.clone());
        held(&origin, &gateway, (method, &path), || {
            delete(&gateway, &path);
        });
        assert_eq!(ask(&gateway, &path).status(), 404, "{method}");
    }
}

#[test]
fn late_404_does_not_hide_pushed_content() {
    let layer = random(1, 1000);
    let blob = format!("/v2/team/app/blobs/{}", sha256(&layer));
    let upload = format!("/v2/team/app/blobs/uploads/u?digest={}", sha256(&layer));
    let by_digest = format!("/v2/team/app/manifests/{}", sha256(&manifest(1)));
    let list = "/v2/team/app/tags/list";
    for (method, path) in [
        ("HEAD", blob.as_str()),
        ("GET", &blob),
        ("HEAD", &by_digest),
        ("GET", &by_digest),
        ("GET", TAG),
        ("GET", list),
    ] {
        let (origin, gateway) = pushed("tag_ttl: 1h, missing_ttl: 10m, link_ttl: 1h");
        let before = held(&origin, &gateway, (method, path), || {
            put(&gateway, &upload, &layer);
            put(&gateway, TAG, &manifest(1));
        });
        assert_eq!(before.status(), 404, "{path}");
        let after = ask(&gateway, path);
        assert_eq!(after.status(), 200, "{method} {path}: {}", after.text());
        // A tag that was not pushed meanwhile is known to be missing.
        let never = path.replace("team/app", "team/never");
        assert_eq!(ask(&gateway, &never).status(), 404);
        let count = origin.requests().len();
        assert_eq!(ask(&gateway, &never).status(), 404);
        assert_eq!(origin.requests().len(), count, "{path}");
    }
}

/// Only the registry knows which of two pushes it took last.
#[test]
fn registry_decides_between_concurrent_pushes() {
    let (origin, gateway) = pushed("tag_ttl: 1h");
    let latch = Latch::new();
    let fault = origin.fault(Fault::Hold(latch.clone()).on("PUT", TAG).times(1));
    std::thread::scope(|threads| {
        let first = threads.spawn(|| put(&gateway, TAG, &manifest(1)));
        latch.wait_reached(1);
        put(&gateway, TAG, &manifest(2));
        assert!(ask(&gateway, TAG).body == manifest(2));
        latch.release();
        first.join().expect("an answer");
    });
    origin.heal(fault);
    let after = ask(&gateway, TAG);
    assert!(after.body == manifest(2), "{}", after.text());
}
