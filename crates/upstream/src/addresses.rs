//! Which addresses a registry's redirects and challenges may lead to. Names are resolved by this module, so that a registry on
//! the internet cannot point the gateway at a private address.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use oci::addresses::is_global;

/// The variables that may name a proxy, whose address is the operator's own choice.
const PROXY_VARIABLES: [&str; 6] = [
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The addresses that one registry's redirects and challenges may lead to.
#[derive(Clone, Debug)]
pub(super) struct RedirectPolicy(Arc<PolicyState>);

#[derive(Debug)]
struct PolicyState {
    /// Hosts that may resolve to anything: the registry's own and the proxies'.
    trusted: HashSet<String>,
    host: String,
    /// Whether the registry itself has a private address.
    private: AtomicBool,
}

impl RedirectPolicy {
    /// The policy of the registry at `host`.
    pub fn new(host: &str) -> Self {
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_ascii_lowercase();
        let proxies = PROXY_VARIABLES
            .iter()
            .filter_map(|name| std::env::var(name).ok());
        let mut trusted: HashSet<String> = proxies.filter_map(|url| proxy_host(&url)).collect();
        trusted.insert(host.clone());
        let private = host.parse().is_ok_and(|host| !is_global(host));
        Self(Arc::new(PolicyState {
            trusted,
            host,
            private: private.into(),
        }))
    }

    /// Whether a redirect or a challenge may lead to this address.
    pub fn allows(&self, address: IpAddr) -> bool {
        is_global(address) || self.0.private.load(Ordering::Relaxed)
    }

    /// Whether a URL's host is allowed: an address is checked at once, a name when it is resolved.
    pub fn allows_host(&self, host: &str) -> bool {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse().map_or(true, |address| self.allows(address))
    }

    fn admit(&self, name: &str, addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let name = name.to_ascii_lowercase();
        if name == self.0.host && addresses.iter().any(|address| !is_global(address.ip())) {
            self.0.private.store(true, Ordering::Relaxed);
        }
        if self.0.trusted.contains(&name) {
            return addresses;
        }
        addresses
            .into_iter()
            .filter(|address| self.allows(address.ip()))
            .collect()
    }
}

impl Resolve for RedirectPolicy {
    fn resolve(&self, name: Name) -> Resolving {
        let redirects = self.clone();
        Box::pin(async move {
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let admitted = redirects.admit(name.as_str(), found);
            if admitted.is_empty() {
                return Err("the name resolves to a private address".into());
            }
            let addresses: Addrs = Box::new(admitted.into_iter());
            Ok(addresses)
        })
    }
}

/// The host of a proxy's URL; the scheme may be missing.
fn proxy_host(url: &str) -> Option<String> {
    let parsed = reqwest::Url::parse(url).ok().filter(reqwest::Url::has_host);
    let parsed = parsed.or_else(|| reqwest::Url::parse(&format!("http://{url}")).ok())?;
    parsed
        .host_str()
        .map(|host| host.trim_matches(['[', ']']).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_on_the_internet_cannot_point_inside() {
        let socket = |text: &str| SocketAddr::new(text.parse().expect("an address"), 0);
        let redirects = RedirectPolicy::new("registry.example");
        assert_eq!(
            redirects.admit("cdn.example", vec![socket("8.8.8.8"), socket("10.0.0.1")]),
            [socket("8.8.8.8")]
        );
        assert!(
            redirects
                .admit("cdn.example", vec![socket("127.0.0.1")])
                .is_empty()
        );
        assert!(!redirects.allows_host("169.254.169.254") && !redirects.allows_host("[::1]"));
        assert!(
            !redirects.allows_host("[64:ff9b::a9fe:a9fe]")
                && !redirects.allows_host("[2002:a00:1::]")
        );
        assert!(redirects.allows_host("cdn.example"));
        // If its own name has a private address, its redirects may as well.
        assert_eq!(
            redirects
                .admit("Registry.example", vec![socket("10.0.0.7")])
                .len(),
            1
        );
        assert!(redirects.allows_host("10.0.0.8"));
        assert!(RedirectPolicy::new("127.0.0.1").allows_host("127.0.0.2"));
    }

    #[test]
    fn proxies_are_known_by_host() {
        for (url, host) in [
            ("http://proxy.local:3128", Some("proxy.local")),
            ("http://user:pass@10.0.0.1:3128/", Some("10.0.0.1")),
            ("proxy.local:3128", Some("proxy.local")),
            ("", None),
        ] {
            assert_eq!(proxy_host(url).as_deref(), host, "{url}");
        }
    }
}
