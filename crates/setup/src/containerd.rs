//! containerd's hosts.toml, which Docker's containerd image store reads too, and the folder of such files in config.toml.

use std::fmt::Write as _;

use serde_json::json;

use super::hunk::Hunk;
use super::merge::{MARKER, MergeError};
use super::toml::{
    append, array, check, first_header, header, item, line_below, meaning, parse, put, quoted,
};

/// The folder of the hosts.toml files, unless config.toml names another.
pub(crate) const FOLDER: &str = "/etc/containerd/certs.d";
/// The names of the plugin that pulls for Kubernetes.
const PLUGINS: [&str; 3] = [
    "cri",
    "io.containerd.grpc.v1.cri",
    "io.containerd.cri.v1.images",
];

/// A host before the others of a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    /// The URL that is asked when no host answers.
    pub server: String,
    /// The URL of the host.
    pub url: String,
    /// What it is asked for.
    pub capabilities: &'static [&'static str],
    /// The file of its CA.
    pub ca: Option<String>,
}

impl Hosts {
    /// The changes to hosts.toml.
    pub(crate) fn hunks(&self, text: &str) -> Result<Vec<Hunk>, MergeError> {
        let document = parse(text)?;
        let capabilities = json!(self.capabilities);
        let mut lines = format!("  capabilities = {capabilities}\n").replace(',', ", ");
        let mut host = json!({"capabilities": capabilities});
        if let Some(ca) = &self.ca {
            let _ = writeln!(lines, "  ca = {}", quoted(ca));
            host["ca"] = ca.as_str().into();
        }
        let block = format!("[host.{}]\n{lines}", quoted(&self.url));
        let mut meant = meaning(&document);
        if let Some(found) = meant.get("host").and_then(|hosts| hosts.get(&self.url)) {
            if *found == host {
                return Ok(Vec::new());
            }
            let message = format!("it has other values for {}; remove that host", self.url);
            return Err(MergeError::Unsuitable(message));
        }
        put(&mut meant, &["host", &self.url], host);
        let hunk = if text.trim().is_empty() {
            put(&mut meant, &["server"], self.server.as_str().into());
            let server = quoted(&self.server);
            Hunk {
                at: 0,
                old: text.to_owned(),
                new: format!("{MARKER}server = {server}\n\n{block}"),
            }
        } else {
            match first_header(text) {
                at if at == text.len() => append(text, &[block]),
                // Hosts are tried in the order of the file.
                at => Hunk::insert(at, format!("{block}\n")),
            }
        };
        let hunks = vec![hunk];
        check(text, &hunks, &meant)?;
        Ok(hunks)
    }
}

/// The first folder that config.toml names for hosts.toml files, else the usual one.
pub(crate) fn hosts_folder(config: &str) -> String {
    let named = parse(config).ok().and_then(|document| {
        let path = registry_path(&document).ok()?;
        let folder = item(&document, &[&path[..], &["config_path"]].concat())?;
        let first = folder.as_str()?.split(':').next()?;
        first
            .starts_with('/')
            .then(|| first.trim_end_matches('/').to_owned())
    });
    named.unwrap_or_else(|| FOLDER.to_owned())
}

/// The keys of the registry section of the plugin that pulls for Kubernetes.
fn registry_path(document: &toml_edit::Document<&str>) -> Result<[&'static str; 3], MergeError> {
    let version = item(document, &["version"]).and_then(toml_edit::Item::as_integer);
    match version.unwrap_or(1) {
        ..2 => Err(MergeError::Unsuitable(
            "it has version 1; write what `containerd config migrate` prints into it".to_owned(),
        )),
        2 => Ok(["plugins", "io.containerd.grpc.v1.cri", "registry"]),
        _ => Ok(["plugins", "io.containerd.cri.v1.images", "registry"]),
    }
}

/// Sets `config_path` in config.toml, unless it is there, or nothing pulls for Kubernetes.
pub(crate) fn config_path(text: &str, folder: &str) -> Result<Vec<Hunk>, MergeError> {
    let document = parse(text)?;
    let disabled = array(&document, &["disabled_plugins"]).map(|(names, _)| names);
    if disabled.is_some_and(|names| names.iter().any(|name| PLUGINS.contains(name))) {
        return Ok(Vec::new());
    }
    let line = format!("config_path = {}", quoted(folder));
    if document.as_table().is_empty() {
        let table = "[plugins.\"io.containerd.grpc.v1.cri\".registry]";
        let marker = if text.trim().is_empty() { MARKER } else { "" };
        let block = format!("{marker}version = 2\n\n{table}\n  {line}\n");
        return Ok(vec![append(text, &[block])]);
    }
    let path = registry_path(&document)?;
    let key = [&path[..], &["config_path"]].concat();
    let hunk = match item(&document, &key).map(|found| (found.as_str(), found.span())) {
        Some((Some(""), Some(span))) => replaced_line(text, span.start, &line),
        Some((Some(folders), _)) => {
            let mut folders = folders.split(':');
            return if folders.any(|one| one.trim_end_matches('/') == folder) {
                Ok(Vec::new())
            } else {
                Err(unsuitable("its config_path is another folder"))
            };
        }
        Some(_) => return Err(unsuitable("its config_path is no text")),
        None => {
            refuse_other_settings(&document, &path)?;
            if let Some(header) = header(text, &path) {
                line_below(text, &header, &line)
            } else {
                let table = format!("[plugins.{}.registry]", quoted(path[1]));
                append(text, &[format!("{table}\n  {line}\n")])
            }
        }
    };
    let hunks = vec![hunk];
    let mut meant = meaning(&document);
    put(&mut meant, &key, folder.into());
    check(text, &hunks, &meant)?;
    Ok(hunks)
}

