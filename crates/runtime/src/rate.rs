//! Limits the requests of a client per time, by the generic cell rate algorithm: as many at once as a period allows, and then
//! evenly.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::share::limited_network;

/// The most clients that are remembered in each of two tables. Where there are more within a period, the earliest are
/// forgotten, and may begin anew.
const MAX_CLIENTS: usize = 1 << 16;

/// A number of requests per time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The requests in each period; at most a million.
    pub requests: NonZeroU32,
    /// The period; above zero.
    pub period: Duration,
}

impl Rate {
    /// When the whole allowance of a client is there again, after a request at `now`. `full_at` is that of its request before,
    /// `None` if there was none lately.
    ///
    /// # Errors
    /// The client has used its allowance: how long until the next request is allowed.
    fn after(self, full_at: Option<Instant>, now: Instant) -> Result<Instant, Duration> {
        let interval = self.period / self.requests.get();
        let after = full_at.map_or(now, |full_at| full_at.max(now)) + interval;
        match after.checked_duration_since(now + self.period) {
            Some(wait) if !wait.is_zero() => Err(wait),
            _ => Ok(after),
        }
    }
}

/// The rates of all clients.
#[derive(Debug)]
pub struct Rates {
    limit: Option<Rate>,
    clients: Mutex<Clients>,
}

/// When the allowances of clients are whole again: of those seen since `since`, and of those seen in the period before. An
/// allowance is whole a period after the last request, so that no other needs to be remembered.
#[derive(Debug)]
struct Clients {
    since: Instant,
    current: HashMap<IpAddr, Instant>,
    previous: HashMap<IpAddr, Instant>,
}

impl Clients {
    fn turn(&mut self, period: Duration, now: Instant) {
        let is_over = now.saturating_duration_since(self.since) >= period;
        if is_over || self.current.len() >= MAX_CLIENTS {
            self.previous = std::mem::take(&mut self.current);
            self.since = now;
        }
    }
}

impl Rates {
    /// `None` is no limit.
    pub fn new(limit: Option<Rate>) -> Self {
        Self {
            limit,
            clients: Mutex::new(Clients {
                since: Instant::now(),
                current: HashMap::new(),
                previous: HashMap::new(),
            }),
        }
    }

    /// The rate of each client; `None` is no limit.
    pub fn limit(&self) -> Option<Rate> {
        self.limit
    }

    /// Counts a request. `client` is its address; `None`, on a Unix socket, and this machine itself have no limit.
    ///
    /// # Errors
    /// The client has used its allowance: how long until the next request is allowed.
    pub fn count(&self, client: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let (Some(limit), Some(client)) = (self.limit, limited_network(client)) else {
            return Ok(());
        };
        let mut clients = self.clients();
        clients.turn(limit.period, now);
        let known = clients.current.get(&client);
        let known = known.or_else(|| clients.previous.get(&client));
        let full_at = limit.after(known.copied(), now)?;
        clients.current.insert(client, full_at);
        Ok(())
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, seconds: u64) -> Rate {
        Rate {
            requests: NonZeroU32::new(requests).expect("above zero"),
            period: Duration::from_secs(seconds),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_period_at_once_and_then_evenly() {
        let rates = Rates::new(Some(rate(4, 2)));
        let start = Instant::now();
        // Milliseconds, and how long to wait.
        for (at, wait) in [
            (0, None),
            (0, None),
            (100, None),
            (100, None),
            (100, Some(400)),
            (499, Some(1)),
            (500, None),
            (501, Some(499)),
            (1000, None),
            (1000, Some(500)),
            (3000, None),
            (3000, None),
            (3000, None),
            (3000, None),
            (3000, Some(500)),
            (60_000, None),
        ] {
            let counted = rates.count(Some(ip("192.0.2.1")), start + Duration::from_millis(at));
            assert_eq!(counted.err(), wait.map(Duration::from_millis), "{at}");
        }
    }

    #[test]
    fn clients_are_networks_other_than_this_machine() {
        let rates = Rates::new(Some(rate(1, 60)));
        let now = Instant::now();
        let allowed = |client: &str| rates.count(Some(ip(client)), now).is_ok();
        assert!(allowed("192.0.2.1") && !allowed("::ffff:192.0.2.1"));
        assert!(allowed("192.0.2.2"));
        assert!(allowed("2001:db8::1") && !allowed("2001:db8::2"));
        for client in ["127.0.0.1", "::1"] {
            assert!(allowed(client) && allowed(client), "{client}");
        }
        assert!((0..2).all(|_| rates.count(None, now).is_ok()));
        let unlimited = Rates::new(None);
        assert!((0..1000).all(|_| unlimited.count(Some(ip("192.0.2.1")), now).is_ok()));
        assert!(unlimited.clients().current.is_empty());
    }

    #[test]
    fn clients_that_are_remembered_are_bounded() {
        let rates = Rates::new(Some(rate(1, 60)));
        let start = Instant::now();
        let client = |number: usize| {
            let number = u32::try_from(number).expect("a small number");
            Some(IpAddr::from((0x0a00_0000 + number).to_be_bytes()))
        };
        for number in 0..3 * MAX_CLIENTS {
            assert!(rates.count(client(number), start).is_ok());
        }
        let remembered = |rates: &Rates| {
            let clients = rates.clients();
            clients.current.len() + clients.previous.len()
        };
        assert_eq!(remembered(&rates), 2 * MAX_CLIENTS);
        assert!(rates.count(client(3 * MAX_CLIENTS - 1), start).is_err());
        // After two periods, nothing of them is left.
        for seconds in [60, 120] {
            let later = start + Duration::from_secs(seconds);
            assert!(rates.count(client(0), later).is_ok(), "{seconds}");
        }
        assert_eq!(remembered(&rates), 2);
    }
}
