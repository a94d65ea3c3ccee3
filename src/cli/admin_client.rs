//! Asking a running gateway: HTTP/1.1 to the admin address of the configuration, over TCP or a socket file.

use std::fmt::Write as _;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::admin::Refused;
use crate::config::{Config, ListenAddress};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the gateway may be silent: a purge looks at every record, a verification at 64 MiB of a slow disk.
const SILENCE: Duration = Duration::from_secs(600);
/// The longest answer that is read whole, and the longest line, in bytes.
const WHOLE: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error(
        "admin.address is off in the configuration, so there is nobody to ask; write an address there"
    )]
    Off,
    #[error(
        "admin.address has port 0 in the configuration: the system chose another one; write a port there"
    )]
    AnyPort,
    #[error(
        "nobody answers at {address}, the admin.address of the configuration: {source}; is the gateway running?"
    )]
    NotRunning { address: String, source: io::Error },
    #[error("{address}, the admin.address of the configuration, refuses ({status}): {message}")]
    Refused {
        address: String,
        status: StatusCode,
        message: String,
    },
    #[error("the gateway stopped answering: {0}")]
    BrokenOff(String),
    #[error("what answers at admin.address is no gateway of this version: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the system refuses: {0}")]
    System(#[from] io::Error),
}

impl AskError {
    /// `EX_CONFIG`, `EX_UNAVAILABLE` of sysexits.h, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Off | Self::AnyPort => 78,
            Self::NotRunning { .. } => 69,
            Self::Refused { .. } | Self::BrokenOff(_) | Self::Unreadable(_) | Self::System(_) => 1,
        }
    }
}

/// Where a gateway of this configuration is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminClient {
    /// As the configuration has it.
    address: String,
    at: At,
    /// For `Host`.
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum At {
    Tcp(String),
    Unix(PathBuf),
}

impl AdminClient {
    /// # Errors
    /// When the configuration leaves nobody to ask.
    pub fn of(config: &Config) -> Result<Self, AskError> {
        let address = config.admin.address.as_ref().ok_or(AskError::Off)?;
        let (at, host) = match address {
            ListenAddress::Unix(path) => (At::Unix(path.clone()), "localhost".to_owned()),
            ListenAddress::Tcp { port: 0, .. } => return Err(AskError::AnyPort),
            ListenAddress::Tcp { host, port } => {
                // Who listens on all addresses is on this machine too.
                let host = match host.as_deref() {
                    None | Some("0.0.0.0") => "127.0.0.1",
                    Some("::") => "::1",
                    Some(host) => host,
                };
                let authority = if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                };
                (At::Tcp(authority.clone()), authority)
            }
        };
        let address = address.to_string();
        Ok(Self { address, at, host })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, AskError> {
        run(async {
            let body = self.send(Method::GET, path, Bytes::new()).await?;
            Ok(serde_json::from_slice(&whole(body).await?)?)
        })
    }

    /// Has something done.
    ///
    /// # Errors
    /// Why there is no answer.
    pub fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        asked: &impl Serialize,
    ) -> Result<A, AskError> {
        let asked = serde_json::to_vec(asked)?;
        run(async {
            let body = self.send(Method::POST, path, asked.into()).await?;
            Ok(serde_json::from_slice(&whole(body).await?)?)
        })
    }

    /// Has something done that tells how it goes, line by line.
    ///
    /// # Errors
    /// Why there is no answer, or why it ended early.
    pub fn follow<L: DeserializeOwned>(
        &self,
        path: &str,
        asked: &impl Serialize,
        mut line: impl FnMut(L),
    ) -> Result<(), AskError> {
        let asked = serde_json::to_vec(asked)?;
        run(async {
            let mut body = self.send(Method::POST, path, asked.into()).await?;
            let mut rest = BytesMut::new();
            while let Some(piece) = next(&mut body).await? {
                rest.extend_from_slice(&piece);
                while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                    line(serde_json::from_slice(&rest.split_to(end + 1))?);
                }
                if rest.len() > WHOLE {
                    return Err(AskError::BrokenOff("its answer is too long".into()));
                }
            }
            Ok(())
        })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, AskError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| AskError::BrokenOff(error.to_string()))?;
        let response = match &self.at {
            At::Tcp(authority) => {
                let stream = self.connected(TcpStream::connect(authority)).await?;
                exchange(stream, request).await?
            }
            At::Unix(path) => {
                let stream = self.connected(UnixStream::connect(path)).await?;
                exchange(stream, request).await?
            }
        };
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let words = whole(body).await?;
        let message = match serde_json::from_slice(&words) {
            Ok(Refused { error }) => error,
            Err(_) => String::from_utf8_lossy(&words[..words.len().min(200)]).into_owned(),
        };
        Err(AskError::Refused {
            address: self.address.clone(),
            status,
            message,
        })
    }

    async fn connected<S>(
        &self,
        connect: impl Future<Output = io::Result<S>>,
    ) -> Result<S, AskError> {
        let timed = tokio::time::timeout(CONNECT, connect).await;
        let connected = timed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        connected.map_err(|source| AskError::NotRunning {
            address: self.address.clone(),
            source,
        })
    }
}

/// One thread is enough for one question.
fn run<A>(question: impl Future<Output = Result<A, AskError>>) -> Result<A, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(question)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, AskError> {
    let broken = |error: hyper::Error| AskError::BrokenOff(told(&error));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    tokio::spawn(connection);
    let answer = tokio::time::timeout(SILENCE, sender.send_request(request)).await;
    answer.map_err(|_| silent())?.map_err(broken)
}

async fn whole(mut body: Incoming) -> Result<BytesMut, AskError> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = next(&mut body).await? {
        if bytes.len() + piece.len() > WHOLE {
            return Err(AskError::BrokenOff("its answer is too long".into()));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, AskError> {
    let frame = tokio::time::timeout(SILENCE, body.frame()).await;
    match frame.map_err(|_| silent())? {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(AskError::BrokenOff(told(&error))),
    }
}

fn silent() -> AskError {
    let mut words = String::from("it said nothing for ");
    let _ = write!(words, "{} s", SILENCE.as_secs());
    AskError::BrokenOff(words)
}

fn told(error: &hyper::Error) -> String {
    telemetry::chain(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_ask() {
        for (address, expected) in [
            ("127.0.0.1:5002", Ok("127.0.0.1:5002")),
            (":5002", Ok("127.0.0.1:5002")),
            ("0.0.0.0:81", Ok("127.0.0.1:81")),
            ("[::]:81", Ok("[::1]:81")),
            ("[::1]:81", Ok("[::1]:81")),
            ("admin.example:81", Ok("admin.example:81")),
            ("unix:a/b.sock", Ok("localhost")),
            ("127.0.0.1:0", Err(78)),
            ("off", Err(78)),
        ] {
            let yaml = format!("admin: {{address: {address:?}}}");
            let config = crate::config::parse(&yaml, "f", &|_| None).expect("good");
            let client = AdminClient::of(&config);
            let told = client
                .as_ref()
                .map(|client| client.host.as_str())
                .map_err(AskError::exit_code);
            assert_eq!(told, expected, "{address}");
        }
    }
}
