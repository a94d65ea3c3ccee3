//! Blobs of a rollout, and clients that pull them until they have them, whatever happens to the gateways.

#![allow(
    clippy::disallowed_methods,
    reason = "clients pause on threads of their own"
)]

use std::time::Duration;

use testkit::http::{Connect, End, Raw};
use testkit::image::random;

use super::Scene;

/// A blob that clients pull.
pub struct Blob {
    pub path: String,
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Pushes blobs of random sizes to the upstream of a scene, none larger than `largest`.
    pub fn push(scene: &Scene, seed: u64, number: usize, largest: usize) -> Vec<Self> {
        let mut sizes = fastrand::Rng::with_seed(seed);
        let push = |n| {
            let bytes = random(seed ^ n as u64, sizes.usize(largest / 10..largest));
            let digest = scene.origin.push_blob("library/app", bytes.clone());
            let path = format!("/v2/library/app/blobs/{digest}");
            Self { path, bytes }
        };
        (0..number).map(push).collect()
    }

    /// Pulls it, however often that takes; never wrong. Returns how often it was cut off or refused.
    pub fn pull(&self, url: &str) -> usize {
        let mut failed = 0;
        testkit::eventually_within(Duration::from_secs(120), &self.path, || {
            let whole = self.try_pull(url);
            if whole.is_none() {
                failed += 1;
                // As refused clients do.
                std::thread::sleep(Duration::from_millis(50));
            }
            whole
        });
        failed
    }

    fn try_pull(&self, url: &str) -> Option<()> {
        let mut raw = Raw::connect_with(url, Connect::default()).ok()?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            self.path
        );
        raw.try_send(request).ok()?;
        let head = raw.read_head().ok()?;
        let (body, end) = raw.read_body("GET", &head);
        if head.status != 200 {
            return None;
        }
        assert!(self.bytes.starts_with(&body), "other bytes: {}", self.path);
        (end == End::Complete).then(|| assert!(body.len() == self.bytes.len()))
    }
}
