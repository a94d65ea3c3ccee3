//! Origins of upstreams.

use std::fmt;
use std::net::IpAddr;

use super::host::HUB;
use super::units::Parsed;
use oci::authority::{self, bracketed};

/// The origin of Docker Hub's registry API.
const HUB_API: &str = "registry-1.docker.io";

/// The scheme of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTPS.
    Https,
}

/// A scheme, a host and perhaps a port: `https://registry.example.com`, as in RFC 6454.
///
/// Displays as the URL without a path; with the port only where it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// A lower-case name or an IP address, v6 without brackets.
    pub host: String,
    /// As given; where absent, the default of the scheme.
    pub port: Option<u16>,
}

impl Origin {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        let (scheme, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (Scheme::Https, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (Scheme::Http, rest)
        } else {
            return Err("is not a URL; write http://host:port or https://host".to_owned());
        };
        if rest.contains('@') {
            return Err("holds a user or password; write them under credentials".to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err("holds a query or fragment; write scheme, host and port only".to_owned());
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if !path.is_empty() {
            return Err(
                "has a path, and paths are not supported yet; write scheme, host and port only"
                    .to_owned(),
            );
        }
        match authority::parse(authority) {
            Some((host, port)) if port != Some(0) => Ok(Self { scheme, host, port }),
            _ => Err("has no usable host and port; write http://host:port or https://host".into()),
        }
    }

    /// The default origin of a registry: `https://<name>`, or the API's host for Docker Hub. `None` if the name is no
    /// registry name.
    pub(super) fn of_registry(name: &str) -> Option<Self> {
        let authority = if name == HUB { HUB_API } else { name };
        let (host, port) = authority::parse(authority)?;
        Some(Self {
            scheme: Scheme::Https,
            host,
            port,
        })
    }

    /// `host` or `host:port`, as in a Host header; v6 in brackets.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = bracketed(&self.host);
        match self.port {
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }

    /// Whether requests to it cross a network unencrypted.
    #[must_use]
    pub fn is_plain_remote(&self) -> bool {
        self.scheme == Scheme::Http && !self.is_loopback()
    }

    /// Whether requests to it stay on this machine.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost" || self.host.ends_with(".localhost"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (text, expected) in [
            ("http://127.0.0.1:6002", Some("http://127.0.0.1:6002")),
            (
                "https://Registry.Example.com/",
                Some("https://registry.example.com"),
            ),
            ("https://[::1]:5000", Some("https://[::1]:5000")),
            ("http://registry_v2:5000", Some("http://registry_v2:5000")),
            ("registry.example.com", None),
            ("ftp://host", None),
            ("https://", None),
            ("https://host:0", None),
            ("https://host:port", None),
            ("https://host/path", None),
            ("https://host?query", None),
            ("https://host#fragment", None),
            ("https://me:pw@host", None),
            ("https://host//", None),
            ("https://ho st", None),
        ] {
            let origin = Origin::parse(text).ok().map(|origin| origin.to_string());
            assert_eq!(origin.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn origins_of_registries() {
        for (name, expected) in [
            ("docker.io", "https://registry-1.docker.io"),
            ("ghcr.io", "https://ghcr.io"),
            ("registry.local:5000", "https://registry.local:5000"),
        ] {
            assert_eq!(Origin::of_registry(name).unwrap().to_string(), expected);
        }
        assert_eq!(Origin::of_registry("").map(|o| o.to_string()), None);
    }

    #[test]
    fn loopback() {
        for (text, expected) in [
            ("http://127.9.9.9", true),
            ("http://[::1]", true),
            ("http://localhost:1", true),
            ("http://a.localhost", true),
            ("http://10.0.0.1", false),
            ("http://notlocalhost", false),
        ] {
            assert_eq!(
                Origin::parse(text).unwrap().is_loopback(),
                expected,
                "{text}"
            );
        }
    }
}
