//! The open listeners: bound at the start, and added or removed when the configuration changes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::ServeError;
use crate::admin::{self, Admin, CurrentAdmin};
use crate::config::{Config, Listen, Tls};
use gateway::{ListenerPhase, Server, Service};
use runtime::listen::{Address, Bound, FileOwner};
use runtime::passed::PassedSockets;
use runtime::{SocketPermissions, keys_folder};

/// A listener of the data plane.
pub struct RunningListener {
    pub address: Address,
    pub url: String,
    bound: Arc<Bound>,
    service: watch::Sender<Arc<Service>>,
    phase: watch::Sender<ListenerPhase>,
    task: JoinHandle<()>,
}

impl RunningListener {
    /// Accepts connections from now on.
    pub fn start(server: &Server, address: Address, bound: Bound, service: Service) -> Self {
        let url = service.url.clone();
        let (service, current) = watch::channel(Arc::new(service));
        let (phase, current_phase) = watch::channel(ListenerPhase::Open);
        let bound = Arc::new(bound);
        let listening = server.clone();
        let listening = listening.listen(bound.clone(), current, current_phase);
        Self {
            address,
            url,
            bound,
            service,
            phase,
            task: tokio::spawn(listening),
        }
    }

    /// Its socket, for another process.
    ///
    /// # Errors
    /// The system's.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.bound.duplicate()
    }

    /// Removes the socket file of the process before this one at the end.
    pub fn inherit_file(&self) {
        self.bound.inherit_file();
    }

    /// Who removes its socket file.
    pub fn file_owner(&self) -> FileOwner {
        self.bound.file_owner()
    }

    /// What it does with connections from now on.
    pub fn set_phase(&self, phase: ListenerPhase) {
        if phase == ListenerPhase::HandedOver {
            self.bound.set_file_owner(FileOwner::Other);
        }
        self.phase.send_replace(phase);
    }

    /// Answers requests by another service from now on.
    pub fn replace(&mut self, service: Service) {
        self.url.clone_from(&service.url);
        self.service.send_replace(Arc::new(service));
    }

    /// The service in force.
    pub fn service(&self) -> Arc<Service> {
        self.service.borrow().clone()
    }

    /// Runs as long as connections are accepted.
    pub fn task(&self) -> AbortHandle {
        self.task.abort_handle()
    }

    /// Begins to end: no further connection is accepted, and those in use end after their request.
    pub fn shut_down(&self) {
        self.set_phase(ListenerPhase::Closing);
    }

    /// Waits until its socket is closed, after [`RunningListener::shut_down`].
    pub async fn closed(self) {
        let _ = self.task.await;
    }
}

/// An admin listener.
pub struct RunningAdminListener {
    pub place: AdminPlace,
    bound: Arc<Bound>,
    connections: Arc<Semaphore>,
    task: JoinHandle<()>,
}

/// Where an admin listener is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminPlace {
    pub address: Address,
    pub scope: admin::Scope,
    pub kind: AdminKind,
}

impl AdminPlace {
    /// The scheme of its URL.
    pub fn scheme(&self, config: &Config) -> &'static str {
        match (self.kind, self.scope, &config.admin.tls) {
            (AdminKind::Commands, ..) => "",
            (AdminKind::Configured, admin::Scope::Metrics, _)
            | (AdminKind::Configured, _, Tls::Off) => "http",
            (AdminKind::Configured, admin::Scope::Everything, _) => "https",
        }
    }
}

/// What an admin listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminKind {
    /// It is configured.
    Configured,
    /// The commands of this machine reach the gateway by it, where the admin address demands TLS or a login.
    Commands,
}

impl RunningAdminListener {
    /// Accepts connections from now on.
    pub fn start(place: AdminPlace, bound: Bound, current: CurrentAdmin) -> Self {
        let bound = Arc::new(bound);
        let connections = admin::connection_slots();
        let serving = Admin::serve(current, bound.clone(), place.scope, connections.clone());
        Self {
            task: tokio::spawn(serving),
            place,
            bound,
            connections,
        }
    }

