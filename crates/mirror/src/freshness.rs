//! How long what was learned may be trusted. Pure: time is an argument.

use std::time::{Duration, SystemTime};

/// Whether something checked at one time is still trusted at another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Fresh { left: Duration },
    Stale,
}

/// `checked_at` is in seconds since 1970. A check from the future (the clock was set back) is not
/// trusted.
pub fn freshness(checked_at: u64, ttl: Duration, now: SystemTime) -> Freshness {
    let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(checked_at);
    match now.duration_since(checked) {
        Ok(age) if age < ttl => Freshness::Fresh {
            left: ttl.saturating_sub(age),
        },
        _ => Freshness::Stale,
    }
}

/// How old something is that may be answered with because the upstream cannot be asked; `None` when it is
/// too old for that. `max_stale` is `None` where nothing is.
pub fn stale_age(
    checked_at: u64,
    max_stale: Option<Duration>,
    now: SystemTime,
) -> Option<Duration> {
    let checked = SystemTime::UNIX_EPOCH + Duration::from_secs(checked_at);
    // Checked in the future: the clock was set back, and it is as good as new.
    let age = now.duration_since(checked).unwrap_or_default();
    max_stale.is_none_or(|most| age < most).then_some(age)
}

/// `now` in seconds since 1970.
pub fn unix(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_trusted_for_its_life() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let ttl = Duration::from_secs(600);
        let fresh = |left| Freshness::Fresh {
            left: Duration::from_secs(left),
        };
        for (checked_at, now, expected) in [
            (1000, 1000, fresh(600)),
            (1000, 1599, fresh(1)),
            (1000, 1600, Freshness::Stale),
            (1000, 9999, Freshness::Stale),
            (1000, 999, Freshness::Stale),
        ] {
            assert_eq!(
                freshness(checked_at, ttl, at(now)),
                expected,
                "{checked_at} {now}"
            );
        }
        assert_eq!(freshness(1000, Duration::ZERO, at(1000)), Freshness::Stale);
    }
}
