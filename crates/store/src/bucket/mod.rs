//! The bucket: an S3-compatible object store as the tier that many gateways share.
//!
//! The disk stays the hot tier. A miss asks the bucket before the upstream, what was committed here is written
//! there behind the answer, and so are records with their freshness. A bucket that is down, slow, full or corrupt
//! is as if there were none: every operation has a deadline, after a failure the bucket rests, and what comes from
//! it is verified before its first use.
//!
//! Below the prefix, as on disk but for `<view>`, which names what the registry was asked with:
//!
//! ```text
//! blobs/<alg>/<2>/<hex>
//! repositories/<registry>/<view>/<repository>/…       JSON: {"path": …, "record": …}
//! leases/<alg>-<hex>                                  JSON: {"node": …, "expires_at": …}
//! ```

mod body;
mod breaker;
mod journal;
mod lease;
mod outbox;
mod record;
mod upload;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::path::Path;
use object_store::{ClientOptions, RetryConfig};

pub use body::Object;
pub use lease::{Lease, Leased};

use breaker::CircuitBreaker;
use oci::digest::Digest;
use oci::name::Registry;
use outbox::Outbox;
use telemetry::LogThrottle;
use telemetry::metrics::{self, BucketEvent};
use upload::Uploads;

/// How long a record or a lease may take.
const SMALL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the head of a body may take, and a small body.
const BODY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How many digests are remembered bucket_id object was wrong.
const MAX_DAMAGED: usize = 10_000;

/// Where the bucket is, and which registries share their records there.
#[derive(Clone)]
pub struct Settings {
    pub name: String,
    /// What every key begins with: no slash at either end; may be empty.
    pub prefix: String,
    /// Scheme and authority; `None` is the cloud's own endpoint for the region.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// Access key and secret key; `None`: unsigned requests.
    pub account: Option<(String, String)>,
    /// What a registry is asked with, as one word: gateways that ask the same place with the same account share
    /// what they were told, others do not. A registry that is not here keeps its records to itself.
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

/// Why a bucket cannot be used at all.
#[derive(Debug, thiserror::Error)]
#[error("store.bucket cannot be used: {0}")]
pub struct SetUpError(String);

/// Why the bucket gave no answer. It was counted, and said as often as it may be.
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
    /// Where it is asked, as one word.
    endpoint: String,
    prefix: String,
    /// Strings that no message may contain.
    secrets: Vec<String>,
    /// By registry.
    views: HashMap<Registry, String>,
    /// Tells our leases from those of others.
    node: String,
    reads: CircuitBreaker,
    /// A full bucket can still be read.
    writes: CircuitBreaker,
    outbox: Outbox,
    uploads: Uploads,
    /// Objects bucket_id bytes were wrong: not read again, and overwritten.
    damaged: Mutex<HashSet<Digest>>,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({})", self.inner.name)
    }
}

impl Bucket {
    /// Sets the client up; nothing is asked yet. What is written goes out on `runtime`.
    ///
    /// # Errors
    /// When the endpoint is none, or TLS cannot be used.
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
            // One object at a time: not every service knows the other way.
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
                views: settings.views.clone(),
                node: format!("{:032x}", fastrand::u128(..)),
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

    /// Notes that the bucket has wrong bytes under this digest: they are not read again, and overwritten.
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

    /// The key of something below the prefix.
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

    /// One question that changes nothing. `None`: there is no such object.
    async fn read<T>(
        &self,
        within: Duration,
        operation: impl Future<Output = object_store::Result<T>>,
    ) -> Result<Option<T>, Unavailable> {
        self.ask(&self.inner.reads, within, operation).await
    }

    /// One change. `None`: its condition does not hold.
    async fn write<T>(
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

    /// Notes a failure: the bucket rests.
    fn failed(&self, breaker: &CircuitBreaker, error: String) -> Unavailable {
        static THROTTLE: LogThrottle = LogThrottle::new();

        breaker.failed(Instant::now());
        metrics::bucket(BucketEvent::Failure);
        let (bucket, error) = (&self.inner.name, redact(&self.inner.secrets, error));
        if THROTTLE.now() {
            tracing::warn!(
                bucket,
                error,
                "the bucket fails; it is as if there were none"
            );
        } else {
            tracing::debug!(bucket, error, "the bucket fails");
        }
        Unavailable
    }
}

/// An error message of the service, short and without our account.
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

/// A key as it is: our own components are safe already, and `%` in them stands for itself.
fn raw_path(key: &str) -> Path {
    Path::parse(key).unwrap_or_else(|_| Path::from(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_hold_no_account() {
        let secrets = ["AKIA".to_owned(), "hunter2".to_owned(), String::new()];
        assert_eq!(
            redact(&secrets, "bad\nkey AKIA for hunter2".into()),
            "bad key … for …"
        );
        assert_eq!(redact(&secrets, "x".repeat(1000)).len(), 400);
    }

    #[test]
    fn keys_are_as_on_disk() {
        assert_eq!(
            raw_path("p/repositories/h%3A5/v/a/_tags/full/1.0").as_ref(),
            "p/repositories/h%3A5/v/a/_tags/full/1.0"
        );
    }
}
