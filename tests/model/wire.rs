//! HTTP requests and their transmission.

use std::path::Path;

use testkit::http::{Connect, Cut, Raw, Reply};

/// An HTTP request.
#[derive(Clone, Debug)]
pub struct RawRequest {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
}

impl RawRequest {
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            headers: Vec::new(),
            body: None,
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, bytes: &[u8]) -> Self {
        self.body = Some(bytes.to_vec());
        self
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The whole request as text.
    pub fn text(&self) -> String {
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}"));
        let body = self.body.as_deref().unwrap_or_default();
        let headers: Vec<String> = headers.collect();
        format!(
            "{} {}\n{}\n\n{}",
            self.method,
            self.target,
            headers.join("\n"),
            String::from_utf8_lossy(body)
        )
    }

    /// Sends the request on a new connection and reads the response.
    pub fn send(&self, url: &str, ca: Option<&Path>) -> Result<Reply, Cut> {
        let how = Connect {
            ca,
            ..Connect::default()
        };
        let connected = Raw::connect_with(url, how);
        let mut raw = connected.unwrap_or_else(|error| panic!("{url}: {error}"));
        let length = self.body.as_ref().map(|body| body.len().to_string());
        let mut headers: Vec<(&str, &str)> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        if let Some(length) = &length {
            headers.push(("Content-Length", length));
        } else if self.method != "GET" && self.method != "HEAD" {
            headers.push(("Content-Length", "0"));
        }
        headers.push(("Connection", "close"));
        raw.request(&self.method, &self.target, &headers);
        if let Some(body) = &self.body {
            // A server may refuse a request and close the connection before it has read the body.
            let _ = raw.try_send(body);
        }
        let head = raw.read_head()?;
        let (body, end) = raw.read_body(&self.method, &head);
        Ok(Reply { head, body, end })
    }
}
