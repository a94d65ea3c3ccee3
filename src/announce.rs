//! The lines that `roadstead serve` prints when it is ready.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use crate::admin;
use crate::config::Config;
use gateway::Authority;
use runtime::listen::Bound;

/// Prints the addresses, the CA and the configuration of clients to standard output.
pub fn announce(
    urls: &[String],
    admin_listeners: &[(Bound, admin::Scope)],
    config: &Config,
    authority: Option<&Authority>,
) {
    let mut text = String::new();
    for url in urls {
        let _ = writeln!(text, "listening on {url}");
    }
    for (bound, scope) in admin_listeners {
        let _ = writeln!(text, "{} on {}", scope.key(), bound.url);
    }
    if let Some(authority) = authority {
        let path = std::path::absolute(&authority.path).unwrap_or_else(|_| authority.path.clone());
        let _ = write!(
            text,
            "\nCA           {}\nfingerprint  {}\n",
            path.display(),
            authority.fingerprint
        );
        recipes(&mut text, urls, config, Some(path));
    } else {
        recipes(&mut text, urls, config, None);
    }
    let _ = writeln!(text, "ready");
    print!("{text}");
    let _ = io::Write::flush(&mut io::stdout());
}

/// The configuration lines for Docker, containerd and Podman.
fn recipes(text: &mut String, urls: &[String], config: &Config, ca: Option<PathBuf>) {
    let listeners = || urls.iter().zip(&config.listen);
    let mirror = listeners().find(|(url, listen)| {
        url.starts_with("http://") && listen.registry.as_deref() == Some("docker.io")
    });
    if let Some((url, _)) = mirror {
        let _ = write!(
            text,
            "\nDocker: in /etc/docker/daemon.json, then restart Docker\n\
             {{\"registry-mirrors\": [\"{url}\"]}}\n"
        );
    }
    let Some((url, _)) = listeners().find(|(url, _)| url.starts_with("https://")) else {
        return;
    };
    let authority = url.trim_start_matches("https://");
    let registry = config
        .registries
        .first()
        .map_or("docker.io", |registry| registry.name.as_str());
    // containerd names Docker Hub by its API's host.
    let server = if registry == "docker.io" {
        "registry-1.docker.io"
    } else {
        registry
    };
    let ca_line = ca
        .as_ref()
        .map(|ca| format!("  ca = \"{}\"\n", ca.display()))
        .unwrap_or_default();
    let _ = write!(
        text,
        "\ncontainerd: in /etc/containerd/certs.d/{registry}/hosts.toml\n\
         server = \"https://{server}\"\n\
         [host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca_line}"
    );
    let _ = write!(
        text,
        "\nPodman: in /etc/containers/registries.conf.d/roadstead.conf\n\
         [[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n\
         [[registry.mirror]]\nlocation = \"{authority}/{registry}\"\n"
    );
    if let Some(ca) = ca {
        let _ = writeln!(
            text,
            "and the CA:  mkdir -p /etc/containers/certs.d/{authority} && \
             cp {} /etc/containers/certs.d/{authority}/ca.crt",
            ca.display()
        );
    }
    text.push('\n');
}
