//! reqwest, for h2 and for ordinary requests.

use std::path::Path;
use std::time::Duration;

use super::{WAIT, runtime};

/// A reqwest client of one HTTP version.
#[derive(Clone)]
pub struct Web {
    client: reqwest::Client,
}

/// A response as reqwest reports it.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// HTTP/1.1 or HTTP/2.
    pub version: http::Version,
    /// The three digits; redirects are not followed.
    pub status: u16,
    /// In lower case.
    pub headers: http::HeaderMap,
    /// The bytes that arrived.
    pub body: Vec<u8>,
    /// The chain of errors that ended the body early; `None` if it is complete.
    pub broken: Option<String>,
}

impl Fetched {
    /// The first field of this name, in any case; `None` if it is no ASCII text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Web {
    /// HTTP/2 only, over TLS (ALPN) or with prior knowledge over plain TCP.
    pub fn h2(ca: Option<&Path>) -> Self {
        Self::h2_within(ca, WAIT)
    }

    /// [`Web::h2`] with a read timeout.
    pub fn h2_within(ca: Option<&Path>, wait: Duration) -> Self {
        Self::build(ca, |builder| {
            builder.http2_prior_knowledge().read_timeout(wait)
        })
    }

    /// HTTP/1.1 only.
    pub fn h1(ca: Option<&Path>) -> Self {
        Self::build(ca, reqwest::ClientBuilder::http1_only)
    }

    fn build(
        ca: Option<&Path>,
        version: impl FnOnce(reqwest::ClientBuilder) -> reqwest::ClientBuilder,
    ) -> Self {
        crate::tls::install_provider();
        let certificates = ca.map_or_else(Vec::new, |path| {
            let pem = std::fs::read(path).expect("a CA file");
            reqwest::Certificate::from_pem_bundle(&pem).expect("a CA")
        });
        let builder = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(WAIT)
            .read_timeout(WAIT)
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(certificates);
        let client = version(builder).build().expect("a client");
        Self { client }
    }

    /// The client itself, for use within `block_on` or a runtime of the test's own.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Sends a GET without further headers, and reads the whole response.
    #[track_caller]
    pub fn get(&self, url: &str) -> Fetched {
        self.fetch("GET", url, &[])
    }

    /// Sends a request and reads the whole response.
    #[track_caller]
    pub fn fetch(&self, method: &str, url: &str, headers: &[(&str, &str)]) -> Fetched {
        match runtime().block_on(self.fetch_async(method, url, headers)) {
            Ok(fetched) => fetched,
            Err(error) => panic!("{method} {url}: {}", chain(&error)),
        }
    }

    /// [`Web::fetch`] for many concurrent requests.
    pub async fn fetch_async(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
    ) -> reqwest::Result<Fetched> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send().await?;
        let mut fetched = Fetched {
            version: answer.version(),
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: Vec::new(),
            broken: None,
        };
        loop {
            match answer.chunk().await {
                Ok(Some(bytes)) => fetched.body.extend_from_slice(&bytes),
                Ok(None) => return Ok(fetched),
                Err(error) => {
                    fetched.broken = Some(chain(&error));
                    return Ok(fetched);
                }
            }
        }
    }
}

/// An error and its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
