//! The client of the admin API: HTTP/1.1 to the admin address of the configuration, over TCP or a socket file.

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

use crate::admin::ProblemBody;
use crate::config::{Config, ListenAddress};

/// The timeout for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The timeout for the next bytes: a purge reads every record, a verification reads 64 MiB of a slow disk.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// The limit for a response that is not streamed, and for a line, in bytes.
const BODY_BYTES: usize = 16 << 20;

/// A request to the gateway that failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminClientError {
    #[error(
        "admin.address is off in the configuration, so the gateway cannot be reached; write an address there"
    )]
    Off,
    #[error(
        "admin.address has port 0 in the configuration: the system chose another one; write a port there"
    )]
    AnyPort,
    #[error(
        "cannot connect to {address}, the admin.address of the configuration: {source}; is the gateway running?"
    )]
    NotRunning { address: String, source: io::Error },
    #[error(
        "{address}, the admin.address of the configuration, refused the request ({status}): {message}"
    )]
    Refused {
        address: String,
        status: StatusCode,
        message: String,
    },
    #[error("the configuration is not applied, and nothing has changed:\n{0}")]
    Configuration(String),
    #[error("the response of the gateway is incomplete: {0}")]
    Incomplete(String),
    #[error("the server at admin.address is not this version of Roadstead: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the request cannot be sent: {0}")]
    System(#[from] io::Error),
}

impl AdminClientError {
    /// `EX_CONFIG`, `EX_UNAVAILABLE` of sysexits.h, else 1.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Off | Self::AnyPort | Self::Configuration(_) => 78,
            Self::NotRunning { .. } => 69,
            Self::Refused { .. } | Self::Incomplete(_) | Self::Unreadable(_) | Self::System(_) => 1,
        }
    }
}

/// The client for the gateway of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminClient {
    /// As in the configuration.
    address: String,
    target: ConnectAddress,
    /// The value of `Host`.
    host: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ConnectAddress {
    Tcp(String),
    Unix(PathBuf),
}

impl AdminClient {
    /// The client for a configuration.
    ///
    /// # Errors
    /// When `admin.address` is off or has port 0.
    pub fn of(config: &Config) -> Result<Self, AdminClientError> {
        let address = config.admin.address.as_ref().ok_or(AdminClientError::Off)?;
        if let Some(path) = config.admin.command_socket(&config.keys) {
            return Ok(Self {
                address: format!("unix:{}", path.display()),
                target: ConnectAddress::Unix(path),
                host: "localhost".to_owned(),
            });
        }
        Self::at(address)
    }

    /// The client for health checks: at `admin.address`, or else at `admin.metrics`.
    ///
    /// # Errors
    /// As [`Self::of`], where both are off.
    pub fn of_health(config: &Config) -> Result<Self, AdminClientError> {
        match (&config.admin.address, &config.admin.metrics) {
            (None, Some(metrics)) => Self::at(metrics),
            _ => Self::of(config),
        }
    }

    fn at(address: &ListenAddress) -> Result<Self, AdminClientError> {
        let (target, host) = match address {
            ListenAddress::Unix(path) => {
                (ConnectAddress::Unix(path.clone()), "localhost".to_owned())
            }
            ListenAddress::Tcp { port: 0, .. } => return Err(AdminClientError::AnyPort),
            ListenAddress::Tcp { host, port } => {
                // All addresses need a login, which has a socket file instead.
                let host = host.as_deref().unwrap_or("127.0.0.1");
                let authority = if host.contains(':') {
                    format!("[{host}]:{port}")
                } else {
                    format!("{host}:{port}")
                };
                (ConnectAddress::Tcp(authority.clone()), authority)
            }
        };
        let address = address.to_string();
        Ok(Self {
            address,
            target,
            host,
        })
    }

    /// Asks whether the gateway is ready.
    ///
    /// # Errors
    /// When it is not, or cannot be reached within some seconds.
    pub fn ready(&self) -> Result<(), AdminClientError> {
        run(async {
            let asked = self.send(Method::GET, "/readyz", Bytes::new());
            let answered = tokio::time::timeout(CONNECT_TIMEOUT, asked).await;
            answered.map_err(|_| timed_out(CONNECT_TIMEOUT))?.map(drop)
        })
    }

    /// Sends a GET and parses the response.
    ///
    /// # Errors
    /// When the gateway cannot be reached, refuses the request, or sends something else.
    pub fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, AdminClientError> {
        run(async {
            let body = self.send(Method::GET, path, Bytes::new()).await?;
            Ok(serde_json::from_slice(&whole(body).await?)?)
        })
    }

