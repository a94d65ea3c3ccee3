//! What the scripted upstream saw.

use std::time::Instant;

use bytes::Bytes;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// As sent: `GET`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Without the `?`, empty when there is none.
    pub query: String,
    /// In order, names as they were written.
    pub headers: Vec<(String, String)>,
    /// Empty without one.
    pub body: Bytes,
    /// When its head had arrived.
    pub at: Instant,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// The status answered; 0 while nothing has been.
    pub status: u16,
    /// Body bytes handed to the kernel so far.
    pub sent: u64,
}

impl Recorded {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).first().copied()
    }

    /// Every header of this name, in order.
    pub fn headers_named(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        crate::matches(method, &self.method) && crate::matches(path, &self.path)
    }
}
