//! Whether a host is there at all: asked by a question of our own, which nobody who asks us can choose.
//!
//! Any answer but an error of the server's says that it is: a login that it wants, or a version of the API that it
//! does not speak. Only one such question is under way to an upstream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::{Client, Url};
use tokio::sync::Mutex;

use super::UpstreamError;
use super::limits::{Kind, Limits, Subject, Way};

/// How long it may take. Whoever waits for it still has time for their own question.
const WITHIN: Duration = Duration::from_secs(3);

/// Asks one host. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// Of the base of the API.
    url: Url,
    limits: Arc<Limits>,
    turn: Arc<Mutex<()>>,
}

impl Probe {
    /// `path` is one that every server of the API answers: `/v2/`.
    pub fn new(origin: &Url, path: &str, limits: &Arc<Limits>) -> Self {
        let mut url = origin.clone();
        url.set_path(path);
        Self {
            url,
            limits: limits.clone(),
            turn: Arc::default(),
        }
    }

    /// Waits until a request may go out: where the host was away, until it is known whether it is back.
    ///
    /// # Errors
    /// As [`Limits::admit`].
    pub async fn admit(
        &self,
        client: &Client,
        kind: Kind,
        about: &[Subject],
    ) -> Result<(), UpstreamError> {
        if self.limits.admit(kind, about, Instant::now())? == Way::Open {
            return Ok(());
        }
        let turn = self.turn.lock().await;
        // Who had the turn before may have found out.
        if self.limits.admit(kind, about, Instant::now())? == Way::Probe {
            self.ask(client).await;
        }
        drop(turn);
        match self.limits.admit(kind, about, Instant::now())? {
            Way::Open => Ok(()),
            Way::Probe => Err(UpstreamError::Resting),
        }
    }

    /// Has it looked into whether the host is away, behind the answer.
    pub fn look_into(&self, client: &Client) {
        let Ok(turn) = self.turn.clone().try_lock_owned() else {
            return;
        };
        let (probe, client) = (self.clone(), client.clone());
        tokio::spawn(async move {
            probe.ask(&client).await;
            drop(turn);
        });
    }

    async fn ask(&self, client: &Client) {
        let asked = tokio::time::timeout(WITHIN, client.get(self.url.clone()).send()).await;
        let there = asked
            .is_ok_and(|answer| answer.is_ok_and(|response| !response.status().is_server_error()));
        let now = Instant::now();
        if there {
            self.limits.vouch(now);
        } else {
            self.limits.away(now);
        }
    }
}
