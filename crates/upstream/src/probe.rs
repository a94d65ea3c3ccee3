//! Probes whether a host is up, by a request of the gateway's own that no client can choose.
//!
//! Any response without a server error shows that it is: a challenge, or a 404 for a version of the API that it does not
//! speak. At most one probe per upstream is in flight.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, Url};
use tokio::sync::Mutex;

use super::UpstreamError;
use super::circuit::{BreakerDecision, FailureKey};
use super::limits::Limits;

/// The limit on a probe. A request that waits for it still has time for itself.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The prober of one host. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// The base of the API.
    url: Url,
    limits: Arc<Limits>,
    in_flight: Arc<Mutex<()>>,
}

impl Probe {
    /// `path` is one that every server of the API answers: `/v2/`.
    pub fn new(origin: &Url, path: &str, limits: &Arc<Limits>) -> Self {
        let mut url = origin.clone();
        url.set_path(path);
        Self {
            url,
            limits: limits.clone(),
            in_flight: Arc::default(),
        }
    }

    /// Waits until a request may be sent: where the host was down, until a probe shows whether it is back.
    ///
    /// # Errors
    /// [`UpstreamError::CircuitOpen`] during a backoff.
    pub async fn admit(&self, client: &Client, keys: &[FailureKey]) -> Result<(), UpstreamError> {
        if self.limits.circuit.admit(keys, Instant::now())? == BreakerDecision::Granted {
            return Ok(());
        }
        let permit = self.in_flight.lock().await;
        // Another request may have probed meanwhile.
        if self.limits.circuit.admit(keys, Instant::now())? == BreakerDecision::ProbeFirst {
            self.ask(client).await;
        }
        drop(permit);
        match self.limits.circuit.admit(keys, Instant::now())? {
            BreakerDecision::Granted => Ok(()),
            BreakerDecision::ProbeFirst => Err(UpstreamError::CircuitOpen),
        }
    }

    /// Probes the host in the background, unless a probe is in flight.
    pub fn probe_in_background(&self, client: &Client) {
        let Ok(permit) = self.in_flight.clone().try_lock_owned() else {
            return;
        };
        let (probe, client) = (self.clone(), client.clone());
        tokio::spawn(async move {
            probe.ask(&client).await;
            drop(permit);
        });
    }

    async fn ask(&self, client: &Client) {
        let response =
            tokio::time::timeout(PROBE_TIMEOUT, client.get(self.url.clone()).send()).await;
        let is_up = response.is_ok_and(|response| {
            response.is_ok_and(|response| !response.status().is_server_error())
        });
        let now = Instant::now();
        if is_up {
            self.limits.circuit.probe_succeeded(now);
        } else {
            self.limits.circuit.host_is_down(now);
        }
    }
}
