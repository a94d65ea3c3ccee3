//! Blocking HTTP/2 over TLS by hand: any frame can be sent, valid or not, and every received frame is visible. Only the
//! test opens windows.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};

pub use super::hpack::encode;

use super::hpack;
use testkit::http::{Cut, End, Head, Reply};

/// The beginning of every connection (RFC 9113 §3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// For DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// For HEADERS.
pub const END_HEADERS: u8 = 4;
/// For SETTINGS and PING.
pub const ACK: u8 = 1;

/// The longest payload that every peer takes, in bytes.
const MAX_FRAME: usize = 16 << 10;
/// The longest wait for the next frame.
const WAIT: Duration = Duration::from_secs(15);

/// A header field: name and value, any bytes.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A frame as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The bytes of a SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in values {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(SETTINGS, 0, 0, &payload)
}

/// The bytes of a whole request without a body: `HEADERS` with `END_STREAM`.
pub fn request(stream: u32, fields: &[Field<'_>]) -> Vec<u8> {
    let block = hpack::encode(fields);
    let first = &block[..block.len().min(MAX_FRAME)];
    let rest = block[first.len()..].chunks(MAX_FRAME);
    let mut pieces = std::iter::once(first).chain(rest).peekable();
    let (mut bytes, mut kind, mut flags) = (Vec::new(), HEADERS, END_STREAM);
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            flags |= END_HEADERS;
        }
        bytes.extend(frame(kind, flags, stream, piece));
        (kind, flags) = (CONTINUATION, 0);
    }
    bytes
}

/// The pseudo-header fields of a request.
pub fn pseudo<'a>(method: &'a str, path: &'a str) -> [Field<'a>; 4] {
    [
        (b":method", method.as_bytes()),
        (b":scheme", b"https"),
        (b":authority", b"localhost"),
        (b":path", path.as_bytes()),
    ]
}

/// A connection by hand.
pub struct H2 {
    stream: StreamOwned<ClientConnection, TcpStream>,
}

impl H2 {
    /// Does the handshake with `https://host:port` and negotiates h2.
    pub fn bare(url: &str, ca: &Path) -> io::Result<Self> {
        Self::with(url, testkit::tls::client_config(ca, &["h2"]))
    }

    fn with(url: &str, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let authority = url.strip_prefix("https://").expect("an https URL");
        let (host, _) = authority.rsplit_once(':').expect("a port");
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TcpStream::connect(authority)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
        Ok(Self { stream })
    }

    /// Connects and sends preface and settings: no header table, so that responses can be read separately, no pushes,
    /// `window` bytes for each stream, and practically no limit for the connection.
    #[track_caller]
    pub fn connect(url: &str, ca: &Path, window: u32) -> Self {
        let mut connection = Self::bare(url, ca).unwrap_or_else(|error| panic!("{url}: {error}"));
        let mut opening = PREFACE.to_vec();
        opening.extend(settings(&[(1, 0), (2, 0), (4, window)]));
        opening.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        connection.send(&opening).expect("the preface is taken");
        connection
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next frame, after answering settings and pings.
    pub fn next(&mut self) -> Result<Frame, Cut> {
        loop {
            let mut head = [0; 9];
            self.fill(&mut head)?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            self.fill(&mut payload)?;
            let frame = Frame {
                kind: head[3],
                flags: head[4],
                stream: u32::from_be_bytes([head[5], head[6], head[7], head[8]]),
                payload,
            };
            if !matches!(frame.kind, SETTINGS | PING) || frame.flags & ACK != 0 {
                if frame.kind == SETTINGS {
                    continue;
                }
                return Ok(frame);
            }
            let echo = if frame.kind == PING {
                &frame.payload
            } else {
                &[][..]
            };
            // A peer that has just refused the connection may be gone.
            let _ = self.send(&self::frame(frame.kind, ACK, 0, echo));
        }
    }

    /// Reads until the connection ends, without answering.
    pub fn end(&mut self) -> Cut {
        loop {
            if let Err(cut) = self.fill(&mut [0]) {
                return cut;
            }
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Cut> {
        let mut done = 0;
        while done < bytes.len() {
            match self.stream.read(&mut bytes[done..]) {
                Ok(0) => return Err(Cut::Closed),
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Cut::from(&error)),
            }
        }
        Ok(())
    }

    /// Sets the timeout of the next reads.
    pub fn read_timeout(&self, wait: Duration) {
        let _ = self.stream.sock.set_read_timeout(Some(wait));
    }

    /// Sends a request on a stream of its own and reads the whole response. The windows must be large enough for it.
    pub fn exchange(&mut self, stream: u32, fields: &[Field<'_>]) -> Result<Reply, Refused> {
        self.send(&request(stream, fields))
            .map_err(|error| Refused::Ended(Cut::from(&error)))?;
        self.reply(stream)
    }

    /// Reads the response on one stream.
    pub fn reply(&mut self, stream: u32) -> Result<Reply, Refused> {
        let mut head = None;
        let mut body = Vec::new();
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline {
            let frame = self.next().map_err(Refused::Ended)?;
            match frame.kind {
                GOAWAY => return Err(Refused::GoAway(code(&frame.payload[4..]))),
                _ if frame.stream != stream => continue,
                RST_STREAM => return Err(Refused::Reset(code(&frame.payload))),
                HEADERS => head = head.or(Some(self::head(&frame.payload))),
                DATA => body.extend(&frame.payload),
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                let head = head.expect("headers before data");
                let end = End::Complete;
                return Ok(Reply { head, body, end });
            }
        }
        Err(Refused::Ended(Cut::TimedOut))
    }
}

/// How a request was refused below HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// `RST_STREAM` with this code.
    Reset(u32),
    /// GOAWAY with this code.
    GoAway(u32),
    /// The connection ended, or went silent.
    Ended(Cut),
}

fn code(payload: &[u8]) -> u32 {
    payload
        .first_chunk()
        .map_or(0, |code| u32::from_be_bytes(*code))
}

/// Status and headers of a response.
pub fn head(block: &[u8]) -> Head {
    let mut headers = hpack::decode(block);
    let status = headers.iter().position(|(name, _)| name == ":status");
    let (_, status) = headers.remove(status.expect("a status"));
    Head {
        status: status.parse().expect("a number"),
        reason: String::new(),
        headers,
    }
}
