//! The URLs by which clients reach the listeners.

use crate::config::{Listen, ListenAddress, Tls};
use oci::authority::bracketed;

/// The URL for clients of a listener, with the port only where it is not the scheme's own; `None` for a socket file without
/// `public_url`, and for a port that is not known. On all addresses it names the machine, and with a certificate of an ACME
/// authority one of its hosts. `bound` is the port that the system chose for port 0.
pub fn client_url(listen: &Listen, bound: Option<u16>, machine: &str) -> Option<String> {
    if let Some(url) = &listen.public_url {
        return Some(url.to_string());
    }
    let ListenAddress::Tcp { host, port } = &listen.address else {
        return None;
    };
    let is_everywhere = |host: &&String| {
        let address: Result<std::net::IpAddr, _> = host.parse();
        address.is_ok_and(|address| address.is_unspecified())
    };
    let certified = listen.tls.acme().and_then(|acme| acme.hosts.first());
    let listened = host.as_ref().filter(|host| !is_everywhere(host));
    let host = bracketed(certified.or(listened).map_or(machine, String::as_str));
    let (scheme, own) = match listen.tls {
        Tls::Off => ("http", 80),
        Tls::Auto { .. } | Tls::Acme(_) | Tls::Certificates { .. } => ("https", 443),
    };
    match bound.unwrap_or(*port) {
        0 => None,
        port if port == own => Some(format!("{scheme}://{host}")),
        port => Some(format!("{scheme}://{host}:{port}")),
    }
}

/// The port of a URL that a listener was bound to.
pub fn bound_port(url: &str) -> Option<u16> {
    url.rsplit_once(':')?.1.parse().ok()
}

/// The machine's name as clients may use it: in lower case, else `localhost`.
pub fn machine_name() -> String {
    let name = telemetry::host_name().to_lowercase();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_plain) {
        name
    } else {
        "localhost".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_that_clients_use() {
        for (listener, bound, expected) in [
            (r#"{address: ":443"}"#, None, Some("https://gw.lan")),
            (r#"{address: ":80", tls: off}"#, None, Some("http://gw.lan")),
            (
                r#"{address: ":443", tls: off}"#,
                None,
                Some("http://gw.lan:443"),
            ),
            (
                r#"{address: "0.0.0.0:5000"}"#,
                None,
                Some("https://gw.lan:5000"),
            ),
            (
                r#"{address: "[::]:5000"}"#,
                None,
                Some("https://gw.lan:5000"),
            ),
            (
                r#"{address: "[::1]:5000"}"#,
                None,
                Some("https://[::1]:5000"),
            ),
            (
                r#"{address: "127.0.0.1:5000"}"#,
                None,
                Some("https://127.0.0.1:5000"),
            ),
            (
                r#"{address: "127.0.0.1:0"}"#,
                Some(7),
                Some("https://127.0.0.1:7"),
            ),
            (r#"{address: "127.0.0.1:0"}"#, None, None),
            (
                r#"{address: ":443", tls: {acme: {hosts: [r.example, q.example]}}}"#,
                None,
                Some("https://q.example"),
            ),
            (
                r#"{address: "10.0.0.7:8443", tls: {acme: {hosts: [r.example]}}}"#,
                None,
                Some("https://r.example:8443"),
            ),
            (r#"{address: "unix:a", tls: off}"#, None, None),
            (
                r#"{address: "unix:a", tls: off, public_url: "https://r.example"}"#,
                None,
                Some("https://r.example"),
            ),
            (
                r#"{address: ":8443", public_url: "https://r.example:444"}"#,
                None,
                Some("https://r.example:444"),
            ),
        ] {
            let yaml = format!("listen: [{listener}]");
            let config = crate::config::parse(&yaml, "f", &|_| None).expect("good");
            let url = client_url(&config.listen[0], bound, "gw.lan");
            assert_eq!(url.as_deref(), expected, "{listener}");
        }
        assert_eq!(bound_port("https://[::]:443"), Some(443));
        assert_eq!(bound_port("unix:/run/a.sock"), None);
    }
}
