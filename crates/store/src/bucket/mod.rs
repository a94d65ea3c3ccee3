//! The bucket: an S3-compatible object store as a cache tier that gateways share.
//!
//! The disk stays the hot tier. A miss asks the bucket before the upstream. Committed blobs and records with their
//! freshness are written to it in the background. A bucket that is down, slow, full or corrupt is treated as
//! absent: every operation has a deadline, a circuit breaker opens after a failure, and objects are verified
//! before their first use.
//!
//! The layout below the prefix is that on disk, except for `<view>`, which stands for the account at the registry:
//!
//! ```text
//! blobs/<alg>/<2>/<hex>
//! repositories/<registry>/<view>/<repository>/…       JSON: {"path": …, "record": …}
//! leases/<alg>-<hex>                                  JSON: {"node": …, "expires_at": …, "holder": …}
//! ```

mod body;
mod breaker;
mod held_leases;
mod journal;
mod lease;
mod lease_body;
mod outbox;
mod record;
mod upload;
mod views;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ClientOptions, RetryConfig};

pub use body::Object;
pub use lease::{Lease, Leased};
pub use lease_body::LeaseHolder;

use breaker::CircuitBreaker;
use held_leases::HeldLeases;
use oci::digest::Digest;
use oci::name::Registry;
use outbox::Outbox;
use telemetry::LogThrottle;
use telemetry::metrics::{self, BucketEvent};
use upload::Uploads;
use views::Views;

/// The timeout for records and leases.
const SMALL_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout for the head of a body, and for a small body.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How many digests of corrupt objects are remembered.
const MAX_DAMAGED: usize = 10_000;

/// The location of the bucket, and the registries that share records in it.
#[derive(Clone)]
pub struct Settings {
    /// The name of the bucket.
    pub name: String,
    /// The prefix of every key, without slashes at its ends; may be empty.
    pub prefix: String,
    /// Scheme and authority; `None`: the AWS endpoint of the region.
    pub endpoint: Option<String>,
    /// The region that requests are signed for; `None`: `us-east-1`.
    pub region: Option<String>,
    /// Access key and secret key; `None`: unsigned requests.
    pub account: Option<(String, String)>,
    /// The URL of this gateway that its leases name; `None`: they name none.
    pub advertise: Option<String>,
    /// The upstream and account of each registry, as one word: only gateways that use the same ones share its
    /// records. A registry without a view does not share records.
    pub views: HashMap<Registry, String>,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("name", &self.name)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// An unusable bucket configuration.
#[derive(Debug, thiserror::Error)]
#[error("store.bucket cannot be used: {0}")]
pub struct SetUpError(String);

/// The bucket did not answer. The failure was counted and logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unavailable;

/// The client. Cloning is cheap.
#[derive(Clone)]
pub struct Bucket {
    inner: Arc<Inner>,
}

struct Inner {
    s3: AmazonS3,
    name: String,
    /// Its endpoint, as one word.
    endpoint: String,
    prefix: String,
    /// Strings that no message may contain.
    secrets: Vec<String>,
    views: RwLock<Views>,
    /// Identifies the leases of this process.
    node: String,
    /// The URL that they name.
    advertise: Option<String>,
    held_leases: HeldLeases,
    reads: CircuitBreaker,
    /// Separate from reads, since a full bucket can still be read.
    writes: CircuitBreaker,
    outbox: Outbox,
    uploads: Uploads,
    /// Corrupt objects: not read again, and overwritten.
    damaged: Mutex<HashSet<Digest>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.inner.name)
    }
}

