//! The progress of a verification or of warming, on standard error.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};

use super::show::{percent, size};
use crate::admin::{VerifyLine, WarmLine};

/// The width of the bar, in characters.
const BAR: u64 = 30;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressStyle {
    /// A bar that is redrawn, for a terminal.
    Bar,
    /// A line at a time, for a log.
    Lines,
}

/// Shows progress: a bar that is redrawn on a terminal, else a line for every tenth.
pub struct ProgressDisplay {
    style: ProgressStyle,
    tenth: Option<u64>,
    drawn: usize,
}

impl ProgressDisplay {
    pub fn new() -> Self {
        Self {
            style: if io::stderr().is_terminal() {
                ProgressStyle::Bar
            } else {
                ProgressStyle::Lines
            },
            tenth: None,
            drawn: 0,
        }
    }

    /// Shows a line. Without a terminal it is left out unless the tenth is a new one or `has_news` is set.
    pub fn show(&mut self, tenth: u64, has_news: bool, render: impl Fn(ProgressStyle) -> String) {
        let text = render(self.style);
        let mut stderr = io::stderr();
        if self.style == ProgressStyle::Bar {
            let _ = write!(stderr, "\r{text:<drawn$}", drawn = self.drawn);
            self.drawn = text.len();
            return;
        }
        if self.tenth.is_none_or(|shown| tenth > shown) || has_news {
            self.tenth = Some(tenth);
            let _ = writeln!(stderr, "{text}");
        }
    }

    /// Prints a line of its own.
    pub fn line(&mut self, text: &str) {
        let mut stderr = io::stderr();
        if self.drawn > 0 {
            let _ = write!(stderr, "\r{:<drawn$}\r", "", drawn = self.drawn);
        }
        let _ = writeln!(stderr, "{text}");
    }

    pub fn end(&mut self) {
        if self.drawn > 0 {
            let _ = writeln!(io::stderr());
        }
    }
}

/// The progress of a verification, in one line; with a bar for a terminal.
pub fn verify_line(line: &VerifyLine, style: ProgressStyle) -> String {
    let done = percent(line.bytes, line.bytes_total);
    format!(
        "{}{} of {}, {} of {} files, {} damaged",
        gauge(done, style),
        size(line.bytes),
        size(line.bytes_total),
        line.blobs,
        line.blobs_total,
        line.damaged
    )
}

/// A percentage, after its bar if there is one.
pub fn gauge(done: u64, style: ProgressStyle) -> String {
    let drawn = if style == ProgressStyle::Bar {
        let full = (done * BAR / 100).min(BAR);
        let (full, empty) = ("#".repeat(index(full)), "-".repeat(index(BAR - full)));
        format!("[{full}{empty}] ")
    } else {
        String::new()
    };
    format!("{drawn}{done:>3} %  ")
}

/// The percentage of an image that is stored: of its bytes, or of its blobs if their sizes are unknown.
pub fn warm_percent(line: &WarmLine) -> u64 {
    match (line.bytes_total, line.blobs_total) {
        // Its manifest is being fetched, or it has no blobs.
        (0, 0) if line.done.is_none() => 0,
        (0, of_blobs) => percent(line.blobs, of_blobs),
        (bytes_total, _) => percent(stored_bytes(line), bytes_total).min(100),
    }
}

/// The stored bytes of an image, unfinished blobs included.
fn stored_bytes(line: &WarmLine) -> u64 {
    let in_flight: u64 = line.in_flight.iter().map(|blob| blob.bytes).sum();
    line.bytes + in_flight
}

/// The progress of warming an image, in one line; with a bar for a terminal.
pub fn warm_line(image: &str, line: &WarmLine, style: ProgressStyle) -> String {
    let mut text = format!(
        "{image}  {}{} of {}, {} of {} blobs",
        gauge(warm_percent(line), style),
        size(stored_bytes(line)),
        size(line.bytes_total),
        line.blobs,
        line.blobs_total
    );
    if let Some(why) = &line.waits_because {
        let _ = write!(text, "; waiting: {why}");
    }
    text
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::show::warmed;
    use super::*;

    #[test]
    fn verification_progress() {
        let line = VerifyLine {
            blobs: 1,
            blobs_total: 4,
            bytes: 1 << 20,
            bytes_total: 4 << 20,
            damaged: 0,
            done: None,
        };
        assert_eq!(
            verify_line(&line, ProgressStyle::Lines),
            " 25 %  1.0 MiB of 4.0 MiB, 1 of 4 files, 0 damaged"
        );
        let drawn = format!("[{}{}]", "#".repeat(7), "-".repeat(23));
        assert!(verify_line(&line, ProgressStyle::Bar).starts_with(&drawn));
        let nothing = VerifyLine::default();
        assert!(verify_line(&nothing, ProgressStyle::Lines).starts_with("100 %"));
    }

    #[test]
    fn warming_progress() {
        let blob = |bytes| crate::admin::report::WarmBlob {
            bytes,
            ..Default::default()
        };
        let line = WarmLine {
            blobs: 1,
            blobs_total: 3,
            bytes: 1 << 20,
            bytes_total: 4 << 20,
            fetched_bytes: 1 << 20,
            in_flight: vec![blob(512 << 10), blob(512 << 10)],
            ..WarmLine::default()
        };
        assert_eq!(
            warm_line("app", &line, ProgressStyle::Lines),
            "app   50 %  2.0 MiB of 4.0 MiB, 1 of 3 blobs"
        );
        let drawn = format!("app  [{}{}]  50 %", "#".repeat(15), "-".repeat(15));
        assert!(warm_line("app", &line, ProgressStyle::Bar).starts_with(&drawn));
        assert_eq!(
            warmed("app", &line),
            "app: 1 blob, 1.0 MiB; 1.0 MiB fetched\n"
        );
        for (bytes, bytes_total, blobs, blobs_total, done, share) in [
            (0, 0, 0, 0, false, 0),
            (0, 0, 0, 0, true, 100),
            (0, 0, 1, 4, false, 25),
            (9, 4, 1, 4, false, 100),
        ] {
            let line = WarmLine {
                bytes,
                bytes_total,
                blobs,
                blobs_total,
                done: done.then(crate::admin::report::WarmEnd::default),
                ..WarmLine::default()
            };
            assert_eq!(warm_percent(&line), share, "{line:?}");
        }
        let waiting = WarmLine {
            waits_because: Some("busy".into()),
            ..WarmLine::default()
        };
        assert!(warm_line("app", &waiting, ProgressStyle::Lines).ends_with("; waiting: busy"));
    }
}
