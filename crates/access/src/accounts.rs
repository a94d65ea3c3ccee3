//! The current accounts: reloads the htpasswd file when it changes, and verifies passwords off the event loop.

#![allow(
    clippy::disallowed_methods,
    reason = "a changed file is read on a thread of its own, which holds no event loop"
)]

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::disk;
use super::failures::{Attempted, Failures, Guess, Known, Pair};
use super::htpasswd::{Account, Htpasswd, HtpasswdError};
use oci::addresses::network;
use runtime::single_flight::SingleFlight;
use telemetry::harmless;

/// How often the file is checked for changes, while there are requests.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a request waits for that check; if the disk stalls, the accounts stay as they are.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// A changed file is read again after this, so that half a file is never taken for the whole.
const SETTLE: Duration = Duration::from_millis(20);
/// The longest pause that a login waits for; after a longer one the client has to retry.
const SLOWED: Duration = Duration::from_secs(4);
/// The longest part of a user's name that is logged, in characters.
const LONGEST_NAME: usize = 64;
/// How many logins wait for a pause at once.
const MAX_WAITING: usize = 64;
/// How long a request waits for a free verification.
const TURN_WITHIN: Duration = Duration::from_secs(10);

/// Why the accounts cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// The file is absent or cannot be read.
    #[error("{} cannot be read; `roadstead passwd` makes it", path.display())]
    Read {
        /// The htpasswd file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Some of its lines are no accounts; none of them is used.
    #[error("{}: {reason}", path.display())]
    Lines {
        /// The htpasswd file.
        path: PathBuf,
        /// Each of these lines, with its number.
        reason: HtpasswdError,
    },
}

/// Why a password is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The password is wrong, or there is no such user.
    Password,
    /// Too many failures; retry after this delay.
    SlowDown(Duration),
}

/// Reads the file once.
///
/// # Errors
/// [`AccountsError`] when it cannot be read or has an invalid line.
pub fn load(path: &Path) -> Result<Htpasswd, AccountsError> {
    parse(path, &read(path)?)
}

fn read(path: &Path) -> Result<Vec<u8>, AccountsError> {
    disk::read_accounts(path).map_err(|source| AccountsError::Read {
        path: path.to_owned(),
        source,
    })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Htpasswd, AccountsError> {
    Htpasswd::parse(bytes).map_err(|reason| AccountsError::Lines {
        path: path.to_owned(),
        reason,
    })
}

/// The htpasswd file: its last content, and when it was checked.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    current: RwLock<Arc<Htpasswd>>,
    loaded: Mutex<LoadedFile>,
    started: Instant,
    /// When it was last checked, in milliseconds since `started`.
    looked: AtomicU64,
}

struct LoadedFile {
    /// Of the current accounts.
    bytes: Vec<u8>,
    /// The last logged error, so that each is logged once.
    logged_error: Option<String>,
}

impl std::fmt::Debug for LoadedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LoadedFile")
    }
}

