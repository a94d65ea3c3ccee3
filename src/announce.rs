//! What `roadstead serve` prints when it is ready, and logs when it made a CA or a store.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::admin;
use crate::config::{Config, Listen, ListenAddress};
use gateway::Authority;
use runtime::listen::Bound;
use store::Store;

/// The gateway that is ready.
pub struct Announcement<'a> {
    /// Those of the data plane, as in the configuration.
    pub listeners: &'a [Bound],
    pub admin_listeners: &'a [(Bound, admin::Scope)],
    /// The same listeners with the URLs that clients use.
    pub client_urls: &'a [(&'a Listen, Option<String>)],
    /// The CA of `tls: auto`.
    pub authority: Option<&'a Authority>,
    pub store: &'a Store,
    pub config: &'a Config,
}

/// Prints the addresses, the CA and the configuration of clients to standard output.
pub fn announce(ready: &Announcement<'_>) {
    warn_of_new(ready);
    let mut text = String::new();
    for (bound, (listen, _)) in ready.listeners.iter().zip(ready.client_urls) {
        let everywhere = matches!(listen.address, ListenAddress::Tcp { host: None, .. });
        let which = if everywhere { " (all addresses)" } else { "" };
        let _ = writeln!(text, "listening on {}{which}", bound.url);
    }
    for (bound, scope) in ready.admin_listeners {
        let _ = writeln!(text, "{} on {}", scope.key(), bound.url);
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
        recipes(&mut text, ready, Some(&path));
    } else {
        recipes(&mut text, ready, None);
    }
    let _ = writeln!(text, "ready");
    print!("{text}");
    let _ = io::Write::flush(&mut io::stdout());
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
    if ready.store.is_new() {
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

/// The configuration lines for Docker, containerd and Podman.
fn recipes(text: &mut String, ready: &Announcement<'_>, ca: Option<&Path>) {
    let listeners = || {
        let listeners = ready.client_urls.iter();
        listeners.filter_map(|(listen, url)| Some((*listen, url.as_deref()?)))
    };
    let mirror = listeners().find(|(listen, url)| {
        url.starts_with("http://") && listen.registry.as_deref() == Some("docker.io")
    });
    if let Some((_, url)) = mirror {
        let _ = write!(
            text,
            "\nDocker: in /etc/docker/daemon.json, then restart Docker\n\
             {{\"registry-mirrors\": [\"{url}\"]}}\n"
        );
    }
    let is_general =
        |listen: &Listen, url: &str| listen.registry.is_none() && url.starts_with("https://");
    let Some((_, url)) = listeners().find(|(listen, url)| is_general(listen, url)) else {
        return;
    };
    containerd(text, ready.config, url, ca);
    podman(text, ready.config, url, ca);
    text.push('\n');
}

fn containerd(text: &mut String, config: &Config, url: &str, ca: Option<&Path>) {
    let ca_line = ca.map(|ca| format!("  ca = \"{}\"\n", ca.display()));
    let ca_line = ca_line.unwrap_or_default();
    for registry in config.registries.iter().map(|registry| &registry.name) {
        // containerd names Docker Hub by its API's host.
        let server = if registry == "docker.io" {
            "registry-1.docker.io"
        } else {
            registry
        };
        let _ = write!(
            text,
            "\ncontainerd: in /etc/containerd/certs.d/{registry}/hosts.toml\n\
             server = \"https://{server}\"\n\
             [host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca_line}"
        );
    }
}

fn podman(text: &mut String, config: &Config, url: &str, ca: Option<&Path>) {
    let authority = url.trim_start_matches("https://");
    let _ = writeln!(
        text,
        "\nPodman: in /etc/containers/registries.conf.d/roadstead.conf"
    );
    for registry in config.registries.iter().map(|registry| &registry.name) {
        let _ = write!(
            text,
            "[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n\
             [[registry.mirror]]\nlocation = \"{authority}/{registry}\"\n"
        );
    }
    if let Some(ca) = ca {
        let _ = writeln!(
            text,
            "and the CA:  mkdir -p /etc/containers/certs.d/{authority} && \
             cp {} /etc/containers/certs.d/{authority}/ca.crt",
            ca.display()
        );
    }
}
