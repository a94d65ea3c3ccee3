//! Alerts: conditions that only an operator can change.
//!
//! Any crate raises them; the process subscribes one function to them.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How long the same alert is not raised again.
const REPEAT_INTERVAL: Duration = Duration::from_secs(3600);
/// How many alerts are remembered for that.
const MAX_REMEMBERED: usize = 1000;

static SUBSCRIBER: OnceLock<Box<dyn Fn(Alert) + Send + Sync>> = OnceLock::new();
static RAISED: Mutex<Option<Raised>> = Mutex::new(None);

/// The last alerts, and when they were raised.
type Raised = HashMap<(AlertKind, String), Instant>;

/// A condition that only an operator can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// When it was noticed.
    pub time: SystemTime,
    /// Its kind.
    pub kind: AlertKind,
    /// What it is about: a registry, a file, a digest. Empty: the gateway.
    pub subject: String,
    /// A sentence for the operator.
    pub message: String,
}

/// The kind of an alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AlertKind {
    /// The store is full and nothing can be evicted.
    DiskFull,
    /// A registry refuses the gateway's account.
    AccountRefused,
    /// A registry allows few pulls more, and those are reserved for what is not cached.
    BudgetLow,
    /// A certificate expires soon.
    CertificateExpires,
    /// Stored content was damaged.
    DamageFound,
}

impl AlertKind {
    /// Its name in notifications.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DiskFull => "disk_full",
            Self::AccountRefused => "account_refused",
            Self::BudgetLow => "budget_low",
            Self::CertificateExpires => "certificate_expires",
            Self::DamageFound => "damage_found",
        }
    }
}

/// Passes alerts to a function from now on, which must not block. Only the first call counts.
pub fn subscribe(subscriber: impl Fn(Alert) + Send + Sync + 'static) {
    // A second one (in tests) changes nothing.
    let _ = SUBSCRIBER.set(Box::new(subscriber));
}

/// Raises an alert, unless the same was raised within the last hour.
pub fn raise(kind: AlertKind, subject: impl Into<String>, message: impl Into<String>) {
    let Some(subscriber) = SUBSCRIBER.get() else {
        return;
    };
    let subject = subject.into();
    let mut raised = RAISED.lock().unwrap_or_else(PoisonError::into_inner);
    let due = is_due(
        raised.get_or_insert_default(),
        kind,
        &subject,
        Instant::now(),
    );
    drop(raised);
    if due {
        subscriber(Alert {
            time: SystemTime::now(),
            kind,
            subject,
            message: message.into(),
        });
    }
}

/// Whether an alert is new. It is remembered then.
fn is_due(raised: &mut Raised, kind: AlertKind, subject: &str, now: Instant) -> bool {
    raised.retain(|_, at| now.saturating_duration_since(*at) < REPEAT_INTERVAL);
    let key = (kind, subject.to_owned());
    if raised.contains_key(&key) || raised.len() >= MAX_REMEMBERED {
        return false;
    }
    raised.insert(key, now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_repeated_after_an_hour() {
        let mut raised = Raised::new();
        let start = Instant::now();
        for (seconds, subject, due) in [
            (0, "a", true),
            (0, "b", true),
            (3599, "a", false),
            (3600, "a", true),
            (3601, "a", false),
        ] {
            let now = start + Duration::from_secs(seconds);
            let found = is_due(&mut raised, AlertKind::DiskFull, subject, now);
            assert_eq!(found, due, "{seconds} {subject}");
        }
        assert!(is_due(&mut raised, AlertKind::DamageFound, "a", start));
        for number in 0..2 * MAX_REMEMBERED {
            is_due(&mut raised, AlertKind::DiskFull, &number.to_string(), start);
        }
        assert!(raised.len() <= MAX_REMEMBERED);
    }
}
