//! The output of the commands, as text. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

use crate::admin::{
    AccountState, BucketState, Overview, Pulls, PurgeReport, RateLimitState, RegistryState,
    VerifyEnd, VerifyLine, WarmLine, span,
};

/// `1.5 GiB`
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit, rounded, so that nothing is ever "1024.0 KiB".
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = "B";
    for next in UNITS {
        if tenths < 10_235 {
            break;
        }
        tenths = (tenths + 512) / 1024;
        unit = next;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// What `roadstead stats` prints.
pub fn stats(overview: &Overview, registries: &[RegistryState]) -> String {
    let (version, since) = (&overview.version, date(&overview.started_at));
    let age = span(seconds_between(&overview.started_at, &overview.at));
    let readiness = if overview.ready { "ready" } else { "not ready" };
    let mut text = format!("roadstead {version}, {readiness}, since {since} ({age})\n\n");
    text.push_str(&pulls_table(overview));
    text.push('\n');
    text.push_str(&state_lines(overview));
    let asked: Vec<&RegistryState> = registries.iter().filter(|one| one.requests > 0).collect();
    if !asked.is_empty() {
        text.push('\n');
        text.push_str(&registries_table(&asked));
    }
    text
}

/// A line for blobs and one for manifests, below their headings.
fn pulls_table(stats: &Overview) -> String {
    let mut text = format!(
        "{:<11}{:>10}{:>10}{:>10}{:>10}{:>15}{:>13}\n",
        "", "requests", "hits", "misses", "shared", "from upstream", "to clients"
    );
    for (name, pulls) in [("blobs", &stats.blobs), ("manifests", &stats.manifests)] {
        let Pulls {
            requests,
            hits,
            misses,
            coalesced,
            ..
        } = pulls;
        let (pulled, pushed) = (size(pulls.fetched_bytes), size(pulls.served_bytes));
        let _ = writeln!(
            text,
            "{name:<11}{requests:>10}{hits:>10}{misses:>10}{coalesced:>10}{pulled:>15}{pushed:>13}"
        );
    }
    text
}

/// What was saved, what is stored, and what went on: one line each, two for the bucket.
fn state_lines(stats: &Overview) -> String {
    let pulled = stats.blobs.fetched_bytes + stats.manifests.fetched_bytes;
    let pushed = stats.blobs.served_bytes + stats.manifests.served_bytes;
    let saved = pushed.saturating_sub(pulled);
    let share = percent(saved, pushed);
    let mut text = format!(
        "saved      {}, {share} % of the bytes sent to clients\n",
        size(saved)
    );
    let store = &stats.store;
    let _ = writeln!(
        text,
        "store      {} of {} in {} objects; {} evicted ({})",
        size(store.used_bytes),
        size(store.max_bytes),
        store.blobs,
        store.evicted_blobs,
        size(store.evicted_bytes),
    );
    if let Some(bucket) = &stats.bucket {
        text.push_str(&bucket_lines(bucket));
    }
    let _ = writeln!(
        text,
        "downloads  {} under way, {} resumed",
        stats.fills_in_flight, stats.fills_resumed
    );
    let _ = writeln!(
        text,
        "wrong      {} from upstream, {} on disk",
        stats.verify_failures_upstream, stats.verify_failures_disk
    );
    text.push_str(&stale_line(&stats.stale_served));
    text
}

/// The stale responses with their reasons: `stale      3 responses (2 timeout, 1 status)`.
fn stale_line(served: &BTreeMap<String, u64>) -> String {
    let total: u64 = served.values().sum();
    if served.is_empty() {
        return format!("stale      {total} responses\n");
    }
    let reasons = served.iter();
    let reasons: Vec<String> = reasons
        .map(|(reason, times)| format!("{times} {reason}"))
        .collect();
    format!("stale      {total} responses ({})\n", reasons.join(", "))
}

/// A line for each registry, below their headings; one for each account where there are several.
fn registries_table(registries: &[&RegistryState]) -> String {
    let names = registries.iter().flat_map(|one| {
        let accounts = several_accounts(one).iter();
        let indented = accounts.map(|account| 2 + account_name(account).chars().count());
        indented.chain([one.configured.name.as_str().chars().count()])
    });
    let width = names.max().unwrap_or(0).max(8);
    let mut text = format!(
        "{:<width$}{:>11}{:>11}{:>12}\n",
        "upstream", "requests", "failures", "pulls left"
    );
    for one in registries {
        let left = pulls_left(one.rate_limit.as_ref());
        let _ = writeln!(
            text,
            "{:<width$}{:>11}{:>11}{left:>12}",
            one.configured.name.as_str(),
            one.requests,
            one.failures
        );
        for account in several_accounts(one) {
            let left = if account.refused {
                "refused".to_owned()
            } else {
                pulls_left(account.rate_limit.as_ref())
            };
            let name = format!("  {}", account_name(account));
            let _ = writeln!(text, "{name:<width$}{left:>34}");
        }
    }
    text
}

/// The accounts of a registry, if there are several.
fn several_accounts(registry: &RegistryState) -> &[AccountState] {
    match &registry.accounts[..] {
        [] | [_] => &[],
        several => several,
    }
}

fn account_name(account: &AccountState) -> &str {
    account.name.as_deref().unwrap_or("anonymous")
}

fn pulls_left(rate_limit: Option<&RateLimitState>) -> String {
    let left = rate_limit.and_then(|limit| limit.remaining);
    left.map_or_else(|| "-".to_owned(), |left| left.to_string())
}

/// The traffic with the bucket, in two lines.
fn bucket_lines(bucket: &BucketState) -> String {
    format!(
        "bucket     {} hits, {} misses; {} written, {} dropped\n           {} failures, {} wrong; {} records not \
         shared, {} waits timed out\n",
        bucket.hits,
        bucket.misses,
        bucket.uploads,
        bucket.uploads_dropped,
        bucket.failures,
        bucket.verify_failures,
        bucket.records_dropped,
        bucket.lease_timeouts,
    )
}

/// What `roadstead purge` prints.
pub fn purge(report: &PurgeReport) -> String {
    let mut text = String::new();
    for name in &report.names {
        let _ = writeln!(text, "{name}");
    }
    if report.names_left_off > 0 {
        let _ = writeln!(text, "and {} more", report.names_left_off);
    }
    if report.names.is_empty() {
        return "nothing matches\n".to_owned();
    }
    let verb = if report.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let others = match report.other_records {
        0 => String::new(),
        count => format!(", {}", counted(count, "other record")),
    };
    let _ = writeln!(
        text,
        "{verb} {}, {}, {}{others}: {}, {}",
        counted(report.tags, "tag"),
        counted(report.manifests, "manifest"),
        counted(report.blobs, "blob"),
        counted(report.files, "file"),
        size(report.freed_bytes),
    );
    if report.shared_files > 0 {
        let stay = if report.shared_files == 1 {
            "stays"
        } else {
            "stay"
        };
        let _ = writeln!(
            text,
            "{} {stay}: other repositories link to {}",
            counted(report.shared_files, "file"),
            if report.shared_files == 1 {
                "it"
            } else {
                "them"
            }
        );
    }
    text
}

/// The result of warming an image.
pub fn warmed(image: &str, line: &WarmLine) -> String {
    format!(
        "{image}: {}, {}; {} fetched\n",
        counted(line.blobs, "blob"),
        size(line.bytes),
        size(line.fetched_bytes)
    )
}

/// The result of warming several images.
pub fn all_warmed(complete: usize, of: usize, fetched: u64) -> String {
    format!(
        "{complete} of {of} images are stored; {} fetched\n",
        size(fetched)
    )
}

/// The result of a verification.
pub fn verified(line: &VerifyLine, end: &VerifyEnd) -> String {
    let mut text = String::new();
    for digest in &end.damaged {
        let _ = writeln!(text, "damaged, quarantined: {digest}");
    }
    let _ = writeln!(
        text,
        "{}, {}: {} damaged",
        counted(line.blobs, "file"),
        size(line.bytes),
        end.damaged.len()
    );
    text
}

pub fn counted(number: u64, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}

/// Rounded down; 100 of nothing.
pub fn percent(part: u64, whole: u64) -> u64 {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole));
    percent.map_or(100, |percent| u64::try_from(percent).unwrap_or(100))
}

