//! The certificates of the listeners, each with a task that renews it whenever it is due.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::account::{Earlier, account, blocking};
use super::challenges::Challenges;
use super::client::Client;
use super::files::Files;
use super::order::{Method, OrderError, order};
use super::renewal::{due_at, pause};
use super::{AcmeError, Settings, write};

/// The longest wait before the file is looked at again: a clock may jump.
const CHECK_INTERVAL: Duration = Duration::from_secs(3600);
/// How much of an authority's answer is logged, in characters.
const LOGGED: usize = 512;

/// One certificate of an ACME authority. Its renewal ends when it is dropped.
#[derive(Debug)]
pub struct ManagedCertificate {
    renewal: Renewal,
    task: OnceLock<AbortHandle>,
}

impl ManagedCertificate {
    /// The settings that it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.renewal.settings
    }

    /// Renews it from now on. Only the first call counts.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn keep(&self) {
        self.task
            .get_or_init(|| tokio::spawn(self.renewal.clone().keep()).abort_handle());
    }
}

impl Drop for ManagedCertificate {
    fn drop(&mut self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// The certificates of all listeners: those of the same settings share one. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct ManagedCertificates {
    open: Vec<Arc<ManagedCertificate>>,
    /// Held while an account is opened, so that certificates of one authority share it.
    accounts: Arc<Mutex<()>>,
    challenges: Challenges,
}

impl ManagedCertificates {
    /// Opens the certificates of these settings below `keys`; those that `before` has go on as they are. None is ordered before
    /// [`Self::keep`]. Blocks on the disk.
    ///
    /// # Errors
    /// [`AcmeError`]
    pub fn open<'a>(
        all: impl Iterator<Item = &'a Settings>,
        keys: &Path,
        before: Option<&Self>,
    ) -> Result<Self, AcmeError> {
        let mut certificates = Self {
            open: Vec::new(),
            ..before.cloned().unwrap_or_default()
        };
        for settings in all {
            let of = |these: &Self| {
                let mut open = these.open.iter();
                open.find(|one| one.settings() == settings).cloned()
            };
            if of(&certificates).is_some() {
                continue;
            }
            let opened = match before.and_then(of) {
                Some(known) => known,
                None => Arc::new(ManagedCertificate {
                    renewal: Renewal {
                        files: Files::open(settings, keys, SystemTime::now())?,
                        client: Client::new()?,
                        challenges: certificates.challenges.clone(),
                        accounts: certificates.accounts.clone(),
                        settings: settings.clone(),
                    },
                    task: OnceLock::new(),
                }),
            };
            certificates.open.push(opened);
        }
        Ok(certificates)
    }

    /// What the authorities are about to verify.
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Renews all of them from now on.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn keep(&self) {
        for certificate in &self.open {
            certificate.keep();
        }
    }
}

/// What renews a certificate.
#[derive(Clone, Debug)]
struct Renewal {
    settings: Settings,
    files: Files,
    challenges: Challenges,
    accounts: Arc<Mutex<()>>,
    client: Client,
}

impl Renewal {
    /// Renews the certificate whenever it is due, for ever. A failure is retried, ever more seldom.
    async fn keep(self) {
        let mut failures = 0;
        loop {
            let wait = self.wait().await;
            if !wait.is_zero() {
                tokio::time::sleep(wait.min(CHECK_INTERVAL)).await;
                continue;
            }
            match self.renew().await {
                Ok(()) => failures = 0,
                Err(error) => {
                    failures += 1;
                    let pause = pause(failures, error.retry_after());
                    tracing::warn!(
                        hosts = self.hosts(),
                        directory = self.settings.directory,
                        error = telemetry::harmless(&telemetry::chain(&error), LOGGED),
                        retry_minutes = pause.as_secs() / 60,
                        "cannot get a certificate from the ACME authority; the one that is there stays in use"
                    );
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    fn hosts(&self) -> String {
        let hosts: Vec<&str> = self.settings.hosts.iter().map(String::as_str).collect();
        hosts.join(" ")
    }

    /// How long the certificate is not due.
    async fn wait(&self) -> Duration {
        let read = |path: &Path| std::fs::read(path).unwrap_or_default();
        let pem = blocking(&self.files.certificate, read).await;
        let due = due_at(&pem, &self.settings.hosts);
        due.and_then(|due| due.duration_since(SystemTime::now()).ok())
            .unwrap_or_default()
    }

    /// Orders a certificate and saves it. An account that the authority has lost is followed by another.
    async fn renew(&self) -> Result<(), OrderError> {
        let ordered = match self.order(Earlier::Used).await {
            Err(error) if error.is_unknown_account() => self.order(Earlier::Forgotten).await,
            ordered => ordered,
        };
        let (pem, method) = ordered?;
        let due = due_at(pem.as_bytes(), &self.settings.hosts);
        if due.is_none_or(|due| due <= SystemTime::now()) {
            return Err(OrderError::Unusable);
        }
        let file: PathBuf = self.files.certificate.clone();
        blocking(&file, move |file| write(file, pem.as_bytes())).await?;
        tracing::info!(
            hosts = self.hosts(),
            directory = self.settings.directory,
            method = method.as_str(),
            "got a certificate from the ACME authority"
        );
        Ok(())
    }

    /// Orders a certificate by each method in turn.
    async fn order(&self, earlier: Earlier) -> Result<(String, Method), OrderError> {
        let account = {
            let _making = self.accounts.lock().await;
            account(&self.client, &self.settings, &self.files.account, earlier).await?
        };
        let by = |method| order(&account, &self.settings.hosts, method, &self.challenges);
        let (first, second) = (Method::TlsAlpn01, Method::Http01);
        let error = match by(first).await {
            Ok(pem) => return Ok((pem, first)),
            Err(error) if error.is_of_method() => error,
            Err(error) => return Err(error),
        };
        let told = telemetry::harmless(&telemetry::chain(&error), LOGGED);
        tracing::debug!(method = first.as_str(), error = told, "an order failed");
        match by(second).await {
            Ok(pem) => Ok((pem, second)),
            Err(other) if other.is_of_method() => Err(OrderError::NoMethod(vec![error, other])),
            Err(other) => Err(other),
        }
    }
}
