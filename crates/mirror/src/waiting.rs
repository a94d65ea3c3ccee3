//! Who waits for a fill, for operators.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many clients of one fill are remembered at once. The others are counted.
const MAX_CLIENTS: usize = 64;

/// On whose behalf content is read.
#[derive(Clone, Copy, Debug)]
pub enum Requester<'a> {
    /// A client of the gateway.
    Client {
        /// `None` on a Unix socket.
        address: Option<IpAddr>,
        /// `None`: anonymous.
        user: Option<&'a Arc<str>>,
    },
    /// The gateway itself: an operator's command, a conversion.
    Gateway,
}

/// A client that waits for a fill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingClient {
    /// `None` on a Unix socket.
    pub address: Option<IpAddr>,
    /// `None`: anonymous.
    pub user: Option<Arc<str>>,
}

/// The clients that wait for one fill.
#[derive(Debug, Default)]
pub(super) struct WaitingClients(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    clients: BTreeMap<u64, WaitingClient>,
    last: u64,
}

/// The place of a client among those that wait. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct WaitingPlace {
    all: Arc<WaitingClients>,
    number: u64,
}

impl WaitingClients {
    /// Remembers a client while the result lives; `None` for the gateway itself, and for more than [`MAX_CLIENTS`].
    pub fn add(self: &Arc<Self>, requester: Requester<'_>) -> Option<WaitingPlace> {
        let Requester::Client { address, user } = requester else {
            return None;
        };
        let mut waiting = self.waiting();
        if waiting.clients.len() >= MAX_CLIENTS {
            return None;
        }
        waiting.last += 1;
        let number = waiting.last;
        let user = user.cloned();
        let client = WaitingClient { address, user };
        waiting.clients.insert(number, client);
        Some(WaitingPlace {
            all: self.clone(),
            number,
        })
    }

    /// Those that wait, each once, first those that have waited longest.
    pub fn all(&self) -> Vec<WaitingClient> {
        let waiting = self.waiting();
        let mut all: Vec<WaitingClient> = Vec::new();
        for client in waiting.clients.values() {
            if !all.contains(client) {
                all.push(client.clone());
            }
        }
        all
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for WaitingPlace {
    fn drop(&mut self) {
        self.all.waiting().clients.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_remembered_while_they_wait() {
        let all = Arc::new(WaitingClients::default());
        let user: Arc<str> = "alice".into();
        let client = |last: u8, user| Requester::Client {
            address: Some(IpAddr::from([10, 0, 0, last])),
            user,
        };
        let first = all.add(client(1, Some(&user)));
        let again = all.add(client(1, Some(&user)));
        let other = all.add(client(2, None));
        assert!(all.add(Requester::Gateway).is_none());
        assert_eq!(all.all().len(), 2, "each is named once");
        drop(first);
        assert_eq!(all.all().len(), 2, "another request of it waits");
        drop((again, other));
        assert_eq!(all.all(), []);
        let many: Vec<_> = (0..=255).map(|last| all.add(client(last, None))).collect();
        assert_eq!(all.all().len(), MAX_CLIENTS);
        assert_eq!(many.iter().flatten().count(), MAX_CLIENTS);
        drop(many);
        assert_eq!(all.all(), []);
    }
}
