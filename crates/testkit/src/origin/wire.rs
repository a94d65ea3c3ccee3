//! HTTP/1.1 by hand: reads requests, writes answers exactly as badly as a test asked for.

use std::fmt::Write as _;
use std::io;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Duration, sleep};
use tokio_rustls::server::TlsStream;

use super::fault::Latch;

/// The longest request head, in bytes.
const HEAD_LIMIT: usize = 64 << 10;
/// Bytes written at once.
const STEP: u64 = 64 << 10;

/// What is to be answered, before faults.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Answer {
    pub fn new(status: u16, content_type: &str, body: Bytes) -> Self {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Self {
            status,
            headers,
            body,
        }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", Bytes::from(body.to_string()))
    }

    /// An error with the specification's body.
    pub fn error(status: u16, code: &str) -> Self {
        let message = format!("the scripted upstream says {code}");
        Self::json(
            status,
            &json!({"errors": [{"code": code, "message": message}]}),
        )
    }

    /// Sets a header, in place of any of the same name.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.unset(name);
        self.headers.push((name.to_owned(), value.into()));
    }

    pub fn unset(&mut self, name: &str) {
        self.headers
            .retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// How a body is delimited.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This length is announced.
    Length(u64),
    Chunked,
    /// The end of the connection.
    Close,
}

/// What happens before a byte of the body.
pub enum Stop {
    Pause(Latch),
    Stall,
    Close,
    Reset,
}

/// How a body goes out.
pub struct Delivery {
    pub framing: Framing,
    /// Sorted by position.
    pub stops: Vec<(u64, Stop)>,
    /// Bytes a second.
    pub rate: Option<u64>,
    /// Sent after the body, beyond what was announced.
    pub trailing: u64,
}

pub enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    async fn read(&mut self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
}

/// A connection and what has arrived on it beyond the last request.
pub struct Connection {
    pub socket: Socket,
    pub buffer: BytesMut,
}

/// A request's line, headers and body.
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
}

