//! Times as the API writes them. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A time of RFC 3339 in UTC, with milliseconds.
pub fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = i128::try_from(since.as_millis()).unwrap_or(0);
    let at = OffsetDateTime::from_unix_timestamp_nanos(ms * 1_000_000);
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    at.format(&Rfc3339).unwrap_or_default()
}

/// The same of seconds since 1970.
pub fn rfc3339_of(seconds: u64) -> String {
    rfc3339(system_time(seconds))
}

pub fn system_time(seconds: u64) -> SystemTime {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    at.unwrap_or(UNIX_EPOCH)
}

/// Seconds since 1970.
pub fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(rfc3339_of(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339_of(1_790_000_000), "2026-09-21T14:13:20Z");
        let at = system_time(1) + Duration::from_micros(2345);
        assert_eq!(rfc3339(at), "1970-01-01T00:00:01.002Z");
        assert_eq!(unix(at), 1);
    }
}
