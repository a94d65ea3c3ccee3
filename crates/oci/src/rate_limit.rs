//! What a registry says of the pulls that it allows: `ratelimit-limit`, `ratelimit-remaining` and `ratelimit-reset`
//! (Docker Hub's documentation; draft-ietf-httpapi-ratelimit-headers-03).
//!
//! The fields are hints. One that makes no sense counts as absent, so that it can stop no pull, and no number in them is large
//! enough to overflow a time.

use std::time::Duration;

use http::{HeaderMap, header};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

/// The longest window, and the longest time until a reset: larger numbers are points in time, or nonsense.
pub const MAX_WINDOW: Duration = Duration::from_secs(31 * 86_400);

/// A statement of the pulls that a registry allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Of how many; at least 1, and not less than what is left.
    pub limit: Option<u64>,
    /// How many are left.
    pub remaining: u64,
    /// Within this time: from 1 s to [`MAX_WINDOW`].
    pub window: Option<Duration>,
    /// Until all are allowed again: at most [`MAX_WINDOW`].
    pub reset: Option<Duration>,
}

impl RateLimit {
    /// The statement of a response; `None` if it does not say how many pulls are left.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let stated = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (remaining, limit) = (stated("ratelimit-remaining"), stated("ratelimit-limit"));
        let limit_window = limit.and_then(window);
        let limit = limit.and_then(count).filter(|limit| *limit > 0);
        let left = remaining.and_then(count)?;
        Some(Self {
            limit,
            remaining: left.min(limit.unwrap_or(u64::MAX)),
            window: remaining.and_then(window).or(limit_window),
            reset: stated("ratelimit-reset").and_then(|value| reset(value, headers)),
        })
    }
}

/// `100` of `100;w=21600`, and of `100, 100;w=21600, 1000;w=86400`: the first quota is the one that applies.
fn count(value: &str) -> Option<u64> {
    number(value.split([',', ';']).next()?)
}

/// The window of the first quota that has one: `21600` of `100;w=21600`.
fn window(value: &str) -> Option<Duration> {
    let mut parameters = value.split([',', ';']).map(str::trim);
    let seconds = parameters.find_map(|parameter| parameter.strip_prefix("w="))?;
    let window = Duration::from_secs(number(seconds)?);
    (!window.is_zero()).then(|| window.min(MAX_WINDOW))
}

/// Seconds, or a point in time in seconds since 1970, which is compared with the response's own `Date`: the clock of this
/// machine may be wrong.
fn reset(value: &str, headers: &HeaderMap) -> Option<Duration> {
    let seconds = count(value)?;
    let stated = Duration::from_secs(seconds);
    if stated <= MAX_WINDOW {
        return Some(stated);
    }
    let date = headers.get(header::DATE)?.to_str().ok()?;
    let date = OffsetDateTime::parse(date, &Rfc2822).ok()?;
    let date = u64::try_from(date.unix_timestamp()).ok()?;
    let left = Duration::from_secs(seconds.saturating_sub(date));
    (left <= MAX_WINDOW).then_some(left)
}

/// A whole number without a sign; spaces around it do not count.
fn number(text: &str) -> Option<u64> {
    let digits = text.trim();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// The statement of a response with these values of limit, remaining and reset; an empty one is absent.
    fn read(limit: &str, remaining: &str, reset: &str) -> Option<RateLimit> {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("ratelimit-limit", limit),
            ("ratelimit-remaining", remaining),
            ("ratelimit-reset", reset),
            ("date", "Thu, 01 Jan 2026 00:00:00 GMT"),
        ] {
            if let (false, Ok(value)) = (value.is_empty(), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        RateLimit::of(&headers)
    }

    #[test]
    fn counts_and_windows() {
        for (limit, remaining, expected) in [
            // Docker Hub.
            (
                "100;w=21600",
                "20;w=21600",
                Some((Some(100), 20, Some(21_600))),
            ),
            ("", "76;w=21600", Some((None, 76, Some(21_600)))),
            ("100;w=60", "20", Some((Some(100), 20, Some(60)))),
            // The draft: the quota that applies, then all of them.
            (
                "100, 100;w=60, 5000;w=3600",
                "7",
                Some((Some(100), 7, Some(60))),
            ),
            (
                " 100 ; w=60;comment=x",
                " 7 ",
                Some((Some(100), 7, Some(60))),
            ),
            // Contradictions and nonsense.
            ("100", "101", Some((Some(100), 100, None))),
            ("0", "5", Some((None, 5, None))),
            ("-100;w=-5", "5", Some((None, 5, None))),
            ("+100", "5;w=0", Some((None, 5, None))),
            ("many", "5;w=long", Some((None, 5, None))),
            (
                "18446744073709551615",
                "18446744073709551615",
                Some((Some(u64::MAX), u64::MAX, None)),
            ),
            ("18446744073709551616", "5", Some((None, 5, None))),
            (
                "100;w=18446744073709551615",
                "5",
                Some((Some(100), 5, Some(MAX_WINDOW.as_secs()))),
            ),
            ("100;w=21600", "", None),
            ("100;w=21600", "-1", None),
            ("100;w=21600", "+1", None),
            ("100;w=21600", "18446744073709551616", None),
            ("100;w=21600", ";w=21600", None),
            ("100;w=21600", "none", None),
            ("100;w=21600", "5.5", None),
        ] {
            let read = read(limit, remaining, "");
            let read = read.map(|read| (read.limit, read.remaining, read.window));
            let expected = expected
                .map(|(limit, left, window)| (limit, left, window.map(Duration::from_secs)));
            assert_eq!(read, expected, "{limit} {remaining}");
        }
    }

    #[test]
    fn resets() {
        for (value, seconds) in [
            ("50", Some(50)),
            ("0", Some(0)),
            ("2678400", Some(2_678_400)),
            // A point in time: the first of January 2026 is 1767225600.
            ("1767225700", Some(100)),
            ("1767225500", Some(0)),
            ("2678401", Some(0)),
            ("1969904001", None),
            ("18446744073709551615", None),
            ("-5", None),
            ("soon", None),
            ("", None),
        ] {
            let read = read("100", "7", value).expect("a statement");
            assert_eq!(read.reset, seconds.map(Duration::from_secs), "{value}");
        }
        let mut undated = HeaderMap::new();
        undated.insert("ratelimit-remaining", HeaderValue::from_static("7"));
        undated.insert("ratelimit-reset", HeaderValue::from_static("1767225700"));
        assert_eq!(RateLimit::of(&undated).and_then(|read| read.reset), None);
        undated.insert("date", HeaderValue::from_static("yesterday"));
        assert_eq!(RateLimit::of(&undated).and_then(|read| read.reset), None);
    }

    proptest! {
        #[test]
        fn statements_are_bounded(limit in ".{0,40}", remaining in ".{0,40}", reset in ".{0,40}") {
            if let Some(read) = read(&limit, &remaining, &reset) {
                prop_assert!(read.limit.is_none_or(|limit| limit > 0 && read.remaining <= limit));
                prop_assert!(read.window.is_none_or(|window| !window.is_zero() && window <= MAX_WINDOW));
                prop_assert!(read.reset.is_none_or(|reset| reset <= MAX_WINDOW));
            }
        }
    }
}
