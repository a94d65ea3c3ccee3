//! `store`: the store on disk and the bucket, and how long records are trusted.

use std::path::PathBuf;
use std::time::Duration;

use super::bucket::{self, Bucket};
use super::fault::Report;
use super::keys::{mapping, path};
use super::reference::{Absent, Key, Kind};
use super::tree::Node;
use super::units::{DAY, MINUTE, Parsed, duration, size, some_duration};
use ::store::MinFree;

/// The keys of `store`.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "path",
        Kind::Scalar("path"),
        Absent::Is("var/store"),
        "The folder of the store. One process at a time uses it.",
    ),
    Key::new(
        "max_size",
        Kind::Scalar("size"),
        Absent::Is("100GiB"),
        "Hard cap on what is on disk, in blocks of 4 KiB: content, partials, records. The least recently used content is evicted.",
    ),
    Key::new(
        "min_free",
        Kind::Scalar("size, or share of the file system, or `off`"),
        Absent::Is("5%"),
        "Below this much free space nothing new is stored, and pulls pass through.",
    ),
    Key::new(
        "unused_ttl",
        Kind::Scalar("duration, or `off`"),
        Absent::Is("30d"),
        "Content unused for this long is deleted.",
    ),
    Key::new(
        "tag_ttl",
        Kind::Scalar("duration"),
        Absent::Is("10m"),
        "How long a tag is fresh. Then it is revalidated with one HEAD.",
    ),
    Key::new(
        "missing_ttl",
        Kind::Scalar("duration"),
        Absent::Is("10s"),
        "How long a 404 is remembered.",
    ),
    Key::new(
        "link_ttl",
        Kind::Scalar("duration"),
        Absent::Is("7d"),
        "Age after which a link, the record that a repository has a digest, is revalidated in the background.",
    ),
    Key::new(
        "max_stale",
        Kind::Scalar("duration, or `forever`, or `off`"),
        Absent::Is("7d"),
        "How old a tag may be when the upstream cannot be reached.",
    ),
    Key::new(
        "scrub_every",
        Kind::Scalar("duration, or `off`"),
        Absent::Is("30d"),
        "Everything on disk is rehashed within this time; damaged content is quarantined and fetched again.",
    ),
    Key::new(
        "bucket",
        Kind::ChoiceOrSection(&["off"], bucket::KEYS),
        Absent::Nothing,
        "An S3-compatible bucket that several gateways share; see [A shared bucket](recipes/bucket.md).",
    ),
];

/// The store, and how long records are trusted. Each [`super::Registry`] has its own resolved values of
/// the times that it may override.
#[derive(Debug, Clone)]
pub struct Store {
    /// The folder.
    pub path: PathBuf,
    /// The limit for the store on disk, in bytes.
    pub max_size: u64,
    /// Below this much free space nothing is stored.
    pub min_free: MinFree,
    /// Content unused for this long is deleted; `None`: never.
    pub unused_ttl: Option<Duration>,
    /// How long a tag is trusted before it is revalidated.
    pub tag_ttl: Duration,
    /// How long a 404 is remembered.
    pub missing_ttl: Duration,
    /// The age after which a repository's link to a digest is revalidated.
    pub link_ttl: Duration,
    /// How old a tag may be while the upstream cannot be asked.
    pub max_stale: MaxStale,
    /// The interval in which everything on disk is rehashed; `None`: never.
    pub scrub_every: Option<Duration>,
    /// An object store shared by several gateways.
    pub bucket: Option<Bucket>,
}

/// How old an answer may be while the upstream cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxStale {
    /// This old; zero disables stale answers.
    For(Duration),
    /// Any age.
    Unlimited,
}

pub(super) fn store(node: &Node, report: &mut Report) -> Store {
    mapping(node, KEYS, report, |keys| Store {
        path: keys.value("path", path).unwrap_or("var/store".into()),
        max_size: keys.value("max_size", size).unwrap_or(100 << 30),
        min_free: keys
            .value("min_free", min_free)
            .unwrap_or(MinFree::Percent(5.0)),
        unused_ttl: keys.value_or_off("unused_ttl", some_duration, Some(30 * DAY)),
        tag_ttl: keys.value("tag_ttl", duration).unwrap_or(10 * MINUTE),
        missing_ttl: keys
            .value("missing_ttl", duration)
            .unwrap_or(Duration::from_secs(10)),
        link_ttl: keys.value("link_ttl", duration).unwrap_or(7 * DAY),
        max_stale: keys
            .value("max_stale", max_stale)
            .unwrap_or(MaxStale::For(7 * DAY)),
        scrub_every: keys.value_or_off("scrub_every", some_duration, Some(30 * DAY)),
        bucket: keys.section_or_off("bucket", bucket::bucket),
    })
}

