//! Listen addresses.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use super::units::Parsed;
use oci::authority::{self, bracketed, parse_port};

/// The longest path of a Unix socket on Linux, in bytes, without the terminating zero.
const UNIX_PATH: usize = 107;

/// The address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// `host:port`, `[v6]:port` or `:port`.
    Tcp {
        /// An IP address (v6 without brackets) or a name to resolve; `None`: all addresses.
        host: Option<String>,
        /// 0: the system chooses a port.
        port: u16,
    },
    /// `unix:PATH`; a relative path is resolved against the working directory.
    Unix(PathBuf),
}

impl ListenAddress {
    pub(super) fn parse(text: &str) -> Parsed<Self> {
        const FORMS: &str = "write host:port, [v6]:port, :port for all addresses, or unix:PATH";
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                0 => Err(format!("has no path; {FORMS}")),
                1..=UNIX_PATH => Ok(Self::Unix(path.into())),
                _ => Err(format!(
                    "is too long for a socket; write a path of at most {UNIX_PATH} bytes"
                )),
            };
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err(format!("has no brackets; write [{text}]:5000"));
        }
        if let Some(port) = text.strip_prefix(':') {
            let port = parse_port(port).ok_or_else(|| format!("is not an address; {FORMS}"))?;
            return Ok(Self::Tcp { host: None, port });
        }
        match authority::parse(text) {
            Some((host, Some(port))) => Ok(Self::Tcp {
                host: Some(host),
                port,
            }),
            Some((port, None)) if parse_port(&port).is_some() => {
                Err(format!("is only a port; write :{port} for all addresses"))
            }
            Some((_, None)) => Err(format!("has no port; write {text}:5000")),
            None => Err(format!("is not an address; {FORMS}")),
        }
    }

    /// Whether the two cannot be bound together. Port 0 is a different port each time.
    pub(super) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Tcp { host, port },
                Self::Tcp {
                    host: other_host,
                    port: other_port,
                },
            ) => {
                let overlap = host == other_host || host.is_none() || other_host.is_none();
                *port != 0 && port == other_port && overlap
            }
            (Self::Unix(path), Self::Unix(other)) => path == other,
            _ => false,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => {
                write!(f, "{}:{port}", bracketed(host.as_deref().unwrap_or("")))
            }
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> ListenAddress {
        let host = (!host.is_empty()).then(|| host.to_owned());
        ListenAddress::Tcp { host, port }
    }

    #[test]
    fn listen_addresses() {
        for (text, expected) in [
            ("127.0.0.1:5000", Some(tcp("127.0.0.1", 5000))),
            (":443", Some(tcp("", 443))),
            (":0", Some(tcp("", 0))),
            ("localhost:0", Some(tcp("localhost", 0))),
            ("[::1]:5000", Some(tcp("::1", 5000))),
            ("[::]:65535", Some(tcp("::", 65535))),
            (
                "unix:/run/r.sock",
                Some(ListenAddress::Unix("/run/r.sock".into())),
            ),
            ("unix:r.sock", Some(ListenAddress::Unix("r.sock".into()))),
            ("unix:", None),
            ("5000", None),
            ("localhost", None),
            ("::1", None),
            ("[::1]", None),
            ("[::1]x:5", None),
            ("[localhost]:5", None),
            ("::1:5000", None),
            (":65536", None),
            (":+1", None),
            (":", None),
            ("", None),
            ("*:443", None),
            ("a b:443", None),
            ("http://a:443", None),
        ] {
            let address = ListenAddress::parse(text).ok();
            assert_eq!(address, expected, "{text}");
            if let Some(address) = address {
                assert_eq!(address.to_string(), text);
            }
        }
        assert!(ListenAddress::parse(&format!("unix:{}", "x".repeat(107))).is_ok());
        assert!(ListenAddress::parse(&format!("unix:{}", "x".repeat(108))).is_err());
    }

    #[test]
    fn addresses_collide() {
        for (a, b, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", ":1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            (":0", ":0", false),
            ("unix:a", "unix:a", true),
            ("unix:a", "unix:b", false),
            ("unix:a", ":1", false),
        ] {
            let (a, b) = (ListenAddress::parse(a), ListenAddress::parse(b));
            let (a, b) = (a.unwrap(), b.unwrap());
            assert_eq!(a.collides(&b), expected, "{a} {b}");
            assert_eq!(b.collides(&a), expected, "{b} {a}");
        }
    }
}
