//! Fair shares: limits the concurrent connections and requests of one client address, so that no client can starve the
//! others.
//!
//! A client is an IPv4 address or an IPv6 network of 64 bits. This machine itself (127.0.0.1, `::1`, Unix
//! sockets) is not counted: a proxy on it speaks for many clients.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::rate::Rate;
use oci::addresses::network;

/// `limits.per_client` of the configuration. `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerClient {
    /// The most open connections of one client.
    pub connections: Option<usize>,
    /// The most requests of one client that are in flight at once.
    pub requests: Option<usize>,
    /// The most requests of one client per time.
    pub rate: Option<Rate>,
}

impl PerClient {
    fn of(self, kind: Kind) -> Option<usize> {
        match kind {
            Kind::Connection => self.connections,
            Kind::Request => self.requests,
        }
    }
}

/// A limited resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An open connection, idle or not.
    Connection,
    /// A request, from its head to the end of the response.
    Request,
}

/// The client uses its whole share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the client has reached its limit")]
pub struct Exhausted;

#[derive(Debug, Default)]
struct Counts {
    connections: usize,
    requests: usize,
}

impl Counts {
    fn of(&mut self, kind: Kind) -> &mut usize {
        match kind {
            Kind::Connection => &mut self.connections,
            Kind::Request => &mut self.requests,
        }
    }
}

/// The open connections or requests of each client. A client without any has no entry, so there are never more entries than
/// connections and requests.
#[derive(Debug)]
pub struct Shares(Mutex<State>);

#[derive(Debug)]
struct State {
    limits: PerClient,
    clients: HashMap<IpAddr, Counts>,
}

/// One slot of a client's share, released when dropped.
#[derive(Debug)]
pub struct Share {
    /// `None`: this client is not limited.
    _place: Option<Place>,
    number: usize,
}

#[derive(Debug)]
struct Place {
    shares: Arc<Shares>,
    client: IpAddr,
    kind: Kind,
}

