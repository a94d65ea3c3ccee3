//! The clients, and the files that each of them needs.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::containerd::{Hosts, hosts_folder};
use super::gateway::{Gateway, HUB};
use super::merge::{MARKER, Merge};
use super::toml::BuildKit;
use super::yaml::Registries;

/// A program that pulls images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Docker, with either image store.
    Docker,
    /// containerd, as for Kubernetes or nerdctl.
    Containerd,
    /// Podman, Skopeo and Buildah.
    Podman,
    /// CRI-O, which reads the same files as Podman.
    Crio,
    /// A `BuildKit` daemon of its own.
    BuildKit,
    /// K3s.
    K3s,
}

/// The text names no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a client; write docker, containerd, podman, crio, buildkit or k3s")]
pub struct ParseClientError;

impl FromStr for Client {
    type Err = ParseClientError;

    fn from_str(text: &str) -> Result<Self, ParseClientError> {
        let client = Self::ALL.into_iter().find(|client| client.name() == text);
        client.ok_or(ParseClientError)
    }
}

/// A file that a client needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub path: PathBuf,
    pub merge: Merge,
}

const DAEMON_JSON: &str = "/etc/docker/daemon.json";
const DOCKER_CERTS: &str = "/etc/docker/certs.d";
const CONTAINERD_CONFIG: &str = "/etc/containerd/config.toml";
const CONTAINERS_CONF: &str = "/etc/containers/registries.conf.d/roadstead.conf";
const CONTAINERS_CERTS: &str = "/etc/containers/certs.d";
const BUILDKIT_CONFIG: &str = "/etc/buildkit/buildkitd.toml";
const K3S_CONFIG: &str = "/etc/rancher/k3s/registries.yaml";

impl Client {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Docker,
        Self::Containerd,
        Self::Podman,
        Self::Crio,
        Self::BuildKit,
        Self::K3s,
    ];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Crio => "crio",
            Self::BuildKit => "buildkit",
            Self::K3s => "k3s",
        }
    }

    /// The files that it needs to pull through a gateway, in the order to write them. `read` reads the client's own file at a
    /// path, `None` if there is none.
    pub(crate) fn files(
        self,
        gateway: &Gateway,
        read: &dyn Fn(&str) -> Option<String>,
    ) -> Vec<Wanted> {
        match self {
            Self::Docker => docker(gateway),
            Self::Containerd => containerd(gateway, read),
            Self::Podman | Self::Crio => containers(gateway),
            Self::BuildKit => buildkit(gateway),
            Self::K3s => k3s(gateway),
        }
    }

    /// What to do for the files to be used: a command, or a sentence.
    pub const fn afterwards(self) -> &'static str {
        match self {
            Self::Docker => "systemctl reload docker",
            Self::Containerd => "systemctl restart containerd   (only if its config.toml changed)",
            Self::Podman => "nothing: Podman, Skopeo and Buildah read the files at each pull",
            Self::Crio => "systemctl reload crio",
            Self::BuildKit => {
                "systemctl restart buildkit   (or the container that buildkitd runs in)"
            }
            Self::K3s => "systemctl restart k3s   (k3s-agent on an agent)",
        }
    }

    /// What to do after the files were restored.
    pub const fn after_undo(self) -> &'static str {
        match self {
            // A reload does not forget mirrors that are no longer in the file.
            Self::Docker => "systemctl restart docker",
            _ => self.afterwards(),
        }
    }

    /// What it does not do with these files: a sentence, if there is one for this gateway.
    pub fn limits(self, gateway: &Gateway) -> Option<&'static str> {
        let others = gateway.registries.iter().any(|name| name != HUB);
        match self {
            Self::Docker if others => Some(
                "Docker's mirrors are for docker.io; it uses the gateway for other registries with its containerd image store \
                 alone (Docker 29, or the feature containerd-snapshotter)",
            ),
            Self::Podman | Self::Crio => Some(
                "Podman, Skopeo, Buildah and CRI-O share these files: --undo removes them for all",
            ),
            _ => None,
        }
    }
}

fn wanted(path: impl Into<PathBuf>, merge: Merge) -> Wanted {
    Wanted {
        path: path.into(),
        merge,
    }
}

/// The CA as a file of ours.
fn ca(gateway: &Gateway, path: &str) -> Option<Wanted> {
    let ca = gateway.ca.as_ref()?;
    Some(wanted(path, Merge::Own(ca.clone())))
}

/// The URL by which containerd asks a registry itself.
fn server(registry: &str) -> String {
    let host = if registry == HUB {
        "registry-1.docker.io"
    } else {
        registry
    };
    format!("https://{host}")
}

