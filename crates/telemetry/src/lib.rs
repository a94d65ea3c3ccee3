//! Logging, metrics and alerts of the process.

pub mod alerts;
pub mod metrics;

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::EnvFilter;

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One line for people: time, level, target, message, `key=value`.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs events of `level` and above to standard error; those of dependencies from `warn` on.
pub fn start(format: Format, level: tracing::Level) {
    let filter = EnvFilter::new(format!(
        "warn,roadstead={level},access={level},fill={level},pingora=error,pingora_core=error"
    ));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    // A second call (in tests) changes nothing.
    let _ = match format {
        Format::Text => subscriber.try_init(),
        Format::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

/// An error with its chain of sources, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            let _ = write!(text, ": {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Limits a log line to one a minute.
#[derive(Debug)]
pub struct LogThrottle(Mutex<Option<Instant>>);

impl LogThrottle {
    /// Allows the first line at once.
    #[expect(clippy::new_without_default, reason = "only statics are made of it")]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Whether the line may be logged now.
    pub fn now(&self) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.is_none_or(|logged| logged.elapsed() >= Duration::from_secs(60));
        if due {
            *logged = Some(Instant::now());
        }
        due
    }
}

/// Untrusted text for the log: at most `longest` characters, with control characters escaped.
pub fn harmless(text: &str, longest: usize) -> String {
    let shown = text.chars().take(longest);
    let mut shown: String = shown.flat_map(char::escape_debug).collect();
    if text.chars().nth(longest).is_some() {
        shown.push('…');
    }
    shown
}

/// Milliseconds since then, as u64, since u128 is not a number in JSON.
pub fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The host name of the machine.
pub fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_is_truncated_and_escaped() {
        for (text, shown) in [
            ("alice", "alice"),
            ("", ""),
            ("a\nb\u{1b}[0m\"", "a\\nb\\u{1b}[0m\\\""),
            ("häfen", "häfen"),
        ] {
            assert_eq!(harmless(text, 64), shown);
        }
        assert_eq!(harmless(&"n".repeat(64), 64), "n".repeat(64));
        assert_eq!(harmless(&"n".repeat(65), 64), "n".repeat(64) + "…");
        assert!(harmless(&"\u{7f}".repeat(10_000), 64).len() <= 64 * 10 + 3);
    }
}