/// `2026-11-20 06:00:00 UTC`
fn date(rfc3339: &str) -> String {
    let at = OffsetDateTime::parse(rfc3339, &Rfc3339).ok();
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    at.and_then(|at| at.format(&format).ok())
        .unwrap_or_default()
}

fn seconds_between(from: &str, to: &str) -> u64 {
    let parse = |text| OffsetDateTime::parse(text, &Rfc3339).ok();
    let (from, to) = (parse(from), parse(to));
    let between = from.zip(to).map(|(from, to)| (to - from).whole_seconds());
    between.map_or(0, |seconds| u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1 << 20, "1.0 MiB"),
            (100 << 30, "100.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
        for (seconds, text) in [
            (59, "59 s"),
            (60, "1 min"),
            (3600, "1 h 0 min"),
            (7300, "2 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn purges() {
        let report = PurgeReport {
            dry_run: true,
            tags: 1,
            manifests: 2,
            blobs: 0,
            other_records: 0,
            files: 2,
            freed_bytes: 2048,
            shared_files: 1,
            names: vec!["a/b:c".into()],
            names_left_off: 2,
        };
        assert_eq!(
            purge(&report),
            "a/b:c\nand 2 more\nwould remove 1 tag, 2 manifests, 0 blobs: 2 files, 2.0 KiB\n\
             1 file stays: other repositories link to it\n"
        );
    }
}