impl Connection {
    /// The next request; `None` at the end of the connection or for malformed input.
    pub async fn request(&mut self) -> Option<Request> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if self.buffer.len() > HEAD_LIMIT || self.more().await.is_err() {
                return None;
            }
        };
        let head = self.buffer.split_to(end + 4);
        let head = std::str::from_utf8(&head).ok()?;
        let mut lines = head.trim_end().split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let named = |wanted: &str| {
            let found = headers
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.as_str())
        };
        let body = if named("transfer-encoding") == Some("chunked") {
            self.chunks().await?
        } else {
            let length = named("content-length").and_then(|value| value.parse().ok());
            self.take(length.unwrap_or(0)).await?
        };
        Some(Request {
            method,
            target,
            headers,
            body,
        })
    }

    /// The next `length` bytes; `None` if the client ends before.
    async fn take(&mut self, length: usize) -> Option<Bytes> {
        while self.buffer.len() < length {
            self.more().await.ok()?;
        }
        Some(self.buffer.split_to(length).freeze())
    }

    /// A chunked body; `None` if it is broken off.
    async fn chunks(&mut self) -> Option<Bytes> {
        let mut body = BytesMut::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break end;
                }
                self.more().await.ok()?;
            };
            let line = self.take(end + 2).await?;
            let size = std::str::from_utf8(&line[..end]).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            body.extend_from_slice(&self.take(size + 2).await?[..size]);
            if size == 0 {
                return Some(body.freeze());
            }
        }
    }

    /// Writes the head, and a length or the like as the framing wants it.
    pub async fn head(&mut self, answer: &mut Answer, framing: Framing) -> io::Result<()> {
        match framing {
            Framing::Length(length) => answer.set("Content-Length", length.to_string()),
            Framing::Chunked => answer.set("Transfer-Encoding", "chunked"),
            Framing::Close => answer.set("Connection", "close"),
        }
        let reason = http::StatusCode::from_u16(answer.status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("Status");
        let mut head = format!("HTTP/1.1 {} {reason}\r\n", answer.status);
        for (name, value) in &answer.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        head.push_str("\r\n");
        self.socket.write(head.as_bytes()).await
    }

    /// Writes a body. `Ok(false)`: the connection is done for. `sent` hears of every piece.
    pub async fn body(
        &mut self,
        body: &[u8],
        delivery: Delivery,
        mut sent: impl FnMut(u64),
    ) -> io::Result<bool> {
        let length = body.len() as u64;
        let mut stops = delivery.stops.into_iter().peekable();
        let mut at = 0;
        loop {
            while let Some((_, stop)) = stops.next_if(|(position, _)| *position <= at) {
                if !self.stop(stop).await? {
                    return Ok(false);
                }
            }
            if at == length {
                break;
            }
            let step = delivery
                .rate
                .map_or(STEP, |rate| (rate / 20).clamp(1, STEP));
            let next = stops.peek().map_or(length, |(position, _)| *position);
            let end = length.min(at + step).min(next);
            let piece = &body[index(at)..index(end)];
            self.piece(piece, delivery.framing).await?;
            sent(end - at);
            if let Some(rate) = delivery.rate {
                let nanos = (end - at).saturating_mul(1_000_000_000) / rate.max(1);
                sleep(Duration::from_nanos(nanos)).await;
            }
            at = end;
        }
        if delivery.framing == Framing::Chunked {
            self.socket.write(b"0\r\n\r\n").await?;
        }
        let trailing = vec![b'!'; index(delivery.trailing)];
        self.socket.write(&trailing).await?;
        Ok(delivery.framing != Framing::Close)
    }

    /// Says goodbye: everything written arrives, then the end.
    pub async fn close(mut self) {
        let _ = match &mut self.socket {
            Socket::Plain(stream) => stream.shutdown().await,
            Socket::Tls(stream) => stream.shutdown().await,
        };
    }

    /// Waits for the peer to go away.
    pub async fn gone(&mut self) -> io::Error {
        loop {
            if let Err(error) = self.more().await {
                return error;
            }
        }
    }

    /// Makes the end of this connection a reset: drop it with this error, and write nothing more.
    pub fn reset(&self) -> io::Error {
        let lingering = match &self.socket {
            Socket::Plain(stream) => stream.set_zero_linger(),
            Socket::Tls(stream) => stream.get_ref().0.set_zero_linger(),
        };
        let reset = io::ErrorKind::ConnectionReset.into();
        lingering.err().unwrap_or(reset)
    }

    async fn piece(&mut self, piece: &[u8], framing: Framing) -> io::Result<()> {
        if framing != Framing::Chunked {
            return self.socket.write(piece).await;
        }
        let size = format!("{:x}\r\n", piece.len());
        self.socket
            .write(&[size.as_bytes(), piece, b"\r\n"].concat())
            .await
    }

    async fn stop(&mut self, stop: Stop) -> io::Result<bool> {
        match stop {
            Stop::Pause(latch) => tokio::select! {
                () = latch.pass() => Ok(true),
                error = self.gone() => Err(error),
            },
            Stop::Stall => Err(self.gone().await),
            Stop::Close => Ok(false),
            Stop::Reset => Err(self.reset()),
        }
    }

    async fn more(&mut self) -> io::Result<()> {
        if self.socket.read(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// What a `Range` header asks of so many bytes.
pub enum Wanted {
    /// No range, or none that this server knows.
    All,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// Nothing that exists.
    Beyond,
}

impl Wanted {
    pub fn of(header: Option<&str>, size: u64) -> Self {
        let range = header.and_then(|header| header.strip_prefix("bytes=")?.split_once('-'));
        let Some((first, last)) = range else {
            return Self::All;
        };
        match (first.parse::<u64>(), last.parse::<u64>()) {
            (Ok(first), Ok(last)) if last < first => Self::All,
            (Ok(first), _) if first >= size => Self::Beyond,
            (Ok(first), Ok(last)) => Self::Part(first, last.min(size - 1)),
            (Ok(first), Err(_)) if last.is_empty() => Self::Part(first, size - 1),
            (Err(_), Ok(length)) if first.is_empty() && length > 0 && size > 0 => {
                Self::Part(size.saturating_sub(length), size - 1)
            }
            (Err(_), Ok(_)) if first.is_empty() => Self::Beyond,
            _ => Self::All,
        }
    }
}

/// Positions come from lengths of slices, so they fit.
pub fn index(position: u64) -> usize {
    usize::try_from(position).expect("a position in memory")
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