fn docker(gateway: &Gateway) -> Vec<Wanted> {
    let path = format!("{DOCKER_CERTS}/{}/roadstead.crt", gateway.authority());
    let ca_file = gateway.ca.as_ref().map(|_| path.clone());
    let mut files = Vec::from_iter(ca(gateway, &path));
    for registry in gateway.registries.iter().filter(|name| *name != HUB) {
        let path = format!("{DOCKER_CERTS}/{registry}/hosts.toml");
        files.push(wanted(path, hosts(registry, gateway, ca_file.clone())));
    }
    if gateway.registries.iter().any(|name| name == HUB) {
        files.push(wanted(DAEMON_JSON, Merge::Mirror(gateway.url())));
    }
    files
}

fn hosts(registry: &str, gateway: &Gateway, ca: Option<String>) -> Merge {
    Merge::Hosts(Hosts {
        server: server(registry),
        url: gateway.url(),
        capabilities: &["pull", "resolve"],
        ca,
    })
}

fn containerd(gateway: &Gateway, read: &dyn Fn(&str) -> Option<String>) -> Vec<Wanted> {
    const CA: &str = "/etc/containerd/roadstead-ca.pem";
    let folder = hosts_folder(&read(CONTAINERD_CONFIG).unwrap_or_default());
    let mut files = Vec::from_iter(ca(gateway, CA));
    let ca_file = gateway.ca.as_ref().map(|_| CA.to_owned());
    for registry in &gateway.registries {
        let path = format!("{folder}/{registry}/hosts.toml");
        files.push(wanted(path, hosts(registry, gateway, ca_file.clone())));
    }
    // For images that are named after the gateway itself.
    if ca_file.is_some() {
        let own = Hosts {
            server: gateway.url(),
            url: gateway.url(),
            capabilities: &["pull", "resolve", "push"],
            ca: ca_file,
        };
        let path = format!("{folder}/{}/hosts.toml", gateway.authority());
        files.push(wanted(path, Merge::Hosts(own)));
    }
    files.push(wanted(CONTAINERD_CONFIG, Merge::ConfigPath(folder)));
    files
}

fn containers(gateway: &Gateway) -> Vec<Wanted> {
    let authority = gateway.authority();
    let path = format!("{CONTAINERS_CERTS}/{authority}/roadstead.crt");
    let mut files = Vec::from_iter(ca(gateway, &path));
    let mut text = String::new();
    for registry in &gateway.registries {
        let _ = write!(
            text,
            "\n[[registry]]\nprefix = \"{registry}\"\nlocation = \"{registry}\"\n\
             [[registry.mirror]]\nlocation = \"{authority}/{registry}\"\n"
        );
        if !gateway.is_https() {
            text.push_str("insecure = true\n");
        }
    }
    files.push(wanted(CONTAINERS_CONF, Merge::Own(text)));
    files
}

fn buildkit(gateway: &Gateway) -> Vec<Wanted> {
    const CA: &str = "/etc/buildkit/roadstead-ca.pem";
    let mut files = Vec::from_iter(ca(gateway, CA));
    let settings = BuildKit {
        registries: gateway.registries.clone(),
        authority: gateway.authority().to_owned(),
        https: gateway.is_https(),
        ca: gateway.ca.as_ref().map(|_| CA.to_owned()),
    };
    files.push(wanted(BUILDKIT_CONFIG, Merge::BuildKit(settings)));
    files
}

fn k3s(gateway: &Gateway) -> Vec<Wanted> {
    const CA: &str = "/etc/rancher/k3s/roadstead-ca.pem";
    let mut files = Vec::from_iter(ca(gateway, CA));
    let registries = Registries {
        names: gateway.registries.clone(),
        url: gateway.url(),
        authority: gateway.authority().to_owned(),
        ca: gateway.ca.as_ref().map(|_| CA.to_owned()),
    };
    files.push(wanted(K3S_CONFIG, Merge::K3s(registries)));
    files
}

/// The name of a registry that another file of registries.conf.d configures, of those that ours would.
pub(crate) fn configured_elsewhere(text: &str, gateway: &Gateway) -> Option<String> {
    if text.starts_with(MARKER) {
        return None;
    }
    // A file that Podman cannot parse is reported by Podman.
    let document = super::toml::parse(text).ok()?;
    let tables = super::toml::item(&document, &["registry"])?.as_array_of_tables()?;
    let names = tables.iter().filter_map(|table| {
        let name = table.get("prefix").or_else(|| table.get("location"))?;
        Some(name.as_str()?.to_owned())
    });
    let mut names = names.filter(|name| gateway.registries.contains(name));
    names.next()
}
