//! A webhook: sends the events of its queue in order, each until the endpoint takes or rejects it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{StatusCode, header};
use reqwest::{Client, Url};
use sha2::Sha256;
use tokio::sync::watch;

use super::queue::Queue;
use telemetry::LogThrottle;

/// The media type of distribution's notifications.
const MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v2+json";
/// The signature's header field, as GitHub and others send it: `sha256=` and the HMAC of the body.
const SIGNATURE: &str = "X-Hub-Signature-256";
/// The limits of an attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(10);
/// The wait after the first failure, which doubles, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// The key that signs the bodies for one endpoint.
#[derive(Clone)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// A key of any length.
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.to_vec())
    }

    /// The value of [`SIGNATURE`] for a body.
    fn sign(&self, body: &[u8]) -> String {
        use fmt::Write as _;

        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(body);
        let bytes = mac.finalize().into_bytes();
        bytes.iter().fold("sha256=".to_owned(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The sender of one endpoint.
pub struct Endpoint {
    /// Its host, for logs: the rest of its URL may be a secret.
    pub name: String,
    pub url: Url,
    pub key: watch::Receiver<Option<SigningKey>>,
    pub queue: Arc<Queue>,
    pub client: Client,
    /// Closed when the webhook is no longer configured.
    pub stopped: watch::Receiver<()>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its URL may be a secret.
        f.debug_struct("Endpoint")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// How an attempt to send an event ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Attempt {
    Delivered,
    /// The endpoint will never take it.
    Rejected(StatusCode),
    /// The file of the event is gone.
    Missing,
    /// The disk or the endpoint failed, and may recover.
    Failed(String),
}

/// A client that follows no redirects, so that an event reaches no other endpoint.
///
/// # Errors
/// TLS cannot be set up.
pub fn client() -> reqwest::Result<Client> {
    let builder = || {
        Client::builder()
            .user_agent(concat!("roadstead/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
    };
    // A machine without trusted roots still reaches endpoints over plain HTTP.
    builder()
        .build()
        .or_else(|_| builder().tls_certs_only([]).build())
}

impl Endpoint {
    /// Delivers events until the webhook is no longer configured. An attempt in progress is cut off, and its event stays.
    pub async fn run(self) {
        let mut stopped = self.stopped.clone();
        tokio::select! {
            // Nothing is ever sent.
            _ = stopped.changed() => {}
            () = self.deliver() => {}
        }
    }

    async fn deliver(&self) {
        let counted = &self.queue.counted;
        let mut failures = 0;
        loop {
            let (number, attempt) = self.attempt_first().await;
            match attempt {
                Attempt::Delivered => {
                    counted.delivered();
                    if failures > 0 {
                        tracing::info!(endpoint = self.name, "webhook delivery has recovered");
                    }
                    failures = 0;
                }
                Attempt::Rejected(status) => {
                    counted.dropped();
                    let (endpoint, status) = (&self.name, status.as_u16());
                    tracing::error!(endpoint, status, "the webhook rejected an event");
                    failures = 0;
                }
                Attempt::Missing => {
                    counted.dropped();
                    let missing = "a queued webhook event is missing on disk";
                    tracing::error!(endpoint = self.name, "{missing}");
                }
                Attempt::Failed(error) => {
                    counted.failed();
                    failures += 1;
                    self.log_failure(failures, &error);
                    tokio::time::sleep(backoff(failures)).await;
                    continue;
                }
            }
            self.queue.remove(number).await;
        }
    }

    fn log_failure(&self, failures: u32, error: &str) {
        static FAILED: LogThrottle = LogThrottle::new();

        if failures == 1 || FAILED.now() {
            let waiting = self.queue.len();
            let failed = "cannot deliver events to the webhook; retrying";
            tracing::warn!(endpoint = self.name, waiting, error, "{failed}");
        }
    }

    /// Attempts to send the first event of the queue.
    async fn attempt_first(&self) -> (u64, Attempt) {
        let (number, event) = self.queue.first().await;
        let attempt = match event {
            Ok(Some(event)) => self.attempt(event).await,
            Ok(None) => Attempt::Missing,
            Err(error) => Attempt::Failed(format!("cannot read the event: {error}")),
        };
        (number, attempt)
    }

    async fn attempt(&self, event: Vec<u8>) -> Attempt {
        let mut request = self.client.post(self.url.clone());
        request = request.header(header::CONTENT_TYPE, MEDIA_TYPE);
        if let Some(key) = &*self.key.borrow() {
            request = request.header(SIGNATURE, key.sign(&event));
        }
        match request.body(event).send().await {
            Ok(response) => outcome(response.status()),
            // The URL may be a secret.
            Err(error) => Attempt::Failed(telemetry::chain(&error.without_url())),
        }
    }
}

/// The outcome by a status. A redirect is not followed; only a status about the body itself makes another attempt useless.
fn outcome(status: StatusCode) -> Attempt {
    match status {
        status if status.is_success() => Attempt::Delivered,
        StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::UNPROCESSABLE_ENTITY => Attempt::Rejected(status),
        status if status.is_redirection() => Attempt::Failed(format!(
            "it answered {status}, and redirects are not followed"
        )),
        status => Attempt::Failed(format!("it answered {status}")),
    }
}

/// The wait after so many failures, at least one.
fn backoff(failures: u32) -> Duration {
    let (first, longest) = BACKOFF;
    let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_decide_what_follows() {
        use Attempt::{Delivered, Failed, Rejected};

        for (status, expected) in [
            (200, Some(Delivered)),
            (202, Some(Delivered)),
            (204, Some(Delivered)),
            (400, Some(Rejected(StatusCode::BAD_REQUEST))),
            (413, Some(Rejected(StatusCode::PAYLOAD_TOO_LARGE))),
            (301, None),
            (307, None),
            (401, None),
            (404, None),
            (429, None),
            (500, None),
            (503, None),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let outcome = outcome(status);
            match expected {
                Some(expected) => assert_eq!(outcome, expected),
                None => assert!(matches!(outcome, Failed(_)), "{status}: {outcome:?}"),
            }
        }
    }

    #[test]
    fn waits_double_up_to_five_minutes() {
        let waits = [1, 2, 3, 9, 10, 40].map(|failures| backoff(failures).as_secs());
        assert_eq!(waits, [1, 2, 4, 256, 300, 300]);
    }

    /// RFC 4231, test case 2.
    #[test]
    fn bodies_are_signed_with_hmac_sha256() {
        let key = SigningKey::new(b"Jefe");
        assert_eq!(
            key.sign(b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(format!("{key:?}"), "[redacted]");
    }
}
