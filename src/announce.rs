//! What `roadstead serve` prints when it is ready, and logs when it made a CA or a store.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use crate::admin;
use crate::config::{Config, Listen, ListenAddress, Tls};
use gateway::Authority;
use store::Store;

/// The gateway that is ready.
pub struct Announcement<'a> {
    /// The URLs of the data plane's, as in the configuration.
    pub listeners: &'a [&'a str],
    pub admin_listeners: &'a [(&'a str, admin::Scope)],
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