impl Shares {
    /// No client has a connection or a request yet.
    pub fn new(limits: PerClient) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            limits,
            clients: HashMap::new(),
        })))
    }

    /// Changes the limits. Slots that are taken stay taken, also beyond them.
    pub fn set_limits(&self, limits: PerClient) {
        self.state().limits = limits;
    }

    /// Takes one slot. `client` is the address that a connection came from; `None` for a Unix socket.
    ///
    /// # Errors
    /// [`Exhausted`] when the client uses its whole share.
    pub fn take(self: &Arc<Self>, kind: Kind, client: Option<IpAddr>) -> Result<Share, Exhausted> {
        let Some(client) = limited_network(client) else {
            return Ok(Share {
                _place: None,
                number: 0,
            });
        };
        let mut state = self.state();
        let most = state.limits.of(kind);
        let count = state.clients.entry(client).or_default().of(kind);
        // A client at its limit has an entry above zero, so no empty one is left behind.
        if most.is_some_and(|most| *count >= most) {
            return Err(Exhausted);
        }
        *count += 1;
        let number = *count;
        Ok(Share {
            number,
            _place: Some(Place {
                shares: self.clone(),
                client,
                kind,
            }),
        })
    }

    /// The slots that a client has taken, and the most that it may; `None` for a client that is not limited.
    pub fn taken(&self, kind: Kind, client: Option<IpAddr>) -> Option<(usize, Option<usize>)> {
        let client = limited_network(client)?;
        let mut state = self.state();
        let taken = state
            .clients
            .get_mut(&client)
            .map_or(0, |counts| *counts.of(kind));
        Some((taken, state.limits.of(kind)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// The slots of the client when it took this one, this one included; 0 for a client without a limit.
    pub fn number(&self) -> usize {
        self.number
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.shares.state();
        if let Entry::Occupied(mut entry) = state.clients.entry(self.client) {
            let count = entry.get_mut().of(self.kind);
            *count = count.saturating_sub(1);
            if entry.get().connections == 0 && entry.get().requests == 0 {
                entry.remove();
            }
        }
    }
}

/// The network that a client is counted by; `None` for this machine itself, which has no limit.
pub(super) fn limited_network(client: Option<IpAddr>) -> Option<IpAddr> {
    client.filter(|client| is_counted(*client)).map(network)
}

fn is_counted(client: IpAddr) -> bool {
    let local = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    !local.contains(&client.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(connections: usize, requests: usize) -> Arc<Shares> {
        Shares::new(PerClient {
            connections: Some(connections),
            requests: Some(requests),
            rate: None,
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_has_its_share_and_no_more() {
        let shares = shares(2, 1);
        let take = |kind, client| shares.take(kind, Some(ip(client)));
        let first = take(Kind::Connection, "192.0.2.1").expect("room");
        // The same client, in every notation of its address.
        let second = take(Kind::Connection, "::ffff:192.0.2.1").expect("room");
        assert_eq!((first.number(), second.number()), (1, 2));
        assert!(take(Kind::Connection, "192.0.2.1").is_err());
        assert!(take(Kind::Connection, "192.0.2.2").is_ok());
        let request = take(Kind::Request, "192.0.2.1").expect("they count apart");
        assert!(take(Kind::Request, "192.0.2.1").is_err());
        drop((first, request));
        assert!(take(Kind::Connection, "192.0.2.1").is_ok());
        assert!(take(Kind::Request, "192.0.2.1").is_ok());
        let six = [
            take(Kind::Connection, "2001:db8:1:2::1"),
            take(Kind::Connection, "2001:db8:1:2:ffff::1"),
        ];
        assert!(six.iter().all(Result::is_ok));
        assert!(take(Kind::Connection, "2001:db8:1:2:3::").is_err());
        assert!(take(Kind::Connection, "2001:db8:1:3::1").is_ok());
    }

    #[test]
    fn changed_limits_apply_to_the_next() {
        let shares = shares(2, 1);
        let take = || shares.take(Kind::Connection, Some(ip("192.0.2.1")));
        let open = [take(), take()];
        assert!(open.iter().all(Result::is_ok) && take().is_err());
        let limits = |connections| PerClient {
            connections,
            requests: None,
            rate: None,
        };
        shares.set_limits(limits(None));
        let more = take();
        assert!(more.is_ok());
        shares.set_limits(limits(Some(1)));
        drop(open);
        assert!(take().is_err(), "one is open");
        drop(more);
        assert!(take().is_ok());
    }

    #[test]
    fn this_machine_is_not_counted() {
        let shares = shares(1, 1);
        for client in [
            None,
            Some(ip("127.0.0.1")),
            Some(ip("::1")),
            Some(ip("::ffff:127.0.0.1")),
        ] {
            let open: Vec<_> = (0..10)
                .map(|_| shares.take(Kind::Connection, client))
                .collect();
            assert!(open.iter().all(Result::is_ok), "{client:?}");
        }
        assert!(shares.state().clients.is_empty());
        let counted = shares.take(Kind::Connection, Some(ip("127.0.0.2")));
        assert!(
            counted.is_ok()
                && shares
                    .take(Kind::Connection, Some(ip("127.0.0.2")))
                    .is_err()
        );
    }

    #[test]
    fn clients_with_nothing_open_are_forgotten() {
        let shares = shares(1, 1);
        let open: Vec<_> = (0..=255)
            .map(|last| shares.take(Kind::Connection, Some(IpAddr::from([192, 0, 2, last]))))
            .collect();
        let refused = shares.take(Kind::Connection, Some(ip("192.0.2.7")));
        assert!(refused.is_err());
        let request = shares.take(Kind::Request, Some(ip("192.0.2.7")));
        assert_eq!(shares.state().clients.len(), 256);
        drop(open);
        assert_eq!(shares.state().clients.len(), 1);
        drop(request);
        assert!(shares.state().clients.is_empty());
    }

    #[test]
    fn without_limits_nothing_is_refused() {
        let shares = Shares::new(PerClient {
            connections: None,
            requests: None,
            rate: None,
        });
        let open: Vec<_> = (0..1000)
            .map(|_| shares.take(Kind::Request, Some(ip("192.0.2.1"))))
            .collect();
        assert!(open.iter().all(Result::is_ok));
    }
}
