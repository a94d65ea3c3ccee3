//! `ratelimit-limit`, `ratelimit-remaining`, `ratelimit-reset` and `Date`, a line each: what is read of them is bounded, and
//! nothing is read without the pulls that are left.

#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use oci::rate_limit::{MAX_WINDOW, RateLimit};

const NAMES: [&str; 4] = [
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "date",
];

fuzz_target!(|text: &str| {
    let mut headers = HeaderMap::new();
    for (name, line) in NAMES.into_iter().zip(text.split('\n')) {
        if let (false, Ok(value)) = (line.is_empty(), HeaderValue::from_str(line)) {
            headers.append(name, value);
        }
    }
    let Some(read) = RateLimit::of(&headers) else {
        return;
    };
    assert!(
        read.limit
            .is_none_or(|limit| limit > 0 && read.remaining <= limit)
    );
    let mut times = read.window.into_iter().chain(read.reset);
    assert!(times.all(|time| time <= MAX_WINDOW));
    assert!(read.window.is_none_or(|window| !window.is_zero()));
    // As Docker Hub would write it, it is read alike.
    let mut again = HeaderMap::new();
    let window = read
        .window
        .map_or(String::new(), |window| format!(";w={}", window.as_secs()));
    let fields = [
        (NAMES[0], read.limit.map(|limit| format!("{limit}{window}"))),
        (NAMES[1], Some(format!("{}{window}", read.remaining))),
        (
            NAMES[2],
            read.reset.map(|reset| reset.as_secs().to_string()),
        ),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            again.insert(name, value.parse().expect("a value"));
        }
    }
    assert_eq!(RateLimit::of(&again), Some(read));
    headers.remove("ratelimit-remaining");
    assert_eq!(RateLimit::of(&headers), None);
});
