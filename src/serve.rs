//! Composition root: `roadstead serve` opens, runs and drains every part of the gateway.

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin::{self, Admin};
use crate::announce::{self, Announcement};
use crate::certificates::Certificates;
use crate::client_url::{bound_port, client_url, machine_name};
use crate::config::{Config, Listen, Tls, record_extension};
use access::Authenticator;
use events::Events;
use gateway::{
    Admission, AppState, ExplainedListener, Explainer, Gateway, ListenerTls, Server, TlsError,
};
use mirror::{Contents, Mirror, Peers};
use runtime::listen::{Address, Bound};
use runtime::share::Shares;
use runtime::workers::Workers;
use runtime::{BindError, SocketPermissions, keys_folder};
use store::{Bucket, Store};

/// An error that prevents the start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{0}")]
    Configuration(String),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Access(#[from] access::OpenError),
    #[error(transparent)]
    Events(#[from] events::OpenError),
    #[error(transparent)]
    Store(#[from] store::OpenError),
    #[error("cannot listen on {address} ({key}): {reason}")]
    Listen {
        key: &'static str,
        address: String,
        reason: BindError,
    },
    #[error(transparent)]
    Bucket(#[from] store::BucketError),
    #[error(transparent)]
    Upstream(#[from] upstream::SetUpError),
    #[error("system error: {0}")]
    System(#[from] io::Error),
}

impl ServeError {
    /// The exit code: 78 (`EX_CONFIG`) for errors in the operator's files, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(_)
            | Self::Tls(_)
            | Self::Access(_)
            | Self::Bucket(_)
            | Self::Upstream(_) => 78,
            Self::Store(_) | Self::Events(_) | Self::Listen { .. } | Self::System(_) => 1,
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Any error before it is ready. Once it serves, none.
pub fn serve(config: &Config) -> Result<(), ServeError> {
    raise_descriptors();
    retain_freed_memory();
    // Connections have threads of their own. This one accepts them, and runs the admin listeners and maintenance.
    let serving = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("accept")
        .enable_all()
        .build()?;
    // Fills write to the disk, which may stall; serving must not stall with them.
    let filling = tokio::runtime::Builder::new_multi_thread()
        .thread_name("fill")
        .on_thread_start(yield_to_serving)
        .enable_all()
        .build()?;
    let outcome = serving.block_on(run(config, filling.handle().clone()));
    // Remaining tasks are cut off: the next start resumes the partials.
    filling.shutdown_background();
    serving.shutdown_background();
    outcome
}

/// Raises the limit of open files: every connection and every blob being read takes a descriptor.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};

    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Lets glibc's allocator retain a mebibyte of freed memory for each arena. By default it returns what exceeds 128 KiB to
/// the kernel, and a push over HTTP/2 takes a page fault for every few kilobytes to get it back (decision 48).
fn retain_freed_memory() {
    // Once an allocation of this size is freed, glibc's threshold is twice that, as mallopt(3) says.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(512 << 10)));
}

/// By how much a thread of fills is nicer than those that serve.
const FILL_NICENESS: i32 = 5;

/// Gives this thread a lower priority where all cores are busy: cached answers go before downloads.
fn yield_to_serving() {
    if let Err(error) = rustix::process::nice(FILL_NICENESS) {
        tracing::debug!(%error, "cannot lower the priority of a thread");
    }
}

/// Opens everything, serves until a signal, then drains.
async fn run(config: &Config, fills_on: tokio::runtime::Handle) -> Result<(), ServeError> {
    let Parts {
        state,
        store,
        shares,
        certificates,
        tls,
        admin_access,
    } = Parts::open(config, fills_on)?;
    // Before "ready" is printed: a supervisor that waits for it may send SIGTERM at once.
    let mut stop = Stop::new()?;
    reopen_at_hangup(state.events.clone())?;
    let (shutdown, down) = watch::channel(false);
    let workers = Workers::start(std::thread::available_parallelism().map_or(1, usize::from))?;
    let server = Server::new(config.server_settings(), shares, workers, down.clone());
    let bounds = open_listeners(config).await?;
    let admin_listeners = open_admin_listeners(config).await?;
    let command_socket = open_command_socket(config).await;
    let client_urls = client_urls(config, &bounds);
    announce::announce(&Announcement {
        listeners: &bounds,
        admin_listeners: &admin_listeners,
        client_urls: &client_urls,
        authority: certificates.authority.as_ref(),
        store: &store,
        config,
    });

    let explainer = explainer(config, &state, &bounds);
    let listeners = config.listen.iter().zip(bounds).zip(tls);
    let listeners = listeners.map(|((listen, bound), tls)| {
        let gateway = Gateway::new(state.clone(), listen.routing());
        tokio::spawn(server.clone().listen(bound, gateway, tls))
    });
    let listeners: Vec<JoinHandle<()>> = listeners.collect();
    let up = listeners.iter().map(JoinHandle::abort_handle).collect();
    let (mirror, history) = (state.mirror.clone(), state.history.clone());
    let settings = config.admin_settings(pull_authority(&client_urls));
    let (operators, admin_tls) = admin_access;
    let admin = Admin::new(settings, mirror, history, explainer, operators, up, down);
    let admin = Arc::new(admin.with_audit_log(state.events.clone()));
    let command_socket = command_socket.map(|bound| (bound, admin::Scope::Everything));
    let admin_listeners = admin_listeners.into_iter().chain(command_socket);
    let admin_listeners = admin_listeners.map(|(bound, scope)| {
        let tls = admin_tls.as_ref();
        let tls = tls.filter(|_| scope == admin::Scope::Everything).cloned();
        tokio::spawn(admin.clone().serve(bound, scope, tls))
    });
    let admin_listeners = admin_listeners.collect();
    tokio::spawn(admin.clone().keep_history());
    tokio::spawn(admin.clone().keep_pins());

    stop.wait().await;
    tracing::info!("draining");
    let _ = shutdown.send(true);
    drain(&server, listeners, admin_listeners).await;
    admin.write_history();
    store.blobs.stop();
    if let Some(events) = &state.events {
        events.flush().await;
    }
    Ok(())
}

/// The listeners with the URLs by which clients reach them.
fn client_urls<'a>(config: &'a Config, bounds: &[Bound]) -> Vec<(&'a Listen, Option<String>)> {
    let machine = machine_name();
    let listeners = config.listen.iter().zip(bounds);
    let with_url = |(listen, bound): (&'a Listen, &Bound)| {
        (listen, client_url(listen, bound_port(&bound.url), &machine))
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

/// How the listeners answer, for operators.
fn explainer(config: &Config, state: &Arc<AppState>, bounds: &[Bound]) -> Explainer {
    let listeners = config.listen.iter().zip(bounds).map(|(listen, bound)| {
        let listener = ExplainedListener {
            address: listen.address.to_string(),
            url: bound.url.clone(),
        };
        (listener, Gateway::new(state.clone(), listen.routing()))
    });
    Explainer::new(listeners.collect())
}

/// Waits for the listeners and their requests, which have been told to end.
async fn drain(
    server: &Server,
    listeners: Vec<JoinHandle<()>>,
    admin_listeners: Vec<JoinHandle<()>>,
) {
    // They close, and remove their socket files, before the process may end.
    for listener in listeners {
        let _ = listener.await;
    }
    if !server.drained().await {
        tracing::warn!("limits.drain has expired; remaining requests are cut off");
    }
    // Until now they reported the gateway as live and not ready.
    for listener in admin_listeners {
        listener.abort();
        let _ = listener.await;
    }
}

/// The parts of the gateway that are opened before its ports.
struct Parts {
    state: Arc<AppState>,
    store: Arc<Store>,
    /// Each client's share of the connections and requests.
    shares: Arc<Shares>,
    certificates: Certificates,
    /// One for each listener; `None` for plain HTTP.
    tls: Vec<Option<ListenerTls>>,
    /// The accounts and the TLS of the admin address.
    admin_access: (Option<Authenticator>, Option<ListenerTls>),
}

impl Parts {
    /// Opens the files of the configuration before the store, which is locked and scanned.
    fn open(config: &Config, fills_on: tokio::runtime::Handle) -> Result<Self, ServeError> {
        let mirror = config.mirror_settings().map_err(configuration)?;
        #[cfg(feature = "v1")]
        let v1 = config.v1_settings().map_err(configuration)?;
        let authenticator = config.authenticator_settings();
        let authenticator = authenticator.map(|settings| Authenticator::open(&settings));
        let authenticator = authenticator.transpose()?;
        let certificates = Certificates::open(config)?;
        let tls = config
            .listen
            .iter()
            .map(|listen| certificates.of(&listen.tls));
        let tls = tls.collect::<Result<Vec<_>, _>>()?;
        let operators = config.admin.htpasswd.as_deref();
        let operators = operators.map(Authenticator::of_operators).transpose()?;
        let admin_access = (operators, certificates.of(&config.admin.tls)?);
        let store = open_store(config, &fills_on)?;
        // After the certificates: their CA may be one that was just made.
        let peers = config.peer_settings().map(Peers::open).transpose()?;
        let contents = Contents::new(store.clone(), config.limits.fills, fills_on, peers);
        #[cfg(feature = "v1")]
        let registries = v1::Registries::new(v1, contents.clone())?;
        #[cfg(feature = "v1")]
        let fallback = Some(registries.clone() as Arc<dyn mirror::Fallback>);
        #[cfg(not(feature = "v1"))]
        let fallback = None;
        let mirror = Mirror::new(mirror, contents, fallback)?;
        let events = config.events_settings().map(Events::open).transpose()?;
        if let Some(events) = events.clone() {
            telemetry::alerts::subscribe(move |alert| events.alert(alert));
        }
        let shares = Shares::new(config.limits.per_client);
        let state = Arc::new(AppState {
            history: Arc::default(),
            events,
            admission: Admission::new(
                shares.clone(),
                config.limits.per_client.rate,
                config.limits.connections,
            ),
            form_timeout: config.limits.header_timeout,
            table: config.routing_table(),
            policy: config.policy(),
            authenticator,
            #[cfg(feature = "v1")]
            v1: v1::V1::new(registries, mirror.clone()),
            mirror,
            access_log: config.log.access,
            idle_timeout: config.limits.idle_timeout,
        });
        Ok(Self {
            state,
            store,
            shares,
            certificates,
            tls,
            admin_access,
        })
    }
}

/// Opens the store with its bucket, and starts its maintenance.
fn open_store(
    config: &Config,
    uploads_on: &tokio::runtime::Handle,
) -> Result<Arc<Store>, ServeError> {
    let mut store = Store::open(&config.store_settings(), &[record_extension()])?;
    if let Some(settings) = config.bucket_settings().map_err(configuration)? {
        store = store.with_bucket(Bucket::new(&settings, uploads_on)?);
    }
    let store = Arc::new(store);
    store.start_maintenance()?;
    Ok(store)
}

fn configuration(error: impl std::fmt::Display) -> ServeError {
    ServeError::Configuration(error.to_string())
}

/// Binds the listeners of the data plane.
async fn open_listeners(config: &Config) -> Result<Vec<Bound>, ServeError> {
    let mut bounds = Vec::new();
    for listen in &config.listen {
        let (address, scheme) = (listen.listen_address(), listen.routing().scheme);
        bounds.push(bind("listen", &address, scheme).await?);
    }
    Ok(bounds)
}

/// Binds the admin listeners.
async fn open_admin_listeners(config: &Config) -> Result<Vec<(Bound, admin::Scope)>, ServeError> {
    let mut admin_listeners = Vec::new();
    for (address, scope) in config.admin.listeners() {
        let scheme = match (scope, &config.admin.tls) {
            (admin::Scope::Metrics, _) | (_, Tls::Off) => "http",
            (admin::Scope::Everything, _) => "https",
        };
        admin_listeners.push((bind(scope.key(), &address, scheme).await?, scope));
    }
    Ok(admin_listeners)
}

/// Binds the socket file of the commands, where the admin address demands TLS or a login.
async fn open_command_socket(config: &Config) -> Option<Bound> {
    let path = config.admin.command_socket(&config.keys)?;
    // Where nothing else needed it, it does not exist yet.
    let folder = keys_folder::open(&config.keys);
    let address = Address::Unix(path, SocketPermissions::OWNER);
    let bound = match folder {
        Ok(()) => Bound::bind(&address, "")
            .await
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    bound
        .inspect_err(|error| {
            let message = "commands such as `roadstead stats` cannot reach the gateway";
            tracing::warn!(%address, error, "{message}");
        })
        .ok()
}

/// Binds an address; `key` names it in the configuration.
async fn bind(key: &'static str, address: &Address, scheme: &str) -> Result<Bound, ServeError> {
    Bound::bind(address, scheme)
        .await
        .map_err(|reason| ServeError::Listen {
            key,
            address: address.to_string(),
            reason,
        })
}

/// Reopens the audit log at each SIGHUP, for log rotation. Without one, the signal does nothing.
fn reopen_at_hangup(events: Option<Events>) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            if let Some(events) = &events {
                events.reopen_audit_log().await;
            }
        }
    });
    Ok(())
}

/// SIGTERM and SIGINT, caught from its creation on.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
