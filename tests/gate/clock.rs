//! `min_age` and a clock that is set while the gateway runs.

use super::*;
use testkit::image::random;
use testkit::real::{fake_clock, found};

#[test]
fn setting_the_clock_does_not_release_a_tag() {
    let Some(library) = found(fake_clock()) else {
        return;
    };
    let folder = testkit::temp_dir();
    let clock = folder.path().join("clock");
    let set = |offset: &str| std::fs::write(&clock, offset).expect("writable");
    set("+0");
    let origin = Origin::start();
    let environment = [
        ("LD_PRELOAD", library.to_str().expect("UTF-8")),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().expect("UTF-8")),
        ("FAKETIME_NO_CACHE", "1"),
        // A steady clock is one that nobody sets.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ];
    let gateway = Gateway::start_with(&yaml(&origin, "min_age: 3d", ""), &environment);
    let scene = Scene { origin, gateway };
    let old = scene
        .origin
        .push_image("library/app", "latest", &[random(1, 1000)]);
    scene.pull(&old);
    let new = scene
        .origin
        .push_image("library/app", "latest", &[random(2, 1000)]);
    let year = || {
        let date = scene.get("/v2/").header("date").expect("a date").to_owned();
        date.split(' ').nth(3).expect("a year").to_owned()
    };
    let now = year();
    for offset in ["+0", "+1000d", "-1000d", "+5000d", "+0"] {
        set(offset);
        assert_eq!(year() == now, offset == "+0", "{offset}: the clock is set");
        let reply = scene.get(&new.tag_path());
        assert_eq!(digest(&reply), old.digest, "{offset}");
        assert!(reply.header("warning").is_some(), "{offset}: {reply:?}");
        scene.assert_denied("min_age", &content(&new));
    }
}
