//! Composition root: `roadstead serve` opens, runs and drains every part of the gateway.

mod handover;
mod listeners;
mod parts;
mod relay;
mod reload;
mod running;
mod service_manager;
mod takeover;
mod upgrade;

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin;
use crate::config::{Config, Faults};
use gateway::TlsError;
use reload::ReloadError;
use running::Running;
use runtime::BindError;
use runtime::passed::{PassedError, PassedSockets};
use service_manager::ServiceManager;
use takeover::Takeover;

pub use takeover::report_failure;

/// Reads the configuration again, to take the place of the one that is in force.
pub type Load = Box<dyn Fn(&Config) -> Result<Config, Faults>>;

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
    #[error("the service manager passed a socket that cannot be used: {}", telemetry::chain(.0))]
    Passed(#[from] PassedError),
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
            Self::Store(_)
            | Self::Events(_)
            | Self::Listen { .. }
            | Self::Passed(_)
            | Self::System(_) => 1,
        }
    }
}

/// Serves until SIGTERM or SIGINT, then drains. SIGHUP applies the configuration that `load` reads.
///
/// # Errors
/// Any error before it is ready. Once it serves, none.
pub fn serve(config: Config, load: Load) -> Result<(), ServeError> {
    // Before anything is opened.
    let passed = PassedSockets::of_service_manager()?;
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
    let outcome = serving.block_on(run(config, load, passed, filling.handle().clone()));
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
async fn run(
    config: Config,
    load: Load,
    passed: PassedSockets,
    fills_on: tokio::runtime::Handle,
) -> Result<(), ServeError> {
    // Before "ready" is printed: a supervisor that waits for it may send signals at once.
    let mut stop = Stop::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, mut commands) = mpsc::channel(1);
    let manager = ServiceManager::of_environment();
    let mut upgrade = signal(SignalKind::user_defined2())?;
    let mut takeover = Takeover::of_environment().await?;
    let passed = takeover.as_mut().map_or(Ok(passed), Takeover::passed)?;
    let started = Running::start(config, load, passed, fills_on, sender, &mut takeover).await;
    if let (Err(error), Some(takeover)) = (&started, &takeover) {
        takeover.failed(error).await;
    }
    let mut running = started?;
    manager.ready();
    loop {
        tokio::select! {
            () = stop.wait() => break,
            _ = upgrade.recv() => {
                if upgrade_or_stop(&mut running, &manager, &mut stop).await.is_ok() {
                    break;
                }
            }
            _ = hangup.recv() => {
                running.reopen_audit_log().await;
                let _ = reload_and_log(&mut running, &manager).await;
            }
            Some(command) = commands.recv() => match command {
                admin::Command::Reload(answer) => {
                    let reloaded = reload_and_log(&mut running, &manager).await;
                    // The client may have disconnected.
                    let _ = answer.send(reloaded.map_err(|error| error.to_string()));
                }
                admin::Command::Upgrade(answer) => {
                    let upgraded = upgrade_or_stop(&mut running, &manager, &mut stop).await;
                    let is_over = upgraded.is_ok();
                    let _ = answer.send(upgraded);
                    if is_over {
                        break;
                    }
                }
            }
        }
    }
    if !running.is_handed_over {
        manager.stopping();
    }
    running.drain().await;
    Ok(())
}

/// Hands over to a new process, and logs what came of it. Returns its process id, or why this one goes on; a signal to
/// stop ends the attempt.
async fn upgrade_or_stop(
    running: &mut Running,
    manager: &ServiceManager,
    stop: &mut Stop,
) -> Result<u32, String> {
    let upgraded = running.upgrade(stop.wait()).await;
    let upgraded = upgraded.map_err(|error| error.to_string());
    match &upgraded {
        Ok(process) => manager.main_process(*process),
        Err(reason) => tracing::error!(reason, "not upgraded: this process goes on"),
    }
    upgraded
}

/// Reloads the configuration, and logs what came of it.
async fn reload_and_log(
    running: &mut Running,
    manager: &ServiceManager,
) -> Result<admin::Configuration, ReloadError> {
    manager.reloading();
    let reloaded = running.reload().await;
    manager.ready();
    match &reloaded {
        Ok(configuration) => {
            let file = configuration.path.as_deref().unwrap_or("-");
            tracing::info!(file, "reloaded the configuration");
        }
        Err(error) => {
            for fault in error.to_string().lines() {
                tracing::error!(
                    fault,
                    "the configuration is not reloaded, and nothing has changed"
                );
            }
        }
    }
    reloaded
}

fn configuration(error: impl std::fmt::Display) -> ServeError {
    ServeError::Configuration(error.to_string())
}

/// SIGTERM and SIGINT, caught from its creation on.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    /// Whether a signal has come.
    is_due: bool,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            is_due: false,
        })
    }

    /// Waits for a signal; at once if one has come.
    async fn wait(&mut self) {
        if self.is_due {
            return;
        }
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        self.is_due = true;
    }
}
