//! Warnings about registries with `push: true` behind a proxy of the environment: pushes go through it too, which is
//! seldom intended for one's own registry.

use super::fault::Report;
use super::origin::Scheme;
use super::tree::Node;
use super::{Config, Origin};

/// Warns about every registry with `push: true` that is reached through a proxy.
pub(super) fn check(
    config: &Config,
    tree: &Node,
    env: &dyn Fn(&str) -> Option<String>,
    report: &mut Report,
) {
    let nodes = tree.near("registries");
    for (index, registry) in config.registries.iter().enumerate() {
        let Some(v2) = registry.v2.as_ref().filter(|_| registry.push) else {
            continue;
        };
        if let Some(variable) = proxy_for(v2, env) {
            let host = &v2.host;
            let message = format!(
                "pushes to {} go through the proxy of {variable}; if they should not, add {host} to NO_PROXY",
                registry.name
            );
            report.warn(nodes.item(index).near("push").at, message);
        }
    }
}

/// The variable that names the proxy for an origin.
fn proxy_for(origin: &Origin, env: &dyn Fn(&str) -> Option<String>) -> Option<&'static str> {
    let own: &[&str] = match origin.scheme {
        Scheme::Https => &["HTTPS_PROXY", "https_proxy"],
        Scheme::Http => &["HTTP_PROXY", "http_proxy"],
    };
    let set = |name: &&&'static str| env(name).is_some_and(|value| !value.is_empty());
    let names: Vec<&'static str> = [own, &["ALL_PROXY", "all_proxy"]].concat();
    let variable = names.iter().find(|name| set(name)).copied()?;
    let excepted = env("NO_PROXY")
        .or_else(|| env("no_proxy"))
        .unwrap_or_default();
    let host = &origin.host;
    let is_host = |entry: &str| {
        let entry = entry.trim().trim_start_matches('.');
        entry == "*"
            || (!entry.is_empty()
                && (host.eq_ignore_ascii_case(entry)
                    || host
                        .to_ascii_lowercase()
                        .ends_with(&format!(".{}", entry.to_ascii_lowercase()))))
    };
    (!excepted.split(',').any(is_host)).then_some(variable)
}

#[cfg(test)]
mod tests {

    #[test]
    fn proxies_before_pushes_are_dubious() {
        let yaml =
            "registries: [docker.io, {name: own, v2: \"https://registry.lan:5000\", push: true}]";
        for (environment, told) in [
            (&[][..], ""),
            (&[("HTTPS_PROXY", "http://p:3128")], "warning: f:1:"),
            (&[("all_proxy", "http://p:3128")], "warning: f:1:"),
            (&[("HTTP_PROXY", "http://p:3128")], ""),
            (&[("HTTPS_PROXY", "")], ""),
            (&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "x, .lan")], ""),
            (
                &[("HTTPS_PROXY", "http://p"), ("no_proxy", "registry.lan")],
                "",
            ),
            (
                &[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "an,other.lan")],
                "warning: f:1:",
            ),
            (&[("HTTPS_PROXY", "http://p"), ("NO_PROXY", "*")], ""),
        ] {
            let env = |name: &str| {
                let found = environment.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let config = super::super::parse(yaml, "f", &env).expect("good");
            let warnings = config.warnings.iter().map(ToString::to_string);
            let warnings: Vec<String> = warnings.filter(|it| it.contains("proxy")).collect();
            let warnings = warnings.join("\n");
            assert_eq!(
                warnings.is_empty(),
                told.is_empty(),
                "{environment:?}: {warnings}"
            );
            assert!(
                told.is_empty() || warnings.contains("NO_PROXY"),
                "{warnings}"
            );
        }
    }
}
