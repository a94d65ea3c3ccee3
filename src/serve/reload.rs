//! Reloads: another configuration takes the place of the one in force, all of it or nothing.

use std::sync::Arc;

use super::ServeError;
use super::listeners::{
    AdminPlace, RunningAdminListener, RunningListener, addresses, admin_places, bind, bind_admin,
    matching, with_scheme,
};
use super::parts::{Before, Outliving, Parts, events_of, succeed};
use super::running::{Running, configured};
use crate::admin;
use crate::config::{Config, Faults};
use events::Recording;
use gateway::{AppState, Gateway, Service};
use runtime::listen::{Address, Bound};

/// Why the configuration is not changed.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The file has faults.
    #[error(transparent)]
    Faults(#[from] Faults),
    /// What it names cannot be used.
    #[error("{}", telemetry::chain(.0))]
    Parts(#[from] ServeError),
}

/// A change that is ready to be applied, which cannot fail any more.
struct Change {
    state: Arc<AppState>,
    parts: Parts,
    /// For each configured listener the open one that serves it; else a new socket.
    sockets: Vec<SocketChoice>,
    admin_sockets: Vec<(AdminPlace, AdminSocket)>,
    recording: RecordingChange,
}

enum SocketChoice {
    Open(usize),
    New(Bound),
}

enum AdminSocket {
    Open(usize),
    New(Bound),
    /// The commands' socket could not be bound.
    Missing,
}

enum RecordingChange {
    None,
    Opened(Recording),
    Prepared(events::Prepared),
}

impl Running {
    /// Applies the configuration as its file is now: all of it, or nothing. Requests in flight, connections and fills go on.
    ///
    /// # Errors
    /// [`ReloadError`], with everything that prevents it.
    pub async fn reload(&mut self) -> Result<admin::Configuration, ReloadError> {
        let config = (self.load)(&self.config)?;
        for warning in &config.warnings {
            tracing::warn!(%warning, "the configuration has a warning");
        }
        let change = self.prepare(&config).await?;
        self.apply(config, change).await;
        Ok(self.admin.borrow().configuration().clone())
    }

    /// Opens what another configuration needs, without effect on what runs.
    async fn prepare(&self, config: &Config) -> Result<Change, ServeError> {
        let settings = config.events_settings();
        let recording = match &self.recording {
            Some(recording) => RecordingChange::Prepared(recording.prepare(settings)?),
            None if settings.is_empty() => RecordingChange::None,
            None => RecordingChange::Opened(Recording::open(settings)?),
        };
        let sockets = self.sockets(config).await?;
        let admin_sockets = self.admin_sockets(config).await?;
        let admin = self.admin.borrow().clone();
        let before = Before {
            state: &self.state,
            certificates: &self.certificates,
            operators: admin.operators(),
        };
        let mut parts = Parts::open(config, Some(before))?;
        let content = parts.changed_content(&self.state)?;
        let opened = match &recording {
            RecordingChange::Opened(recording) => Some(recording),
            RecordingChange::None | RecordingChange::Prepared(_) => self.recording.as_ref(),
        };
        let outliving = Outliving {
            history: self.state.history.clone(),
            admission: Arc::new(
                self.state
                    .admission
                    .with_rate(config.limits.per_client.rate),
            ),
            events: events_of(config, opened),
        };
        Ok(Change {
            state: parts.state(config, content, outliving),
            parts,
            sockets,
            admin_sockets,
            recording,
        })
    }

    async fn sockets(&self, config: &Config) -> Result<Vec<SocketChoice>, ServeError> {
        let wanted = addresses(config);
        let open: Vec<&Address> = self.listeners.iter().map(|one| &one.address).collect();
        let mut sockets = Vec::new();
        for (index, open) in matching(&open, &wanted).into_iter().enumerate() {
            sockets.push(if let Some(open) = open {
                SocketChoice::Open(open)
            } else {
                let scheme = config.listen[index].routing().scheme;
                SocketChoice::New(bind(&wanted[index], scheme, &self.passed).await?)
            });
        }
        Ok(sockets)
    }

    async fn admin_sockets(
        &self,
        config: &Config,
    ) -> Result<Vec<(AdminPlace, AdminSocket)>, ServeError> {
        let wanted = admin_places(config);
        let open: Vec<&AdminPlace> = self.admin_listeners.iter().map(|one| &one.place).collect();
        let open = matching(&open, &wanted);
        let mut sockets = Vec::new();
        for (place, open) in wanted.into_iter().zip(open) {
            let socket = match open {
                Some(open) => AdminSocket::Open(open),
                None => bind_admin(&place, config, &self.passed)
                    .await?
                    .map_or(AdminSocket::Missing, AdminSocket::New),
            };
            sockets.push((place, socket));
        }
        Ok(sockets)
    }

    /// Puts a change in force.
    async fn apply(&mut self, config: Config, change: Change) {
        let Change {
            state,
            mut parts,
            sockets,
            admin_sockets,
            recording,
        } = change;
        self.shares.set_limits(config.limits.per_client);
        state.admission.set_connections(config.limits.connections);
        self.server.set_connections(config.limits.connections);
        self.store.reconfigure(&config.store_settings());
        self.share_records(&config);
        let removed = self.replace_listeners(&config, &state, &mut parts, sockets);
        let configured = configured(&config, &state, &mut parts, &self.listeners);
        let admin = Arc::new(self.admin.borrow().reconfigured(configured));
        self.admin.send_replace(admin);
        let removed_admin = self.replace_admin_listeners(admin_sockets);
        succeed(&self.state, &state);
        self.alerts.send_replace(state.events.clone());
        self.change_recording(recording).await;
        self.certificates.make_way(&parts.certificates);
        self.certificates = parts.certificates;
        self.certificates.keep();
        self.state = state;
        self.config = config;
        for listener in removed {
            tracing::info!(url = listener.url, "removed a listener");
            listener.closed().await;
        }
        for listener in removed_admin {
            listener.close().await;
        }
    }

    /// Answers by the new state everywhere. Returns the listeners that are no longer configured, which end.
    fn replace_listeners(
        &mut self,
        config: &Config,
        state: &Arc<AppState>,
        parts: &mut Parts,
        sockets: Vec<SocketChoice>,
    ) -> Vec<RunningListener> {
        let before = std::mem::take(&mut self.listeners);
        let mut before: Vec<Option<RunningListener>> = before.into_iter().map(Some).collect();
        for ((listen, socket), tls) in config.listen.iter().zip(sockets).zip(parts.tls.drain(..)) {
            let service = |url: &str| {
                let routing = listen.routing();
                Service {
                    url: with_scheme(url, routing.scheme),
                    gateway: Gateway::new(state.clone(), routing),
                    tls,
                    settings: config.server_settings(),
                }
            };
            match socket {
                SocketChoice::New(bound) => {
                    tracing::info!(url = bound.url, "added a listener");
                    let (address, service) = (listen.listen_address(), service(&bound.url));
                    let listener = RunningListener::start(&self.server, address, bound, service);
                    self.listeners.push(listener);
                }
                SocketChoice::Open(index) => {
                    if let Some(mut listener) = before[index].take() {
                        listener.replace(service(&listener.url.clone()));
                        self.listeners.push(listener);
                    }
                }
            }
        }
        let mut removed: Vec<RunningListener> = before.into_iter().flatten().collect();
        for listener in &mut removed {
            // Its last requests are answered by the new state, too.
            let service = listener.service().with_state(state.clone());
            listener.replace(service);
            listener.shut_down();
        }
        removed
    }

    /// Returns the admin listeners that are no longer configured.
    fn replace_admin_listeners(
        &mut self,
        sockets: Vec<(AdminPlace, AdminSocket)>,
    ) -> Vec<RunningAdminListener> {
        let before = std::mem::take(&mut self.admin_listeners);
        let mut before: Vec<Option<RunningAdminListener>> = before.into_iter().map(Some).collect();
        for (place, socket) in sockets {
            let listener = match socket {
                AdminSocket::Open(index) => before[index].take(),
                AdminSocket::New(bound) => Some(RunningAdminListener::start(
                    place,
                    bound,
                    self.admin.subscribe(),
                )),
                AdminSocket::Missing => None,
            };
            self.admin_listeners.extend(listener);
        }
        before.into_iter().flatten().collect()
    }

    /// Has the bucket share the records of the registries.
    fn share_records(&self, config: &Config) {
        // Password files were read before; one that cannot be read any more changes nothing.
        if let (Some(bucket), Ok(Some(settings))) = (self.store.bucket(), config.bucket_settings())
        {
            bucket.set_views(&settings.views);
        }
    }

    async fn change_recording(&mut self, change: RecordingChange) {
        match (change, &mut self.recording) {
            (RecordingChange::Opened(recording), _) => self.recording = Some(recording),
            (RecordingChange::Prepared(prepared), Some(recording)) => {
                recording.apply(prepared);
                // A queue that is opened again later must not be written by the former one.
                recording.events().flush().await;
            }
            (RecordingChange::None | RecordingChange::Prepared(_), _) => {}
        }
    }
}