    /// Its socket, for another process.
    ///
    /// # Errors
    /// The system's.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.bound.duplicate()
    }

    /// Removes the socket file of the process before this one at the end.
    pub fn inherit_file(&self) {
        self.bound.inherit_file();
    }

    /// Who removes its socket file.
    pub fn file_owner(&self) -> FileOwner {
        self.bound.file_owner()
    }

    /// Leaves the socket to another process. Returns the slots of connections that are open, which go on.
    pub async fn hand_over(self) -> Arc<Semaphore> {
        self.bound.set_file_owner(FileOwner::Other);
        let connections = self.connections.clone();
        self.close().await;
        connections
    }

    /// Closes it. Connections that are open go on.
    pub async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// The addresses of the data plane, in the order of the configuration.
pub fn addresses(config: &Config) -> Vec<Address> {
    let listeners = config.listen.iter();
    listeners.map(Listen::listen_address).collect()
}

/// The places of the admin listeners.
pub fn admin_places(config: &Config) -> Vec<AdminPlace> {
    let configured = config.admin.listeners().into_iter();
    let configured = configured.map(|(address, scope)| AdminPlace {
        address,
        scope,
        kind: AdminKind::Configured,
    });
    let commands = config.admin.command_socket(&config.keys);
    let commands = commands.map(|path| AdminPlace {
        address: Address::Unix(path, SocketPermissions::OWNER),
        scope: admin::Scope::Everything,
        kind: AdminKind::Commands,
    });
    configured.chain(commands).collect()
}

/// Opens an address of the data plane; `scheme` is that of its URL.
pub async fn bind(
    address: &Address,
    scheme: &str,
    passed: &PassedSockets,
) -> Result<Bound, ServeError> {
    bind_as("listen", address, scheme, passed).await
}

/// Opens an admin listener; `None` if the commands' cannot be bound, which is logged.
pub async fn bind_admin(
    place: &AdminPlace,
    config: &Config,
    passed: &PassedSockets,
) -> Result<Option<Bound>, ServeError> {
    let AdminPlace {
        address,
        scope,
        kind,
    } = place;
    match kind {
        AdminKind::Configured => {
            let bound = bind_as(scope.key(), address, place.scheme(config), passed);
            bound.await.map(Some)
        }
        AdminKind::Commands => {
            // Where nothing else needed the folder, it does not exist yet.
            let bound = match keys_folder::open(&config.keys) {
                Ok(()) => {
                    let bound = Bound::bind(address, "").await;
                    bound.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            let unreachable = |error: &String| {
                let message = "commands such as `roadstead stats` cannot reach the gateway";
                tracing::warn!(%address, error, "{message}");
            };
            Ok(bound.inspect_err(unreachable).ok())
        }
    }
}

/// Takes the socket that was passed for an address, or binds it; `key` names it in the configuration.
async fn bind_as(
    key: &'static str,
    address: &Address,
    scheme: &str,
    passed: &PassedSockets,
) -> Result<Bound, ServeError> {
    let bound = match passed.open(address, scheme).await {
        Some(bound) => bound,
        None => Bound::bind(address, scheme).await,
    };
    bound.map_err(|reason| ServeError::Listen {
        key,
        address: address.to_string(),
        reason,
    })
}

/// For each wanted item the index of an equal open one, which serves one item only.
pub fn matching<T: PartialEq>(open: &[&T], wanted: &[T]) -> Vec<Option<usize>> {
    let mut used = vec![false; open.len()];
    let find = |wanted: &T| {
        let mut free = (0..open.len()).filter(|&index| !used[index]);
        let found = free.find(|&index| open[index] == wanted)?;
        used[found] = true;
        Some(found)
    };
    wanted.iter().map(find).collect()
}

/// The URL of a socket with another scheme.
pub fn with_scheme(url: &str, scheme: &str) -> String {
    match url.split_once("://") {
        Some((_, authority)) => format!("{scheme}://{authority}"),
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_listeners_serve_one_address_each() {
        for (open, wanted, expected) in [
            ("ab", "ba", vec![Some(1), Some(0)]),
            ("aa", "a", vec![Some(0)]),
            ("aba", "aaa", vec![Some(0), Some(2), None]),
            ("", "a", vec![None]),
            ("a", "", vec![]),
        ] {
            let open: Vec<char> = open.chars().collect();
            let open: Vec<&char> = open.iter().collect();
            let wanted: Vec<char> = wanted.chars().collect();
            assert_eq!(matching(&open, &wanted), expected);
        }
    }

    #[test]
    fn urls_follow_the_scheme() {
        for (url, expected) in [
            ("http://127.0.0.1:5000", "https://127.0.0.1:5000"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(with_scheme(url, "https"), expected);
        }
    }
}
