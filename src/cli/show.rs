//! Figures as people read them. Pure.

use std::fmt::Write as _;

use time::OffsetDateTime;
use time::macros::format_description;

use crate::admin::{BucketStats, Pulls, PurgeReport, Stats, VerifyEnd, VerifyLine, WarmLine};

/// How wide the bar of a progress is, in characters.
const BAR: u64 = 30;

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

/// `3 d 4 h`, in the two largest units.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// What `roadstead stats` prints; `now` is in seconds since 1970.
pub fn stats(stats: &Stats, now: u64) -> String {
    let mut text = String::new();
    let (version, since) = (&stats.version, date(stats.started_at));
    let (age, readiness) = (
        span(now.saturating_sub(stats.started_at)),
        if stats.ready { "ready" } else { "not ready" },
    );
    let _ = writeln!(
        text,
        "roadstead {version}, {readiness}, since {since} ({age})\n"
    );
    let _ = writeln!(
        text,
        "{:<11}{:>10}{:>10}{:>10}{:>10}{:>15}{:>13}",
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
        let (pulled, pushed) = (size(pulls.pulled_bytes), size(pulls.pushed_bytes));
        let _ = writeln!(
            text,
            "{name:<11}{requests:>10}{hits:>10}{misses:>10}{coalesced:>10}{pulled:>15}{pushed:>13}"
        );
    }
    let pulled = stats.blobs.pulled_bytes + stats.manifests.pulled_bytes;
    let pushed = stats.blobs.pushed_bytes + stats.manifests.pushed_bytes;
    let saved = pushed.saturating_sub(pulled);
    let share = percent(saved, pushed);
    let _ = writeln!(
        text,
        "\nsaved      {}, {share} % of what clients got",
        size(saved)
    );

    let store = &stats.store;
    let _ = writeln!(
        text,
        "store      {} of {} in {} objects; {} made room ({})",
        size(store.bytes),
        size(store.max_bytes),
        store.objects,
        store.evicted,
        size(store.evicted_bytes),
    );
    if let Some(bucket) = &stats.bucket {
        text.push_str(&of_bucket(bucket));
    }
    let fills = &stats.fills;
    let _ = writeln!(
        text,
        "downloads  {} under way, {} resumed",
        fills.in_flight, fills.resumed
    );
    let failures = &stats.verify_failures;
    let _ = writeln!(
        text,
        "wrong      {} from upstream, {} on disk",
        failures.upstream, failures.disk
    );
    let reasons = stats
        .stale_served
        .iter()
        .map(|(reason, times)| format!("{times} {reason}"));
    let reasons: Vec<String> = reasons.collect();
    let total: u64 = stats.stale_served.values().sum();
    let told = if reasons.is_empty() {
        String::new()
    } else {
        format!(" ({})", reasons.join(", "))
    };
    let _ = writeln!(text, "stale      {total} answers{told}");

    if !stats.upstreams.is_empty() {
        let longest = stats
            .upstreams
            .iter()
            .map(|one| one.registry.chars().count())
            .max();
        let width = longest.unwrap_or(0).max(8);
        let _ = writeln!(
            text,
            "\n{:<width$}{:>11}{:>11}{:>12}",
            "upstream", "requests", "failures", "pulls left"
        );
        for one in &stats.upstreams {
            let left = one
                .ratelimit_remaining
                .map_or_else(|| "-".to_owned(), |left| left.to_string());
            let _ = writeln!(
                text,
                "{:<width$}{:>11}{:>11}{left:>12}",
                one.registry, one.requests, one.failures
            );
        }
    }
    text
}

