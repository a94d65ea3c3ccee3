//! Numbers with units: sizes, durations, percentages, counts.
//!
//! A parse error completes a sentence whose subject is the value: `"10x"` + `is not …`.

use std::num::NonZeroU32;
use std::time::Duration;

use runtime::rate::Rate;

pub(super) const MINUTE: Duration = Duration::from_secs(60);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) type Parsed<T> = Result<T, String>;

/// The units of time, in milliseconds.
const TIME: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];
/// A hundred years: longer has no effect, and adding centuries overflows clocks.
const MAX_MILLIS: u64 = 36_500 * 86_400_000;

const BYTES: [(&str, u64); 6] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// `512MiB`, `10GiB`, or a plain number of bytes.
pub(super) fn size(text: &str) -> Parsed<u64> {
    let (digits, unit) = number(text);
    let factor = BYTES.iter().find(|(name, _)| *name == unit);
    let (Some((_, factor)), false) = (factor, digits.is_empty()) else {
        return Err("is not a size; write a whole number and B, KiB, MiB, GiB or TiB".to_owned());
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(*factor));
    bytes.ok_or_else(|| "is too large a size; write less than 16777216TiB".to_owned())
}

/// `30s`, `10m`, `7d`, or several together: `1h30m`.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    const NOT: &str =
        "is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m";
    if text.is_empty() {
        return Err(NOT.to_owned());
    }
    let mut millis: Option<u64> = Some(0);
    let mut rest = text;
    while !rest.is_empty() {
        let (digits, after) = number(rest);
        let letters = after.find(|c: char| c.is_ascii_digit());
        let (unit, next) = after.split_at(letters.unwrap_or(after.len()));
        if unit.is_empty() && !digits.is_empty() {
            return Err(format!("has no unit; write {text}s, {text}m or {text}h"));
        }
        let factor = TIME.iter().find(|(name, _)| *name == unit);
        let (Some((_, factor)), false) = (factor, digits.is_empty()) else {
            return Err(NOT.to_owned());
        };
        let part = digits
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(*factor));
        millis = millis
            .zip(part)
            .and_then(|(sum, part)| sum.checked_add(part));
        rest = next;
    }
    match millis {
        Some(millis) if millis <= MAX_MILLIS => Ok(Duration::from_millis(millis)),
        _ => Err("is too long; write at most 36500d".to_owned()),
    }
}

/// A duration above zero.
pub(super) fn some_duration(text: &str) -> Parsed<Duration> {
    match duration(text)? {
        Duration::ZERO => Err("is no time at all; write 1s or longer".to_owned()),
        time => Ok(time),
    }
}

/// The size of a request's head: enough for a token, too little to exhaust memory.
pub(super) fn header_bytes(text: &str) -> Parsed<usize> {
    match size(text).map(usize::try_from)? {
        Ok(bytes) if (1 << 10..=1 << 20).contains(&bytes) => Ok(bytes),
        _ => Err("is out of range; write a size from 1KiB to 1MiB".to_owned()),
    }
}

/// A count, at least one.
pub(super) fn count(text: &str) -> Parsed<usize> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u32>().map(usize::try_from) {
        Ok(Ok(count)) if digits && count >= 1 => Ok(count),
        _ => Err("is not a count; write a whole number from 1 to 4294967295".to_owned()),
    }
}

/// `200/s`, `30/m` or `1000/h`.
pub(super) fn rate(text: &str) -> Parsed<Rate> {
    const PERIODS: [(&str, u64); 3] = [("/s", 1), ("/m", 60), ("/h", 3600)];

    let (digits, unit) = number(text);
    let period = PERIODS.iter().find(|(name, _)| *name == unit);
    let requests = digits.parse().ok().filter(|&n| n <= 1_000_000);
    match (requests.and_then(NonZeroU32::new), period) {
        (Some(requests), Some((_, seconds))) => Ok(Rate {
            requests,
            period: Duration::from_secs(*seconds),
        }),
        _ => Err(
            "is not a rate; write a whole number up to 1000000, and /s, /m or /h, such as 200/s"
                .to_owned(),
        ),
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    match text {
        "true" => Ok(true),
        "false" | "off" => Ok(false),
        _ => Err("is neither true nor false; write one of them".to_owned()),
    }
}

/// Splits the leading digits off.
fn number(text: &str) -> (&str, &str) {
    let digits = text.find(|c: char| !c.is_ascii_digit());
    text.split_at(digits.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1024", Some(1024)),
            ("7B", Some(7)),
            ("64KiB", Some(65_536)),
            ("512MiB", Some(536_870_912)),
            ("10GiB", Some(10_737_418_240)),
            ("2TiB", Some(2_199_023_255_552)),
            ("18446744073709551615", Some(u64::MAX)),
            ("16777215TiB", Some(16_777_215 << 40)),
            ("18446744073709551616", None),
            ("16777216TiB", None),
            ("", None),
            ("MiB", None),
            ("10GB", None),
            ("10gib", None),
            ("10 GiB", None),
            ("1.5GiB", None),
            ("-1", None),
            ("+1", None),
            ("1_000", None),
            ("5%", None),
            ("१B", None),
        ] {
            assert_eq!(size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn durations_in_milliseconds() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("30s", Some(30_000)),
            ("10m", Some(600_000)),
            ("2h", Some(7_200_000)),
            ("7d", Some(604_800_000)),
            ("1w", Some(604_800_000)),
            ("1h30m", Some(5_400_000)),
            ("1m30s500ms", Some(90_500)),
            ("36500d", Some(MAX_MILLIS)),
            ("36501d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615w", None),
            ("30500w30500w", None),
            ("", None),
            ("0", None),
            ("30", None),
            ("1h30", None),
            ("s", None),
            ("1.5h", None),
            ("1 h", None),
            ("-1s", None),
            ("10min", None),
            ("10M", None),
        ] {
            let millis = duration(text).ok().map(|time| time.as_millis());
            assert_eq!(millis, expected.map(u128::from), "{text}");
        }
        assert_eq!(
            duration("30").unwrap_err(),
            "has no unit; write 30s, 30m or 30h"
        );
    }

    #[test]
    fn limits_and_counts() {
        for (text, expected) in [
            ("1KiB", Some(1 << 10)),
            ("1023", None),
            ("1MiB", Some(1 << 20)),
            ("1048577", None),
        ] {
            assert_eq!(header_bytes(text).ok(), expected, "{text}");
        }
        for (text, expected) in [
            ("1", Some(1)),
            ("10000", Some(10_000)),
            ("0", None),
            ("+1", None),
            ("4294967296", None),
            ("", None),
        ] {
            assert_eq!(count(text).ok(), expected, "{text}");
        }
        assert!(some_duration("0ms").is_err());
    }
}
