//! What `roadstead serve` prints when it is ready, and logs when it made a CA or a store.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::admin;
use crate::config::{Config, Listen, ListenAddress, Tls};
use gateway::Authority;

/// The gateway that is ready.
pub struct Announcement<'a> {
    /// The URLs of the data plane's, as in the configuration.
    pub listeners: &'a [&'a str],
    pub admin_listeners: &'a [(&'a str, admin::Scope)],
    /// The same listeners with the URLs that clients use.
    pub client_urls: &'a [(&'a Listen, Option<String>)],
    /// The CA of `tls: auto`.
    pub authority: Option<&'a Authority>,
    /// Whether this start made the store.
    pub store_is_new: bool,
    pub config: &'a Config,
}

/// Prints the addresses, the CA and the configuration of clients to standard output.
pub fn announce(ready: &Announcement<'_>) {
    warn_of_new(ready);
    print!("{}", text(ready));
    let _ = io::Write::flush(&mut io::stdout());
}

fn text(ready: &Announcement<'_>) -> String {
    let mut text = String::new();
    for (url, (listen, _)) in ready.listeners.iter().zip(ready.client_urls) {
        let everywhere = matches!(listen.address, ListenAddress::Tcp { host: None, .. });
        let which = if everywhere { " (all addresses)" } else { "" };
        let _ = writeln!(text, "listening on {url}{which}");
    }
    for (url, scope) in ready.admin_listeners {
        let _ = writeln!(text, "{} on {url}", scope.key());
    }
    if let Some(authority) = ready.authority {
        let path = absolute(&authority.path);
        let new = if authority.is_new { " (new)" } else { "" };
        let _ = write!(
            text,
            "\nCA           {}{new}\nfingerprint  {}\n",
            path.display(),
            authority.fingerprint
        );
    }
    commands(&mut text, ready);
    let _ = writeln!(text, "ready");
    text
}

