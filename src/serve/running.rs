//! The running gateway: started, and drained.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::listeners::{
    AdminKind, AdminPlace, RunningAdminListener, RunningListener, addresses, admin_places, bind,
    bind_admin,
};
use super::parts::{Outliving, Parts, events_of, open_contents, open_store};
use super::takeover::Takeover;
use super::{Load, ServeError};
use crate::admin::{self, Admin};
use crate::announce::{self, Announcement};
use crate::certificates::Certificates;
use crate::client_url::{bound_port, client_url, machine_name};
use crate::config::{Config, Listen};
use events::{Events, Recording};
use gateway::{Admission, AppState, ExplainedListener, Explainer, Gateway, Server, Service};
use runtime::listen::{Address, Bound};
use runtime::passed::PassedSockets;
use runtime::share::Shares;
use runtime::workers::Workers;
use store::{Predecessor, Store};

/// The gateway under the configuration in force.
pub struct Running {
    pub(super) config: Config,
    pub(super) load: Load,
    pub(super) passed: PassedSockets,
    pub(super) state: Arc<AppState>,
    pub(super) certificates: Certificates,
    pub(super) store: Arc<Store>,
    pub(super) shares: Arc<Shares>,
    pub(super) server: Server,
    pub(super) recording: Option<Recording>,
    /// Where alerts are recorded.
    pub(super) alerts: watch::Sender<Option<Events>>,
    pub(super) listeners: Vec<RunningListener>,
    pub(super) admin: watch::Sender<Arc<Admin>>,
    pub(super) admin_listeners: Vec<RunningAdminListener>,
    pub(super) draining: watch::Sender<bool>,
    /// Tasks that write histories and pins to the store.
    keepers: Vec<AbortHandle>,
    /// Answers the process that this one has taken over from, until that one ends.
    predecessor: Option<JoinHandle<()>>,
    /// Whether another process has taken over.
    pub(super) is_handed_over: bool,
    /// The slots of admin connections whose listeners another process has.
    pub(super) admin_connections: Vec<Arc<Semaphore>>,
}

impl Running {
    /// Opens everything and accepts connections, then announces that it is ready. With `takeover` the sockets and the store
    /// are another process's until then.
    pub async fn start(
        config: Config,
        load: Load,
        passed: PassedSockets,
        fills_on: tokio::runtime::Handle,
        commands: mpsc::Sender<admin::Command>,
        takeover: &mut Option<Takeover>,
    ) -> Result<Self, ServeError> {
        let mut parts = Parts::open(&config, None)?;
        let (sockets, predecessor) = take_over(&config, &passed, takeover.as_mut()).await?;
        let store = open_store(&config, &fills_on, predecessor)?;
        // After the certificates: their CA may be one that was just made.
        let contents = open_contents(&config, store.clone(), fills_on)?;
        let content = parts.content(contents)?;
        let recording = open_recording(&config)?;
        let alerts = watch::Sender::new(events_of(&config, recording.as_ref()));
        subscribe_to_alerts(alerts.subscribe());
        let shares = Shares::new(config.limits.per_client);
        let outliving = outliving(&config, &shares, alerts.borrow().clone());
        let state = parts.state(&config, content, outliving);
        let workers = Workers::start(std::thread::available_parallelism().map_or(1, usize::from))?;
        let server = Server::new(config.limits.connections, shares.clone(), workers);
        let (bounds, admin_bounds) = match sockets {
            Some(sockets) => sockets,
            None => open_sockets(&config, &passed, None).await?,
        };
        announce(
            &config,
            &bounds,
            &admin_bounds,
            &parts.certificates,
            store.is_new(),
        );
        let listeners = start_listeners(&config, &state, &server, &mut parts, bounds);
        parts.certificates.keep();
        let draining = watch::Sender::new(false);
        let configured = configured(&config, &state, &mut parts, &listeners);
        let history = state.history.clone();
        let admin = Admin::new(configured, history, draining.subscribe(), commands);
        let admin = watch::Sender::new(Arc::new(admin));
        let start_admin =
            |(place, bound)| RunningAdminListener::start(place, bound, admin.subscribe());
        let ready = |takeover: Takeover| takeover.ready(state.mirror.clone(), state.events.clone());
        let predecessor = takeover.take().map(ready);
        let mut running = Self {
            admin_listeners: admin_bounds.into_iter().map(start_admin).collect(),
            certificates: parts.certificates,
            config,
            load,
            passed,
            state,
            store,
            shares,
            server,
            recording,
            alerts,
            listeners,
            admin,
            draining,
            keepers: Vec::new(),
            predecessor,
            is_handed_over: false,
            admin_connections: Vec::new(),
        };
        running.inherit_files();
        running.start_keepers();
        Ok(running)
    }

