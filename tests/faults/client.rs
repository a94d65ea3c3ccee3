//! A client of either protocol, in two steps: headers, then body.

use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{End, Head, Raw, Web, block_on, chain};

/// More than the gateway's own deadlines, so that those take effect.
pub const READ_TIMEOUT: Duration = Duration::from_secs(45);

/// The protocol of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

pub const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// A response whose headers have arrived.
pub enum Opened {
    Http1(Box<Raw>, Head),
    Http2(reqwest::Response),
    /// The connection or stream was aborted before the headers.
    Nothing(String),
}

/// A client's view of a response.
#[derive(Debug)]
pub struct View {
    /// 0 without headers.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// How it was visibly incomplete, if it was.
    pub broken: Option<String>,
}

/// Sends a GET and waits for the headers: HTTP/1.1 without TLS, or HTTP/2 over TLS, where clients that share `web`
/// share one connection.
pub fn open(protocol: Protocol, gateway: &Gateway, web: &Web, path: &str) -> Opened {
    match protocol {
        Protocol::Http1 => {
            let mut raw = Raw::connect(gateway.url(1), None);
            let _ = raw.read_timeout(READ_TIMEOUT);
            raw.request("GET", path, &[]);
            match raw.read_head() {
                Ok(head) => Opened::Http1(Box::new(raw), head),
                Err(cut) => Opened::Nothing(format!("{cut:?}")),
            }
        }
        Protocol::Http2 => {
            let asked = web.client().get(format!("{}{path}", gateway.url(0)));
            match block_on(async { asked.send().await }) {
                Ok(response) => Opened::Http2(response),
                Err(error) => Opened::Nothing(chain(&error)),
            }
        }
    }
}

impl Opened {
    /// Reads the rest.
    pub fn finish(self) -> View {
        match self {
            Self::Nothing(broken) => View {
                status: 0,
                headers: Vec::new(),
                body: Vec::new(),
                broken: Some(broken),
            },
            Self::Http1(mut raw, head) => {
                let (body, end) = raw.read_body("GET", &head);
                View {
                    status: head.status,
                    headers: head.headers,
                    body,
                    // An end by the connection's end alone proves nothing.
                    broken: (end != End::Complete).then(|| format!("{end:?}")),
                }
            }
            Self::Http2(mut response) => {
                assert_eq!(response.version(), http::Version::HTTP_2);
                let headers = response.headers().iter();
                let text = |value: &http::HeaderValue| value.to_str().unwrap_or("?").to_owned();
                let mut view = View {
                    status: response.status().as_u16(),
                    headers: headers.map(|(k, v)| (k.to_string(), text(v))).collect(),
                    body: Vec::new(),
                    broken: None,
                };
                loop {
                    match block_on(response.chunk()) {
                        Ok(Some(bytes)) => view.body.extend_from_slice(&bytes),
                        Ok(None) => return view,
                        Err(error) => {
                            view.broken = Some(chain(&error));
                            return view;
                        }
                    }
                }
            }
        }
    }
}

impl View {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The code of the specification's error body.
    pub fn code(&self) -> Option<String> {
        let body: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(body["errors"][0]["code"].as_str()?.to_owned())
    }
}
