//! Names of hosts and registries.

use super::units::Parsed;
use oci::authority;

/// The canonical name of Docker Hub, in rules, links and logs.
pub(super) const HUB: &str = "docker.io";

/// All names of a registry that has aliases: those of `docker.io`, itself included. Empty for any other
/// registry.
#[must_use]
pub fn aliases(registry: &str) -> &'static [&'static str] {
    if registry == HUB {
        &[
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "registry.hub.docker.com",
        ]
    } else {
        &[]
    }
}

/// A registry's name: a lower-case word or host, perhaps with a port. No `/`, since it is the
/// first component of a path.
pub(super) fn registry_name(text: &str) -> Parsed<String> {
    if let Some(hub) = canonical(&text.to_lowercase()) {
        return Err(format!("is another name of {hub}; write {hub}"));
    }
    if text.contains("://") {
        return Err("is a URL; write the host alone as the name, and the URL as v2".to_owned());
    }
    if text != text.to_lowercase() {
        return Err(format!("is not lower case; write {}", text.to_lowercase()));
    }
    match authority::parse(text) {
        Some((host, port)) if port != Some(0) && !host.contains(':') => Ok(text.to_owned()),
        _ => Err("is not a registry's name; write a host or a word, such as ghcr.io".to_owned()),
    }
}

/// The canonical name, if this is an alias.
pub(super) fn canonical(name: &str) -> Option<&'static str> {
    (name != HUB && aliases(HUB).contains(&name)).then_some(HUB)
}

/// `host` or `host:port` as in a Host header, in lower case.
pub(super) fn host(text: &str) -> Parsed<String> {
    match authority::parse(text) {
        Some((_, port)) if port != Some(0) => Ok(text.to_lowercase()),
        _ => Err("is not a host; write a name or address, such as registry.example.com".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_names() {
        for (text, good) in [
            ("docker.io", true),
            ("hosted", true),
            ("ghcr.io", true),
            ("registry.local:5000", true),
            ("10.0.0.1:5000", true),
            ("my-registry_2", true),
            ("index.docker.io", false),
            ("Registry-1.Docker.io", false),
            ("Ghcr.io", false),
            ("ghcr.io/team", false),
            ("https://ghcr.io", false),
            ("[::1]:5000", false),
            ("::1", false),
            ("a:0", false),
            ("..", false),
            (".a", false),
            ("a-", false),
            ("", false),
            ("ü", false),
        ] {
            assert_eq!(registry_name(text).is_ok(), good, "{text}");
        }
    }
}