    /// Socket files are removed at the end, also those that the process before this one has made.
    fn inherit_files(&self) {
        for listener in &self.listeners {
            listener.inherit_file();
        }
        for listener in &self.admin_listeners {
            listener.inherit_file();
        }
    }

    /// Starts the tasks that write histories and pins to the store.
    pub(super) fn start_keepers(&mut self) {
        let history = tokio::spawn(Admin::keep_history(self.admin.subscribe()));
        let pins = tokio::spawn(Admin::keep_pins(self.admin.subscribe()));
        self.keepers = vec![history.abort_handle(), pins.abort_handle()];
    }

    /// Ends them.
    pub(super) fn stop_keepers(&mut self) {
        for keeper in self.keepers.drain(..) {
            keeper.abort();
        }
    }

    /// Reopens the audit log, for log rotation.
    pub async fn reopen_audit_log(&self) {
        if let Some(recording) = &self.recording {
            recording.events().reopen_audit_log().await;
        }
    }

    /// Ends: accepts nothing more, waits for the requests in flight, and writes what is in memory.
    pub async fn drain(self) {
        tracing::info!("draining");
        self.draining.send_replace(true);
        // Nobody could be verified any more; the next process orders what is due.
        drop(self.certificates);
        let deadline = Instant::now() + self.config.limits.drain;
        if self.is_handed_over {
            // Idle connections end by themselves, or at the end.
            self.server.drained(self.config.limits.drain).await;
            // The one that asked for the upgrade gets its answer.
            for connections in &self.admin_connections {
                let gone = admin::disconnected(connections);
                let _ = tokio::time::timeout(ADMIN_CLOSING, gone).await;
            }
        }
        for listener in &self.listeners {
            listener.shut_down();
        }
        // They close, and remove their socket files, before the process may end.
        for listener in self.listeners {
            listener.closed().await;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if !self.server.drained(left.max(CLOSING)).await {
            tracing::warn!("limits.drain has expired; remaining requests are cut off");
        }
        if let Some(predecessor) = self.predecessor {
            // Its clients may wait for a fill here.
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = tokio::time::timeout(left, predecessor).await;
        }
        // Until now they reported the gateway as live and not ready.
        for listener in self.admin_listeners {
            listener.close().await;
        }
        if !self.is_handed_over {
            self.admin.borrow().write_history();
        }
        self.store.blobs.stop();
        if let Some(recording) = &self.recording {
            recording.events().flush().await;
        }
    }
}

/// How long idle connections may take to close.
const CLOSING: Duration = Duration::from_millis(500);
/// How long admin connections may last after an upgrade.
const ADMIN_CLOSING: Duration = Duration::from_secs(2);

fn subscribe_to_alerts(current: watch::Receiver<Option<Events>>) {
    telemetry::alerts::subscribe(move |alert| {
        if let Some(events) = &*current.borrow() {
            events.alert(alert);
        }
    });
}

type Sockets = (Vec<Bound>, Vec<(AdminPlace, Bound)>);

/// Takes over the sockets and the store of another process, once everything that needs neither is open.
async fn take_over(
    config: &Config,
    passed: &PassedSockets,
    takeover: Option<&mut Takeover>,
) -> Result<(Option<Sockets>, Option<Predecessor>), ServeError> {
    let Some(takeover) = takeover else {
        return Ok((None, None));
    };
    let sockets = open_sockets(config, passed, Some(takeover)).await?;
    Ok((Some(sockets), Some(takeover.store().await?)))
}

/// Opens the audit log and the webhooks, if any are configured.
fn open_recording(config: &Config) -> Result<Option<Recording>, ServeError> {
    let settings = config.events_settings();
    let recording = (!settings.is_empty()).then(|| Recording::open(settings));
    Ok(recording.transpose()?)
}

/// What outlives changes of the configuration.
fn outliving(config: &Config, shares: &Arc<Shares>, events: Option<Events>) -> Outliving {
    let admission = Admission::new(
        shares.clone(),
        config.limits.per_client.rate,
        config.limits.connections,
    );
    Outliving {
        history: Arc::default(),
        admission: Arc::new(admission),
        events,
    }
}

/// Binds all listeners; those that another process has are taken over.
async fn open_sockets(
    config: &Config,
    passed: &PassedSockets,
    mut takeover: Option<&mut Takeover>,
) -> Result<Sockets, ServeError> {
    let mut bounds = Vec::new();
    for (listen, address) in config.listen.iter().zip(addresses(config)) {
        let scheme = listen.routing().scheme;
        let open = match &mut takeover {
            Some(takeover) => takeover.socket("listen", &address, scheme)?,
            None => None,
        };
        bounds.push(match open {
            Some(open) => open,
            None => bind(&address, scheme, passed).await?,
        });
    }
    let mut admin_bounds = Vec::new();
    for place in admin_places(config) {
        let open = match &mut takeover {
            Some(takeover) => {
                takeover.socket(&place.key(), &place.address, place.scheme(config))?
            }
            None => None,
        };
        if let Some(bound) = open {
            admin_bounds.push((place, bound));
        } else if let Some(bound) = bind_admin(&place, config, passed).await? {
            admin_bounds.push((place, bound));
        }
    }
    warn_of_unused(config, passed).await;
    Ok((bounds, admin_bounds))
}

/// Warns of passed sockets whose clients would wait for ever.
async fn warn_of_unused(config: &Config, passed: &PassedSockets) {
    let admin = admin_places(config).into_iter().map(|place| place.address);
    let configured: Vec<Address> = addresses(config).into_iter().chain(admin).collect();
    for (socket, address) in passed.unused(&configured).await {
        tracing::warn!(
            socket,
            address,
            "the service manager passed a socket that no address of the configuration is for; clients that connect to it \
             get no answer"
        );
    }
}

fn announce(
    config: &Config,
    bounds: &[Bound],
    admin_bounds: &[(AdminPlace, Bound)],
    certificates: &Certificates,
    store_is_new: bool,
) {
    let configured = admin_bounds
        .iter()
        .filter(|(place, _)| place.kind == AdminKind::Configured);
    let admin_listeners: Vec<_> = configured
        .map(|(place, bound)| (bound.url.as_str(), place.scope))
        .collect();
    let urls: Vec<&str> = bounds.iter().map(|bound| bound.url.as_str()).collect();
    announce::announce(&Announcement {
        listeners: &urls,
        admin_listeners: &admin_listeners,
        client_urls: &client_urls(config, &urls),
        authority: certificates.authority.as_ref(),
        store_is_new,
        config,
    });
}

fn start_listeners(
    config: &Config,
    state: &Arc<AppState>,
    server: &Server,
    parts: &mut Parts,
    bounds: Vec<Bound>,
) -> Vec<RunningListener> {
    let listeners = config.listen.iter().zip(bounds).zip(parts.tls.drain(..));
    let listeners = listeners.map(|((listen, bound), tls)| {
        let service = Service {
            gateway: Gateway::new(state.clone(), listen.routing()),
            tls,
            settings: config.server_settings(),
            url: bound.url.clone(),
        };
        RunningListener::start(server, listen.listen_address(), bound, service)
    });
    listeners.collect()
}

/// What a configuration makes of the admin API.
pub(super) fn configured(
    config: &Config,
    state: &Arc<AppState>,
    parts: &mut Parts,
    listeners: &[RunningListener],
) -> admin::Configured {
    let urls: Vec<&str> = listeners.iter().map(|one| one.url.as_str()).collect();
    let explained = config.listen.iter().zip(&urls).map(|(listen, url)| {
        let listener = ExplainedListener {
            address: listen.address.to_string(),
            url: (*url).to_owned(),
        };
        (listener, Gateway::new(state.clone(), listen.routing()))
    });
    admin::Configured {
        settings: config.admin_settings(pull_authority(&client_urls(config, &urls))),
        mirror: state.mirror.clone(),
        explainer: Explainer::new(explained.collect()),
        authenticator: parts.operators.take(),
        tls: parts.admin_tls.take(),
        audit_log: state.events.clone(),
        listeners: listeners.iter().map(RunningListener::task).collect(),
    }
}

/// The listeners with the URLs by which clients reach them; `urls` are those that they are bound to.
fn client_urls<'a>(config: &'a Config, urls: &[&str]) -> Vec<(&'a Listen, Option<String>)> {
    let machine = machine_name();
    let listeners = config.listen.iter().zip(urls);
    let with_url = |(listen, url): (&'a Listen, &&str)| {
        (listen, client_url(listen, bound_port(url), &machine))
    };
    listeners.map(with_url).collect()
}

/// The authority that clients pull any image from: that of the first listener for all registries, with TLS if there is one.
fn pull_authority(listeners: &[(&Listen, Option<String>)]) -> Option<String> {
    let general = listeners
        .iter()
        .filter(|(listen, _)| listen.registry.is_none());
    let urls: Vec<&String> = general.filter_map(|(_, url)| url.as_ref()).collect();
    let encrypted = urls.iter().find(|url| url.starts_with("https:"));
    let (_, authority) = encrypted.or(urls.first())?.split_once("://")?;
    Some(authority.to_owned())
}