impl Bucket {
    /// Creates the client without connecting. Writes are sent on `runtime`.
    ///
    /// # Errors
    /// When the endpoint is invalid, or TLS cannot be used.
    pub fn new(settings: &Settings, runtime: &tokio::runtime::Handle) -> Result<Self, SetUpError> {
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_timeout_disabled()
            .with_allow_http(true);
        let once = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.name)
            .with_region(settings.region.as_deref().unwrap_or("us-east-1"))
            .with_client_options(options)
            .with_retry(once)
            // Not every service supports bulk deletion.
            .with_disable_bulk_delete(true);
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder = match &settings.account {
            Some((access_key, secret_key)) => builder
                .with_access_key_id(access_key)
                .with_secret_access_key(secret_key),
            None => builder.with_skip_signature(true),
        };
        let secrets = settings.account.iter();
        let secrets: Vec<String> = secrets
            .flat_map(|(access_key, secret_key)| [access_key.clone(), secret_key.clone()])
            .collect();
        let s3 = builder
            .build()
            .map_err(|error| SetUpError(redact(&secrets, error.to_string())))?;
        metrics::with_bucket();
        let (uploads, jobs) = Uploads::new();
        let bucket = Self {
            inner: Arc::new(Inner {
                s3,
                name: settings.name.clone(),
                endpoint: settings.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
                prefix: settings.prefix.clone(),
                secrets,
                views: RwLock::new(Views::new(&settings.views)),
                node: format!("{:032x}", fastrand::u128(..)),
                advertise: settings.advertise.clone(),
                held_leases: HeldLeases::default(),
                reads: CircuitBreaker::default(),
                writes: CircuitBreaker::default(),
                outbox: Outbox::default(),
                uploads,
                damaged: Mutex::default(),
            }),
        };
        for _ in 0..outbox::WORKERS {
            runtime.spawn(bucket.clone().send_changes());
        }
        for _ in 0..upload::WORKERS {
            runtime.spawn(bucket.clone().send_blobs(jobs.clone()));
        }
        Ok(bucket)
    }

    /// Applies changed views. A registry whose view differs from its first one shares no records until the next start: an
    /// answer to the former account may still arrive, and must not be stored for the new one.
    pub fn set_views(&self, views: &HashMap<Registry, String>) {
        let views_lock = &self.inner.views;
        let mut current = views_lock.write().unwrap_or_else(PoisonError::into_inner);
        for registry in current.update(views) {
            tracing::warn!(
                %registry,
                "its records are not shared in the bucket until the next start: its upstream or its account has changed"
            );
        }
    }

    /// Notes that the object of this digest is corrupt: it is not read again, and will be overwritten.
    pub fn report_corrupt(&self, digest: &Digest) {
        metrics::bucket(BucketEvent::WrongBytes);
        tracing::warn!(%digest, bucket = self.inner.name, "the bucket has wrong bytes; they are not used");
        let mut damaged = self.damaged();
        if damaged.len() >= MAX_DAMAGED {
            damaged.clear();
        }
        damaged.insert(*digest);
    }

    fn damaged(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        let damaged = &self.inner.damaged;
        damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a path below the prefix.
    fn key(&self, below: &str) -> Path {
        let prefix = &self.inner.prefix;
        if prefix.is_empty() {
            raw_path(below)
        } else {
            raw_path(&format!("{prefix}/{below}"))
        }
    }

    fn blob_key(&self, digest: &Digest) -> Path {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        self.key(&format!("blobs/{algorithm}/{}/{hex}", &hex[..2]))
    }

    /// Runs a read. `None`: the object does not exist.
    async fn read<T>(
        &self,
        within: Duration,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Unavailable> {
        self.ask(&self.inner.reads, within, operation).await
    }

    /// Runs a write that may create its object. `None`: its precondition failed. That the object is not found is a
    /// failure: the bucket itself is absent.
    async fn write<T>(
        &self,
        within: Duration,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Unavailable> {
        let operation = async {
            operation.await.map_err(|error| match error {
                object_store::Error::NotFound { source, .. } => object_store::Error::Generic {
                    store: "S3",
                    source,
                },
                error => error,
            })
        };
        self.ask(&self.inner.writes, within, operation).await
    }

    /// Changes or deletes an object, or looks whether it has to be written. `None`: it does not exist, or its
    /// precondition failed.
    async fn write_existing<T>(
        &self,
        within: Duration,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Unavailable> {
        self.ask(&self.inner.writes, within, operation).await
    }

    async fn ask<T>(
        &self,
        breaker: &CircuitBreaker,
        within: Duration,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Unavailable> {
        use object_store::Error;

        if !breaker.admits(Instant::now()) {
            return Err(Unavailable);
        }
        let answer = match tokio::time::timeout(within, operation).await {
            Ok(Ok(value)) => Ok(Some(value)),
            Ok(Err(
                Error::NotFound { .. } | Error::AlreadyExists { .. } | Error::Precondition { .. },
            )) => Ok(None),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", within.as_millis())),
        };
        match answer {
            Ok(value) => {
                if breaker.answered() {
                    tracing::info!(bucket = self.inner.name, "the bucket answers again");
                }
                Ok(value)
            }
            Err(error) => Err(self.failed(breaker, error)),
        }
    }

    /// Notes and logs a failure, and opens the breaker.
    fn failed(&self, breaker: &CircuitBreaker, error: String) -> Unavailable {
        static THROTTLE: LogThrottle = LogThrottle::new();

        breaker.failed(Instant::now());
        metrics::bucket(BucketEvent::Failure);
        let (bucket, error) = (&self.inner.name, redact(&self.inner.secrets, error));
        if THROTTLE.now() {
            tracing::warn!(
                bucket,
                error,
                "the bucket fails; it is not used for some seconds"
            );
        } else {
            tracing::debug!(bucket, error, "the bucket fails");
        }
        Unavailable
    }
}

/// Shortens an error message of the service and removes the credentials.
fn redact(secrets: &[String], message: String) -> String {
    let known = secrets.iter().filter(|secret| !secret.is_empty());
    let message = known.fold(message, |message, secret| {
        message.replace(secret.as_str(), "…")
    });
    message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(400)
        .collect()
}

/// A key without further encoding: its components are encoded already, and a `%` stands for itself.
fn raw_path(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_contain_no_credentials() {
        let secrets = ["AKIA".to_owned(), "hunter2".to_owned(), String::new()];
        assert_eq!(
            redact(&secrets, "bad\nkey AKIA for hunter2".into()),
            "bad key … for …"
        );
        assert_eq!(redact(&secrets, "x".repeat(1000)).len(), 400);
    }

    #[test]
    fn keys_equal_paths_on_disk() {
        assert_eq!(
            raw_path("p/repositories/h%3A5/v/a/_tags/full/1.0").as_ref(),
            "p/repositories/h%3A5/v/a/_tags/full/1.0"
        );
    }
}