/// Warns of a CA or a store that this start made: if there was one before, this start did not find it.
fn warn_of_new(ready: &Announcement<'_>) {
    if let Some(authority) = ready.authority.filter(|authority| authority.is_new) {
        let ca = absolute(&authority.path);
        tracing::warn!(
            ca = %ca.display(),
            "made a new certificate authority, which no client trusts yet. If clients trusted one before, it is not in this \
             folder: start the gateway in its former working directory, or write an absolute path for keys"
        );
    }
    if ready.store_is_new {
        let path = absolute(&ready.config.store.path);
        tracing::warn!(
            store = %path.display(),
            "made a new, empty store. If there was one before, it is not in this folder: start the gateway in its former \
             working directory, or write an absolute path for store.path"
        );
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The commands that set clients up, and what Docker alone needs.
fn commands(text: &mut String, ready: &Announcement<'_>) {
    let listeners = || {
        let listeners = ready.client_urls.iter();
        listeners.filter_map(|(listen, url)| Some((*listen, url.as_deref()?)))
    };
    let fingerprint = |listen: &Listen| {
        let authority = ready.authority.filter(|_| listen.tls.is_auto());
        authority.map_or(String::new(), |authority| {
            format!(" --ca-fingerprint {}", authority.fingerprint)
        })
    };
    let mirror = listeners().find(|(listen, _)| listen.registry.as_deref() == Some("docker.io"));
    if let Some((listen, url)) = mirror {
        let _ = write!(
            text,
            "\nDocker, on each machine with this program:\n  \
             roadstead setup docker --write --gateway {url}{}\n",
            fingerprint(listen)
        );
        if listen.tls == Tls::Off {
            let _ = write!(
                text,
                "or in /etc/docker/daemon.json, then restart Docker:\n\
                 {{\"registry-mirrors\": [\"{url}\"]}}\n"
            );
        }
    }
    let general = || listeners().filter(|(listen, _)| listen.registry.is_none());
    let encrypted = general().find(|(_, url)| url.starts_with("https://"));
    let Some((listen, url)) = encrypted.or(general().next()) else {
        return;
    };
    let registries = ready.config.registries.iter();
    let registries = registries.filter(|registry| setup::registry(&registry.name).is_ok());
    let registries: Vec<String> = registries
        .map(|registry| format!(" --registry {}", registry.name))
        .collect();
    let registries = registries.concat();
    let _ = write!(
        text,
        "\ncontainerd, and in its place podman, crio, buildkit or k3s:\n  \
         roadstead setup containerd --write --gateway {url}{}{registries}\n\n",
        fingerprint(listen)
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_url::{bound_port, client_url};

    /// What is printed for listeners that are bound to these URLs.
    fn printed(yaml: &str, urls: &[&str]) -> String {
        let config = crate::config::parse(yaml, "f", &|_| None).expect("good");
        let client_urls = config
            .listen
            .iter()
            .zip(urls)
            .map(|(listen, url)| (listen, client_url(listen, bound_port(url), "gw.lan")));
        let client_urls: Vec<_> = client_urls.collect();
        let dir = tempfile::tempdir().expect("a folder");
        let mut authority = Authority::open(dir.path()).expect("an authority");
        authority.fingerprint = "AB:CD".to_owned();
        authority.path = "/keys/ca.pem".into();
        text(&Announcement {
            listeners: urls,
            admin_listeners: &[("http://127.0.0.1:5002", admin::Scope::Everything)],
            client_urls: &client_urls,
            authority: Some(&authority).filter(|_| config.listen.iter().any(|it| it.tls.is_auto())),
            store_is_new: false,
            config: &config,
        })
    }

    #[test]
    fn ports_of_the_schemes_are_left_out_for_clients() {
        let found = printed(
            "registries: [docker.io, ghcr.io, quay.io]\n\
             listen: [{address: \":443\"}, {address: \":80\", tls: off, read_only: true, registry: docker.io}]\n",
            &["https://[::]:443", "http://[::]:80"],
        );
        let expected = "listening on https://[::]:443 (all addresses)\n\
             listening on http://[::]:80 (all addresses)\n\
             admin.address on http://127.0.0.1:5002\n\n\
             CA           /keys/ca.pem (new)\nfingerprint  AB:CD\n\n\
             Docker, on each machine with this program:\n  \
             roadstead setup docker --write --gateway http://gw.lan\n\
             or in /etc/docker/daemon.json, then restart Docker:\n\
             {\"registry-mirrors\": [\"http://gw.lan\"]}\n\n\
             containerd, and in its place podman, crio, buildkit or k3s:\n  \
             roadstead setup containerd --write --gateway https://gw.lan --ca-fingerprint AB:CD \
             --registry docker.io --registry ghcr.io --registry quay.io\n\nready\n";
        assert_eq!(found, expected);
    }

    #[test]
    fn sockets_and_certificates_of_operators_need_no_ca() {
        for (listener, url, gateway) in [
            (
                "{address: \"unix:/run/r.sock\", tls: off}",
                "unix:/run/r.sock",
                None,
            ),
            (
                "{address: \"unix:/run/r.sock\", tls: off, public_url: \"https://r.example\"}",
                "unix:/run/r.sock",
                Some("https://r.example"),
            ),
            (
                "{address: \":443\", tls: {acme: {hosts: [r.example]}}}",
                "https://[::]:443",
                Some("https://r.example"),
            ),
            (
                "{address: \"r.example:443\", tls: {certificates: [{certificate: c, key: k}]}}",
                "https://192.0.2.7:443",
                Some("https://r.example"),
            ),
        ] {
            let yaml = format!("registries: [{{name: ghcr.io}}]\nlisten: [{listener}]\n");
            let found = printed(&yaml, &[url]);
            assert!(found.starts_with(&format!("listening on {url}")), "{found}");
            assert!(!found.contains("fingerprint"), "{found}");
            let commands: Vec<&str> = found
                .lines()
                .filter_map(|line| line.strip_prefix("  roadstead setup "))
                .collect();
            let expected =
                gateway.map(|url| format!("containerd --write --gateway {url} --registry ghcr.io"));
            assert_eq!(commands, expected.iter().collect::<Vec<_>>());
        }
    }
}
