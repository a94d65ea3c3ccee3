//! Responses, and exactly how they ended.

use std::fmt;
use std::io;

/// How a body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// As announced: the whole length, the last chunk, or no body at all.
    Complete,
    /// Neither length nor chunks, and the connection was closed in order: whether it is complete is unknown.
    Closed,
    /// Fewer bytes than announced.
    Short {
        /// The length in bytes.
        announced: u64,
        /// How the connection ended.
        cut: Cut,
    },
    /// Chunks without the last one.
    NoLastChunk(Cut),
    /// Neither length nor chunks, and the connection was not closed in order.
    Torn(Cut),
    /// Not HTTP.
    Malformed(String),
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// FIN, over TLS after `close_notify`.
    Closed,
    /// FIN without `close_notify`.
    NoCloseNotify,
    /// RST.
    Reset,
    /// No byte came before the timeout; the connection was still open.
    TimedOut,
}

impl From<&io::Error> for Cut {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::NoCloseNotify,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Reset,
        }
    }
}

/// Status line and headers.
#[derive(Clone, Debug)]
pub struct Head {
    /// The three digits.
    pub status: u16,
    /// The text behind them; may be empty.
    pub reason: String,
    /// In order, with the names as received.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// `Content-Length`, if valid.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    pub(super) fn chunked(&self) -> bool {
        self.header("transfer-encoding")
            .is_some_and(|value| value.to_ascii_lowercase().contains("chunked"))
    }
}

/// A whole response.
#[derive(Clone)]
pub struct Reply {
    /// Status line and headers.
    pub head: Head,
    /// The bytes that arrived, without the framing.
    pub body: Vec<u8>,
    /// How the body ended.
    pub end: End,
}

impl Reply {
    /// The three digits.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text, with U+FFFD for what is no UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether a client would treat the body as complete.
    pub fn is_complete(&self) -> bool {
        matches!(self.end, End::Complete | End::Closed)
    }

    /// The code of the specification's error body.
    pub fn error_code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body["errors"][0]["code"].as_str()?.to_owned())
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.body[..self.body.len().min(500)];
        writeln!(formatter, "{} {}", self.head.status, self.head.reason)?;
        for (name, value) in &self.head.headers {
            writeln!(formatter, "{name}: {value}")?;
        }
        let length = self.body.len();
        write!(
            formatter,
            "[{length} bytes, {:?}] {}",
            self.end,
            String::from_utf8_lossy(shown)
        )
    }
}