    /// Sends a POST and parses the response.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<A, AdminClientError> {
        let body = serde_json::to_vec(body)?;
        run(async {
            let body = self.send(Method::POST, path, body.into()).await?;
            Ok(serde_json::from_slice(&whole(body).await?)?)
        })
    }

    /// Sends a DELETE, whose response has no body.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn delete(&self, path: &str) -> Result<(), AdminClientError> {
        run(async {
            let body = self.send(Method::DELETE, path, Bytes::new()).await?;
            whole(body).await.map(drop)
        })
    }

    /// Sends a POST and passes each line of the response to `line`.
    ///
    /// # Errors
    /// As [`Self::get`], and when the response ends early.
    pub fn follow<L: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        mut line: impl FnMut(L),
    ) -> Result<(), AdminClientError> {
        let body = serde_json::to_vec(body)?;
        run(async {
            let mut body = self.send(Method::POST, path, body.into()).await?;
            let mut rest = BytesMut::new();
            while let Some(piece) = next(&mut body).await? {
                rest.extend_from_slice(&piece);
                while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
                    line(serde_json::from_slice(&rest.split_to(end + 1))?);
                }
                if rest.len() > BODY_BYTES {
                    return Err(AdminClientError::Incomplete("it is too long".into()));
                }
            }
            Ok(())
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Incoming, AdminClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::CONTENT_TYPE, "application/json")
            .header("X-Roadstead-Request", "1")
            .body(Full::new(body))
            .map_err(|error| AdminClientError::Incomplete(error.to_string()))?;
        let response = match &self.target {
            ConnectAddress::Tcp(authority) => {
                let stream = self.connected(TcpStream::connect(authority)).await?;
                exchange(stream, request).await?
            }
            ConnectAddress::Unix(path) => {
                let stream = self.connected(UnixStream::connect(path)).await?;
                exchange(stream, request).await?
            }
        };
        let (status, body) = (response.status(), response.into_body());
        if status.is_success() {
            return Ok(body);
        }
        let body = whole(body).await?;
        let message = match serde_json::from_slice(&body) {
            Ok(ProblemBody { detail, .. }) => detail,
            Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned(),
        };
        if status == StatusCode::UNPROCESSABLE_ENTITY {
            return Err(AdminClientError::Configuration(message));
        }
        Err(AdminClientError::Refused {
            address: self.address.clone(),
            status,
            message,
        })
    }

    async fn connected<S>(
        &self,
        connect: impl Future<Output = io::Result<S>>,
    ) -> Result<S, AdminClientError> {
        let timed = tokio::time::timeout(CONNECT_TIMEOUT, connect).await;
        let connected = timed.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        connected.map_err(|source| AdminClientError::NotRunning {
            address: self.address.clone(),
            source,
        })
    }
}

/// Runs one request to its end.
fn run<A>(
    request: impl Future<Output = Result<A, AdminClientError>>,
) -> Result<A, AdminClientError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(request)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, AdminClientError> {
    let broken = |error: hyper::Error| AdminClientError::Incomplete(telemetry::chain(&error));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    tokio::spawn(connection);
    let response = tokio::time::timeout(READ_TIMEOUT, sender.send_request(request)).await;
    response
        .map_err(|_| timed_out(READ_TIMEOUT))?
        .map_err(broken)
}

async fn whole(mut body: Incoming) -> Result<BytesMut, AdminClientError> {
    let mut bytes = BytesMut::new();
    while let Some(piece) = next(&mut body).await? {
        if bytes.len() + piece.len() > BODY_BYTES {
            return Err(AdminClientError::Incomplete("it is too long".into()));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

async fn next(body: &mut Incoming) -> Result<Option<Bytes>, AdminClientError> {
    let frame = tokio::time::timeout(READ_TIMEOUT, body.frame()).await;
    match frame.map_err(|_| timed_out(READ_TIMEOUT))? {
        None => Ok(None),
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(error)) => Err(AdminClientError::Incomplete(telemetry::chain(&error))),
    }
}

fn timed_out(timeout: Duration) -> AdminClientError {
    let seconds = timeout.as_secs();
    AdminClientError::Incomplete(format!("nothing was received for {seconds} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (address, expected) in [
            ("127.0.0.1:5002", Ok("127.0.0.1:5002")),
            ("localhost:5002", Ok("localhost:5002")),
            ("[::1]:81", Ok("[::1]:81")),
            ("unix:a/b.sock", Ok("localhost")),
            ("127.0.0.1:0", Err(78)),
            ("off", Err(78)),
        ] {
            let yaml = format!("admin: {{address: {address:?}}}");
            let config = crate::config::parse(&yaml, "f", &|_| None).expect("good");
            let client = AdminClient::of(&config);
            let host = client
                .as_ref()
                .map(|client| client.host.as_str())
                .map_err(AdminClientError::exit_code);
            assert_eq!(host, expected, "{address}");
        }
        // Where a login is needed, a socket file in the folder of keys needs none.
        let yaml = r#"{keys: k, admin: {address: ":5002", tls: auto, htpasswd: h}}"#;
        let config = crate::config::parse(yaml, "f", &|_| None).expect("good");
        let client = AdminClient::of(&config).expect("a client");
        assert_eq!(client.target, ConnectAddress::Unix("k/admin.sock".into()));
    }
}