/// What happened with the bucket, in two lines.
fn of_bucket(bucket: &BucketStats) -> String {
    format!(
        "bucket     {} hits, {} misses; {} written, {} given up\n           {} failures, {} wrong; {} records not \
         shared, {} waits in vain\n",
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
    if report.more > 0 {
        let _ = writeln!(text, "and {} more", report.more);
    }
    if report.names.is_empty() {
        return "nothing of that is here\n".to_owned();
    }
    let verb = if report.dry_run {
        "would remove"
    } else {
        "removed"
    };
    let beside = match report.beside {
        0 => String::new(),
        beside => format!(", {}", counted(beside, "other record")),
    };
    let _ = writeln!(
        text,
        "{verb} {}, {}, {}{beside}: {}, {}",
        counted(report.tags, "tag"),
        counted(report.manifests, "manifest"),
        counted(report.blobs, "blob"),
        counted(report.files, "file"),
        size(report.bytes),
    );
    if report.shared > 0 {
        let stay = if report.shared == 1 { "stays" } else { "stay" };
        let _ = writeln!(
            text,
            "{} {stay}: other repositories have a claim",
            counted(report.shared, "file")
        );
    }
    text
}

/// How far a verification is, in one line; with a bar for a terminal.
pub fn progress(line: &VerifyLine, bar: bool) -> String {
    let done = percent(line.bytes, line.of_bytes);
    format!(
        "{}{} of {}, {} of {} files, {} damaged",
        gauge(done, bar),
        size(line.bytes),
        size(line.of_bytes),
        line.blobs,
        line.of_blobs,
        line.damaged
    )
}

/// How much of 100 is done.
fn gauge(done: u64, bar: bool) -> String {
    let drawn = if bar {
        let full = (done * BAR / 100).min(BAR);
        let (full, empty) = ("#".repeat(index(full)), "-".repeat(index(BAR - full)));
        format!("[{full}{empty}] ")
    } else {
        String::new()
    };
    format!("{drawn}{done:>3} %  ")
}

/// How much of an image is here, of 100: its bytes, or its blobs where nobody says how long they are.
pub fn warm_share(line: &WarmLine) -> u64 {
    match (line.of_bytes, line.of_blobs) {
        // Its manifest is asked for, or it has nothing else.
        (0, 0) if line.done.is_none() => 0,
        (0, of_blobs) => percent(line.blobs, of_blobs),
        (of_bytes, _) => percent(here(line), of_bytes).min(100),
    }
}

/// Bytes of an image that are here, those of unfinished blobs included.
fn here(line: &WarmLine) -> u64 {
    let coming: u64 = line.coming.iter().map(|blob| blob.bytes).sum();
    line.bytes + coming
}

/// How far a pull beforehand is, in one line; with a bar for a terminal.
pub fn warming(image: &str, line: &WarmLine, bar: bool) -> String {
    let mut text = format!(
        "{image}  {}{} of {}, {} of {} blobs",
        gauge(warm_share(line), bar),
        size(here(line)),
        size(line.of_bytes),
        line.blobs,
        line.of_blobs
    );
    if let Some(why) = &line.waits {
        let _ = write!(text, "; waiting: {why}");
    }
    text
}

/// What a pull beforehand came to.
pub fn warmed(image: &str, line: &WarmLine) -> String {
    format!(
        "{image}: {}, {}; {} fetched\n",
        counted(line.blobs, "blob"),
        size(line.bytes),
        size(line.fetched)
    )
}

/// What several came to.
pub fn all_warmed(here: usize, of: usize, fetched: u64) -> String {
    format!(
        "{here} of {of} images are here; {} fetched\n",
        size(fetched)
    )
}

/// What a verification found.
pub fn verified(line: &VerifyLine, end: &VerifyEnd) -> String {
    let mut text = String::new();
    for digest in &end.damaged {
        let _ = writeln!(text, "damaged, set aside: {digest}");
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

fn counted(number: u64, thing: &str) -> String {
    if number == 1 {
        format!("1 {thing}")
    } else {
        format!("{number} {thing}s")
    }
}

/// Nothing of nothing is all of it.
fn percent(part: u64, whole: u64) -> u64 {
    let percent = (u128::from(part) * 100).checked_div(u128::from(whole));
    percent.map_or(100, |percent| u64::try_from(percent).unwrap_or(100))
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn date(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok();
    let at = at.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    at.and_then(|at| at.format(&format).ok())
        .unwrap_or_default()
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
    fn progresses() {
        let line = VerifyLine {
            blobs: 1,
            of_blobs: 4,
            bytes: 1 << 20,
            of_bytes: 4 << 20,
            damaged: 0,
            done: None,
        };
        assert_eq!(
            progress(&line, false),
            " 25 %  1.0 MiB of 4.0 MiB, 1 of 4 files, 0 damaged"
        );
        let drawn = format!("[{}{}]", "#".repeat(7), "-".repeat(23));
        assert!(progress(&line, true).starts_with(&drawn));
        let nothing = VerifyLine::default();
        assert!(progress(&nothing, false).starts_with("100 %"));
    }

    #[test]
    fn warmings() {
        let blob = |bytes| crate::admin::report::WarmBlob {
            bytes,
            ..Default::default()
        };
        let line = WarmLine {
            blobs: 1,
            of_blobs: 3,
            bytes: 1 << 20,
            of_bytes: 4 << 20,
            fetched: 1 << 20,
            coming: vec![blob(512 << 10), blob(512 << 10)],
            ..WarmLine::default()
        };
        assert_eq!(
            warming("app", &line, false),
            "app   50 %  2.0 MiB of 4.0 MiB, 1 of 3 blobs"
        );
        let drawn = format!("app  [{}{}]  50 %", "#".repeat(15), "-".repeat(15));
        assert!(warming("app", &line, true).starts_with(&drawn));
        assert_eq!(
            warmed("app", &line),
            "app: 1 blob, 1.0 MiB; 1.0 MiB fetched\n"
        );
        for (bytes, of_bytes, blobs, of_blobs, done, share) in [
            (0, 0, 0, 0, false, 0),
            (0, 0, 0, 0, true, 100),
            (0, 0, 1, 4, false, 25),
            (9, 4, 1, 4, false, 100),
        ] {
            let line = WarmLine {
                bytes,
                of_bytes,
                blobs,
                of_blobs,
                done: done.then(crate::admin::report::WarmEnd::default),
                ..WarmLine::default()
            };
            assert_eq!(warm_share(&line), share, "{line:?}");
        }
        let waiting = WarmLine {
            waits: Some("busy".into()),
            ..WarmLine::default()
        };
        assert!(warming("app", &waiting, false).ends_with("; waiting: busy"));
    }

    #[test]
    fn purges() {
        let report = PurgeReport {
            dry_run: true,
            tags: 1,
            manifests: 2,
            blobs: 0,
            beside: 0,
            files: 2,
            bytes: 2048,
            shared: 1,
            names: vec!["a/b:c".into()],
            more: 2,
        };
        assert_eq!(
            purge(&report),
            "a/b:c\nand 2 more\nwould remove 1 tag, 2 manifests, 0 blobs: 2 files, 2.0 KiB\n\
             1 file stays: other repositories have a claim\n"
        );
    }
}