impl Source {
    fn current(&self) -> Arc<Htpasswd> {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the caller has to check the file.
    fn is_due(&self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked.load(Ordering::Relaxed);
        let due = u128::from(now.saturating_sub(looked)) >= LOOK_EVERY.as_millis();
        let order = Ordering::Relaxed;
        due && self
            .looked
            .compare_exchange(looked, now, order, order)
            .is_ok()
    }

    /// Reloads the file if it changed. Sleeps, so it runs on a blocking thread.
    fn look(&self) {
        // Another check is in progress, on a disk that stalls.
        let Ok(mut loaded) = self.loaded.try_lock() else {
            return;
        };
        let changed = match read(&self.path) {
            Ok(bytes) if bytes == loaded.bytes => {
                loaded.logged_error = None;
                return;
            }
            Ok(bytes) => bytes,
            Err(error) => return loaded.log_once(&error),
        };
        std::thread::sleep(SETTLE);
        match read(&self.path) {
            Ok(bytes) if bytes == changed => {}
            // The file is being written: try at the next check.
            Ok(_) => return,
            Err(error) => return loaded.log_once(&error),
        }
        match parse(&self.path, &changed) {
            Ok(accounts) => self.replace(&mut loaded, changed, accounts),
            Err(error) => loaded.log_once(&error),
        }
    }

    fn replace(&self, loaded: &mut LoadedFile, bytes: Vec<u8>, accounts: Htpasswd) {
        let path = self.path.display();
        tracing::info!(%path, accounts = accounts.len(), "reloaded the accounts");
        let current = self.current.write();
        *current.unwrap_or_else(PoisonError::into_inner) = Arc::new(accounts);
        *loaded = LoadedFile {
            bytes,
            logged_error: None,
        };
    }
}

impl LoadedFile {
    fn log_once(&mut self, error: &AccountsError) {
        let error = telemetry::chain(error);
        if self.logged_error.as_ref() != Some(&error) {
            tracing::error!(%error, "the accounts stay as they were");
            self.logged_error = Some(error);
        }
    }
}

/// The accounts, and the attempts to log in.
#[derive(Debug)]
pub(super) struct Accounts {
    source: Arc<Source>,
    /// Random, new at each start.
    key: Hmac<Sha256>,
    /// Allows as many concurrent verifications as there are cores.
    turns: Arc<Semaphore>,
    /// Allows logins to wait for a pause.
    waiting: Arc<Semaphore>,
    under_way: SingleFlight<(Guess, Pair), Result<(), Wrong>>,
    failures: Arc<Failures>,
}

impl Accounts {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// [`AccountsError`] when it cannot be read, has an invalid line, or the system's random generator fails.
    pub fn open(path: &Path, key: [u8; 32]) -> Result<Self, AccountsError> {
        let bytes = read(path)?;
        let accounts = parse(path, &bytes)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            source: Arc::new(Source {
                path: path.to_owned(),
                current: RwLock::new(Arc::new(accounts)),
                loaded: Mutex::new(LoadedFile {
                    bytes,
                    logged_error: None,
                }),
                started: Instant::now(),
                looked: AtomicU64::new(0),
            }),
            key: Hmac::new_from_slice(&key).expect("HMAC takes keys of any length"),
            turns: Arc::new(Semaphore::new(cores)),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            under_way: SingleFlight::default(),
            failures: Arc::default(),
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// Reads the file as it is now. Blocks on the disk.
    ///
    /// # Errors
    /// [`AccountsError`] when it cannot be read or has an invalid line; the accounts stay as they were.
    pub fn reload(&self) -> Result<(), AccountsError> {
        let source = &self.source;
        let loaded = source.loaded.lock();
        let mut loaded = loaded.unwrap_or_else(PoisonError::into_inner);
        let bytes = read(&source.path)?;
        if bytes != loaded.bytes {
            let accounts = parse(&source.path, &bytes)?;
            source.replace(&mut loaded, bytes, accounts);
        }
        Ok(())
    }

    /// The accounts in the file, at most a second old.
    pub async fn current(&self) -> Arc<Htpasswd> {
        if self.source.is_due() {
            let source = self.source.clone();
            let _ = timeout(LOOK_WITHIN, spawn_blocking(move || source.look())).await;
        }
        self.source.current()
    }

    /// Checks the file at once.
    #[cfg(test)]
    pub fn look(&self) {
        self.source.look();
    }

    /// Records so many wrong guesses, without the pauses between them.
    #[cfg(test)]
    pub fn guessed(&self, user: &str, address: IpAddr, times: u32) {
        for number in 0..times {
            let attempted = Attempted {
                guess: self.keyed(&[user.as_bytes(), &number.to_be_bytes()]),
                pair: self.pair(user, address),
                address,
            };
            self.failures.failed(&attempted, Instant::now());
        }
    }

    /// Verifies a password and returns its account. Hashing runs on blocking threads, a limited number at once; a right
    /// password is remembered for a day or until the line changes, and costs nothing meanwhile.
    ///
    /// # Errors
    /// [`Wrong`], after the same time for users that exist and users that do not.
    pub async fn verify(
        &self,
        user: &str,
        password: &[u8],
        address: IpAddr,
    ) -> Result<Arc<Account>, Wrong> {
        let file = self.current().await;
        let account = file.account(user).cloned();
        let line = account.as_ref().map_or("", |account| account.line());
        let attempted = Attempted {
            guess: self.keyed(&[user.as_bytes(), password, line.as_bytes()]),
            pair: self.pair(user, address),
            address,
        };
        match (self.failures.known(&attempted, Instant::now()), &account) {
            (Known::Right, Some(account)) => return Ok(account.clone()),
            (Known::Wrong, _) => return Err(Wrong::Password),
            (Known::Right | Known::After(_), _) => {}
        }
        let attempt = Attempt {
            file,
            account: account.clone(),
            user: harmless(user, LONGEST_NAME),
            password: password.to_vec(),
            attempted,
            turns: self.turns.clone(),
            waiting: self.waiting.clone(),
            failures: self.failures.clone(),
        };
        // Concurrent requests with the same credentials share one verification.
        let key = (attempted.guess, attempted.pair);
        let (verdict, _) = self.under_way.join(key, || attempt.verdict()).await;
        verdict.unwrap_or(Err(Wrong::Password))?;
        account.ok_or(Wrong::Password)
    }

    fn pair(&self, user: &str, address: IpAddr) -> Pair {
        let network = network(address).to_string();
        self.keyed(&[user.as_bytes(), network.as_bytes()])
    }

    /// A keyed hash of several parts, with unambiguous boundaries.
    fn keyed(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.key.clone();
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// One verification. It continues when the client disconnects, so that disconnecting saves a guesser nothing.
struct Attempt {
    file: Arc<Htpasswd>,
    account: Option<Arc<Account>>,
    /// For the log.
    user: String,
    password: Vec<u8>,
    attempted: Attempted,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    failures: Arc<Failures>,
}

impl Attempt {
    async fn verdict(self) -> Result<(), Wrong> {
        let slowed_until = Instant::now() + SLOWED;
        let turn = loop {
            self.slow_down(slowed_until).await?;
            let turn = timeout(TURN_WITHIN, self.turns.clone().acquire_owned()).await;
            let Ok(Ok(turn)) = turn else {
                return Err(Wrong::SlowDown(Duration::from_secs(5)));
            };
            // Checked again: a flood of guesses may have waited together with this one.
            if self.pause().is_zero() {
                break turn;
            }
        };
        let work = move || {
            let hash = self
                .account
                .as_ref()
                .map_or(&self.file.decoy, |account| &account.hash);
            let right = hash.verify(&self.password) && self.account.is_some();
            let now = Instant::now();
            if right {
                self.failures.succeeded(&self.attempted, now);
            } else {
                self.failures.failed(&self.attempted, now);
                let (user, client) = (&self.user, self.attempted.address);
                tracing::warn!(user, %client, "a login failed: the user or the password is wrong");
            }
            // The slot is freed after the failure counts.
            drop(turn);
            right
        };
        match spawn_blocking(work).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Wrong::Password),
        }
    }

    /// Waits for a short pause to end, so that a right password is accepted and a wrong one refused as wrong; a pause that
    /// ends after `until` is an error instead.
    async fn slow_down(&self, until: Instant) -> Result<(), Wrong> {
        let pause = self.pause();
        if pause.is_zero() {
            return Ok(());
        }
        let place = self.waiting.try_acquire();
        if place.is_err() || Instant::now() + pause > until {
            return Err(Wrong::SlowDown(pause));
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// The remaining pause before this attempt may be verified.
    fn pause(&self) -> Duration {
        match self.failures.known(&self.attempted, Instant::now()) {
            Known::After(pause) => pause,
            Known::Right | Known::Wrong => Duration::ZERO,
        }
    }
}