/// Refuses settings beside which containerd refuses `config_path`.
fn refuse_other_settings(
    document: &toml_edit::Document<&str>,
    path: &[&str],
) -> Result<(), MergeError> {
    let table = |key| {
        let below = item(document, &[path, &[key]].concat());
        below.and_then(toml_edit::Item::as_table_like)
    };
    let has_tls = |configs: &dyn toml_edit::TableLike| {
        let tls = |(_, item): (&str, &toml_edit::Item)| item.get("tls").is_some();
        configs.iter().any(tls)
    };
    let found = if table("mirrors").is_some_and(|mirrors| !mirrors.is_empty()) {
        "registry.mirrors"
    } else if table("configs").is_some_and(has_tls) {
        "registry.configs with tls"
    } else {
        return Ok(());
    };
    Err(MergeError::Unsuitable(format!(
        "it has {found}, which containerd refuses beside config_path; write hosts.toml files instead of them"
    )))
}

fn unsuitable(message: &str) -> MergeError {
    MergeError::Unsuitable(message.to_owned())
}

/// Replaces a key and its value, up to the end of the line, and leaves the indentation and a comment.
fn replaced_line(text: &str, value: usize, line: &str) -> Hunk {
    let start = text[..value].rfind('\n').map_or(0, |at| at + 1);
    let indent = text[start..].len() - text[start..].trim_start().len();
    // An empty string has two quotes.
    let (start, end) = (start + indent, value + 2);
    Hunk {
        at: start,
        old: text[start..end].to_owned(),
        new: line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::hunk::apply;
    use super::*;

    fn hosts(text: &str) -> Result<String, String> {
        let hosts = Hosts {
            server: "https://ghcr.io".to_owned(),
            url: "https://gw.lan:5000".to_owned(),
            capabilities: &["pull", "resolve"],
            ca: Some("/ca.pem".to_owned()),
        };
        let hunks = hosts.hunks(text);
        hunks
            .map(|hunks| apply(text, &hunks))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_host_comes_first() {
        const BLOCK: &str = "[host.\"https://gw.lan:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = \"/ca.pem\"\n";
        for (before, after) in [
            (
                "",
                format!("{MARKER}server = \"https://ghcr.io\"\n\n{BLOCK}"),
            ),
            (
                "server = \"https://other\" # ours",
                format!("server = \"https://other\" # ours\n\n{BLOCK}"),
            ),
            (
                "# ours\nserver = \"https://other\"\n\n[host.\"https://a\"]\n  skip_verify = true\n",
                format!(
                    "# ours\nserver = \"https://other\"\n\n{BLOCK}\n[host.\"https://a\"]\n  skip_verify = true\n"
                ),
            ),
        ] {
            assert_eq!(hosts(before).as_deref(), Ok(&*after), "{before}");
            assert_eq!(hosts(&after).as_deref(), Ok(&*after), "twice");
        }
        for (text, words) in [
            ("server = ", "cannot be parsed"),
            ("host = 1\n", "its form is not one"),
            (
                "[host.\"https://gw.lan:5000\"]\n  skip_verify = true\n",
                "it has other values for https://gw.lan:5000",
            ),
        ] {
            let error = hosts(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn the_folder_of_hosts_is_configured() {
        const LINE: &str = "config_path = \"/etc/containerd/certs.d\"";
        const CRI: &str = "[plugins.\"io.containerd.grpc.v1.cri\".registry]";
        let merged = |text: &str| {
            let hunks = config_path(text, FOLDER);
            hunks
                .map(|hunks| apply(text, &hunks))
                .map_err(|error| error.to_string())
        };
        for (before, after) in [
            ("", format!("{MARKER}version = 2\n\n{CRI}\n  {LINE}\n")),
            (
                "disabled_plugins = [\"cri\"]\n",
                "disabled_plugins = [\"cri\"]\n".to_owned(),
            ),
            (
                "version = 2\n[grpc]\n",
                format!("version = 2\n[grpc]\n\n{CRI}\n  {LINE}\n"),
            ),
            (
                "version = 3\n",
                format!(
                    "version = 3\n\n[plugins.\"io.containerd.cri.v1.images\".registry]\n  {LINE}\n"
                ),
            ),
            (
                // As `containerd config default` prints it.
                "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"\" # here\n      [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n",
                format!(
                    "version = 2\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      {LINE} # here\n      [plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors]\n"
                ),
            ),
            (
                "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry.headers]\n",
                format!(
                    "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.registry.headers]\n\n{CRI}\n  {LINE}\n"
                ),
            ),
        ] {
            assert_eq!(merged(before).as_deref(), Ok(&*after), "{before}");
            assert_eq!(merged(&after).as_deref(), Ok(&*after), "twice");
        }
        for (text, words) in [
            ("root = \"/r\"\n", "it has version 1"),
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\nendpoint = []\n",
                "it has registry.mirrors",
            ),
            (
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.configs.\"a\".tls]\n",
                "it has registry.configs with tls",
            ),
        ] {
            let error = merged(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
        let other = format!("version = 2\n{CRI}\nconfig_path = \"/a/certs.d/:/b\"\n");
        assert_eq!(hosts_folder(&other), "/a/certs.d");
        assert_eq!(
            merged(&other).expect_err("another"),
            "stays as it is: its config_path is another folder"
        );
        assert_eq!(hosts_folder(""), FOLDER);
    }
}
