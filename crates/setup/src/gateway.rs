//! The gateway as a client reaches it.

use oci::authority;

/// The name of Docker Hub.
pub(crate) const HUB: &str = "docker.io";

/// A gateway, and what is pulled through it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Whether it speaks TLS.
    https: bool,
    /// `host` or `host:port`.
    authority: String,
    /// The PEM text of its CA; `None` if clients trust it already, or it has no TLS.
    pub ca: Option<String>,
    /// The registries to pull through it, by their hosts: `docker.io`, `ghcr.io`.
    pub registries: Vec<String>,
}

/// Why a text is no gateway, or no registry: the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewayError {
    /// Not `http://…` or `https://…` with a host alone.
    #[error("is not a gateway's URL; write https://host:port or http://host:port")]
    Url,
    /// Not a host that images are named after.
    #[error("is not a registry's host; write one that images are named after, such as ghcr.io")]
    Registry,
    /// Another name of Docker Hub.
    #[error("is another name of docker.io; write docker.io")]
    Alias,
}

impl Gateway {
    /// The gateway at a URL of scheme, host and perhaps port. A port of the scheme's own is left out, as clients leave it out
    /// where they look for files of that host.
    ///
    /// # Errors
    /// [`GatewayError::Url`]
    pub fn parse(url: &str) -> Result<Self, GatewayError> {
        let (https, rest, own) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest, 443),
            (None, Some(rest)) => (false, rest, 80),
            (None, None) => return Err(GatewayError::Url),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = authority::parse(rest).ok_or(GatewayError::Url)?;
        let host = authority::bracketed(&host).to_lowercase();
        let authority = match port {
            Some(0) => return Err(GatewayError::Url),
            Some(port) if port != own => format!("{host}:{port}"),
            _ => host,
        };
        Ok(Self {
            https,
            authority,
            ca: None,
            registries: Vec::new(),
        })
    }

    /// Whether it speaks TLS.
    pub fn is_https(&self) -> bool {
        self.https
    }

    /// `host` or `host:port`, without the scheme's own port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        let scheme = if self.https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

/// Checks the name of a registry.
///
/// # Errors
/// [`GatewayError::Registry`], [`GatewayError::Alias`]
pub fn registry(name: &str) -> Result<String, GatewayError> {
    const ALIASES: [&str; 3] = [
        "index.docker.io",
        "registry-1.docker.io",
        "registry.hub.docker.com",
    ];
    if ALIASES.contains(&name) {
        return Err(GatewayError::Alias);
    }
    // As clients tell a host from the first component of a name.
    let is_host = name.contains(['.', ':']) || name == "localhost";
    match authority::parse(name) {
        Some((_, port)) if is_host && port != Some(0) && name == name.to_lowercase() => {
            Ok(name.to_owned())
        }
        _ => Err(GatewayError::Registry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_registries() {
        for (url, expected) in [
            ("https://gw.lan:5000", Some("https://gw.lan:5000")),
            ("https://GW.lan:443/", Some("https://gw.lan")),
            ("http://gw.lan:80", Some("http://gw.lan")),
            ("http://gw.lan:443", Some("http://gw.lan:443")),
            ("https://[::1]:5000", Some("https://[::1]:5000")),
            ("gw.lan:5000", None),
            ("https://", None),
            ("https://gw.lan/path", None),
            ("https://user@gw.lan", None),
            ("https://gw.lan:0", None),
            ("https://gw.lan\"]\nserver", None),
        ] {
            let url = Gateway::parse(url).map(|gateway| gateway.url());
            assert_eq!(url.ok().as_deref(), expected);
        }
        for (name, good) in [
            ("docker.io", true),
            ("registry.lan:5000", true),
            ("localhost", true),
            ("hosted", false),
            ("index.docker.io", false),
            ("Ghcr.io", false),
            ("ghcr.io/team", false),
            ("..", false),
            ("", false),
        ] {
            assert_eq!(registry(name).is_ok(), good, "{name}");
        }
    }
}