/// A share of the file system, or a size; `off` is none.
fn min_free(text: &str) -> Parsed<MinFree> {
    if matches!(text, "off" | "false") {
        return Ok(MinFree::Bytes(0));
    }
    let Some(percent) = text.strip_suffix('%') else {
        return size(text).map(MinFree::Bytes).map_err(|_| {
            "is neither a share nor a size; write 5% or a size such as 10GiB".to_owned()
        });
    };
    // Otherwise `inf`, `nan` and `1e1` would be numbers.
    let plain = percent.chars().all(|c| c.is_ascii_digit() || c == '.');
    match percent.parse::<f64>() {
        Ok(percent) if plain && percent < 100.0 => Ok(MinFree::Percent(percent)),
        _ => Err("is not a share; write a number from 0% to below 100%".to_owned()),
    }
}

/// A duration, `forever`, or `off` for never.
fn max_stale(text: &str) -> Parsed<MaxStale> {
    match text {
        "forever" => Ok(MaxStale::Unlimited),
        "off" | "false" => Ok(MaxStale::For(Duration::ZERO)),
        _ => duration(text)
            .map(MaxStale::For)
            .map_err(|error| format!("{error}, or forever")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_the_store() {
        assert_faults(&[
            (
                "store: {max_size: 100GB, min_free: 100%}",
                &[
                    r#"1:19: "100GB" is not a size; write a whole number and B, KiB, MiB, GiB or TiB"#,
                    r#"1:36: "100%" is not a share; write a number from 0% to below 100%"#,
                ],
            ),
            (
                "store: {max_size: 99999999TiB}",
                &[r#"1:19: "99999999TiB" is too large a size; write less than 16777216TiB"#],
            ),
            (
                "store: {max_size: off, min_free: lots}",
                &[
                    r#"1:19: "off" is not a size; write a whole number and B, KiB, MiB, GiB or TiB"#,
                    r#"1:34: "lots" is neither a share nor a size; write 5% or a size such as 10GiB"#,
                ],
            ),
            (
                "store: {max_size: 5%}",
                &[r#"1:19: "5%" is not a size; write a whole number and B, KiB, MiB, GiB or TiB"#],
            ),
            (
                "store: {tag_ttl: 10}",
                &[r#"1:18: "10" has no unit; write 10s, 10m or 10h"#],
            ),
            (
                "store: {tag_ttl: off, link_ttl: 1y, missing_ttl: 99999999999999w}",
                &[
                    r#"1:18: "off" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m"#,
                    r#"1:33: "1y" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m"#,
                    r#"1:50: "99999999999999w" is too long; write at most 36500d"#,
                ],
            ),
            (
                "store: {unused_ttl: never}",
                &[
                    r#"1:21: "never" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m, or off"#,
                ],
            ),
            (
                "store: {max_stale: always}",
                &[
                    r#"1:20: "always" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m, or forever"#,
                ],
            ),
            (
                "store: {scrub_every: 0s}",
                &[r#"1:22: "0s" is no time at all; write 1s or longer, or off"#],
            ),
        ]);
    }

    #[test]
    fn shares_and_sizes_of_free_space() {
        for (text, expected) in [
            ("5%", Some(MinFree::Percent(5.0))),
            ("0%", Some(MinFree::Percent(0.0))),
            ("2.5%", Some(MinFree::Percent(2.5))),
            ("10GiB", Some(MinFree::Bytes(10 << 30))),
            ("off", Some(MinFree::Bytes(0))),
            ("100%", None),
            ("-1%", None),
            ("nan%", None),
            ("inf%", None),
            ("1e1%", None),
            ("1.2.3%", None),
            (".%", None),
            ("%", None),
            ("five", None),
        ] {
            assert_eq!(min_free(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn staleness() {
        for (text, expected) in [
            ("forever", Some(MaxStale::Unlimited)),
            ("7d", Some(MaxStale::For(7 * DAY))),
            ("off", Some(MaxStale::For(Duration::ZERO))),
            ("false", Some(MaxStale::For(Duration::ZERO))),
            ("always", None),
        ] {
            assert_eq!(max_stale(text).ok(), expected, "{text}");
        }
    }
}
