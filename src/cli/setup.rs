//! `roadstead setup`: the files by which a client on this machine pulls through a gateway.

mod probe;
mod trust;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use crate::client_url::{client_url, machine_name};
use crate::config::{Config, Listen, Tls};
use ::setup::{Client, Files, Gateway, Plan, SetupError, Undone};
use trust::{Fingerprint, TrustError};

/// The arguments of the command.
#[derive(Args, Debug)]
pub struct SetupArguments {
    /// docker, containerd, podman (also Skopeo and Buildah), crio, buildkit or k3s.
    #[arg(value_name = "CLIENT", value_parser = client)]
    client: Client,
    /// The URL of the gateway, such as `https://gateway.example:5000`. The default is that of the configuration on this
    /// machine.
    #[arg(long, value_name = "URL", value_parser = gateway)]
    gateway: Option<Gateway>,
    /// A registry to pull through it, by its host. The default is those of the configuration, or with --gateway docker.io.
    #[arg(long = "registry", value_name = "NAME", value_parser = registry)]
    registries: Vec<String>,
    /// The SHA-256 fingerprint of the gateway's CA, which it prints at start. The CA is fetched from the gateway.
    #[arg(
        long,
        value_name = "SHA256",
        requires = "gateway",
        conflicts_with = "ca"
    )]
    ca_fingerprint: Option<Fingerprint>,
    /// The PEM file of the gateway's CA.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Write the files, and check that the client trusts and reaches the gateway. Without it they are printed.
    #[arg(long)]
    write: bool,
    /// Restore what there was before the files were written.
    #[arg(long, conflicts_with_all = ["write", "gateway", "registries", "ca_fingerprint", "ca"])]
    undo: bool,
    /// Read and write the client's files below this folder, as for an image.
    #[arg(long, value_name = "FOLDER", default_value = "/")]
    root: PathBuf,
    /// Do not connect to the gateway to check it.
    #[arg(long, requires = "write")]
    no_check: bool,
}

fn client(text: &str) -> Result<Client, String> {
    text.parse()
        .map_err(|error: ::setup::ParseClientError| error.to_string())
}

fn gateway(text: &str) -> Result<Gateway, String> {
    Gateway::parse(text).map_err(|error| error.to_string())
}

fn registry(text: &str) -> Result<String, String> {
    ::setup::registry(text).map_err(|error| error.to_string())
}

/// Why a client is not set up.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(
        "the configuration has no listener that {0} can reach; write the gateway's URL after --gateway"
    )]
    NoListener(&'static str),
    #[error(
        "the configuration has no registry that images are named after; write one after --registry"
    )]
    NoRegistry,
    #[error(
        "{}: {source}; start the gateway first, or name its CA with --ca or --ca-fingerprint",
        path.display()
    )]
    Ca {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("the files are written, but {0}")]
    Probe(#[from] probe::ProbeError),
}

/// Runs the command. `load` reads the configuration, and is called where no gateway is named; `None` if it is invalid.
pub fn setup(
    arguments: &SetupArguments,
    load: impl FnOnce() -> Option<Config>,
    invalid: ExitCode,
) -> ExitCode {
    let client = arguments.client;
    let files = Files::below(&arguments.root);
    let done = if arguments.undo {
        files
            .undo(client)
            .map_err(CommandError::from)
            .map(|undone| show_undone(client, undone))
    } else {
        let gateway = match &arguments.gateway {
            Some(gateway) => named(gateway.clone(), arguments),
            None => match load() {
                Some(config) => configured(&config, arguments),
                None => return invalid,
            },
        };
        gateway.and_then(|gateway| set_up(&files, arguments, &gateway))
    };
    done.unwrap_or_else(|error| {
        eprintln!("roadstead: {}", telemetry::chain(&error));
        ExitCode::FAILURE
    })
}

/// The gateway that the arguments name.
fn named(mut gateway: Gateway, arguments: &SetupArguments) -> Result<Gateway, CommandError> {
    gateway.registries = if arguments.registries.is_empty() {
        vec!["docker.io".to_owned()]
    } else {
        arguments.registries.clone()
    };
    gateway.ca = match (&arguments.ca, &arguments.ca_fingerprint) {
        (Some(path), _) => Some(read_ca(path)?),
        (None, Some(fingerprint)) => Some(trust::fetch(gateway.authority(), fingerprint)?),
        (None, None) => None,
    };
    Ok(gateway)
}

/// The gateway of the configuration on this machine.
fn configured(config: &Config, arguments: &SetupArguments) -> Result<Gateway, CommandError> {
    let names = config
        .registries
        .iter()
        .map(|registry| registry.name.clone());
    let hosts: Vec<String> = names
        .filter(|name| ::setup::registry(name).is_ok())
        .collect();
    let registries = if arguments.registries.is_empty() {
        hosts
    } else {
        arguments.registries.clone()
    };
    if registries.is_empty() {
        return Err(CommandError::NoRegistry);
    }
    let client = arguments.client;
    let found = listener(config, client, &registries);
    let (listen, mut gateway) = found.ok_or(CommandError::NoListener(client.name()))?;
    gateway.registries = match &listen.registry {
        Some(name) => vec![name.clone()],
        None => registries,
    };
    gateway.ca = match (&arguments.ca, &listen.tls) {
        (Some(path), _) => Some(read_ca(path)?),
        (None, Tls::Auto { .. }) => Some(read_ca(&config.keys.join("ca.pem"))?),
        (None, Tls::Off | Tls::Acme(_) | Tls::Certificates { .. }) => None,
    };
    Ok(gateway)
}

/// The listener for a client, with TLS if there is one. Docker's mirror is best one that never asks for a login, since Docker
/// would answer with the password for Docker Hub.
fn listener<'c>(
    config: &'c Config,
    client: Client,
    registries: &[String],
) -> Option<(&'c Listen, Gateway)> {
    let machine = machine_name();
    let reachable = config.listen.iter().filter_map(|listen| {
        let url = client_url(listen, None, &machine)?;
        Some((listen, Gateway::parse(&url).ok()?))
    });
    let reachable: Vec<(&Listen, Gateway)> = reachable.collect();
    let mirror = |(listen, _): &&(&Listen, Gateway)| {
        client == Client::Docker
            && listen.read_only
            && listen.registry.as_deref() == Some("docker.io")
            && registries.iter().any(|name| name == "docker.io")
    };
    let general =
        |(listen, gateway): &&(&Listen, Gateway)| listen.registry.is_none() && gateway.is_https();
    let plain = |(listen, _): &&(&Listen, Gateway)| listen.registry.is_none();
    let all = || reachable.iter();
    let found = all()
        .find(mirror)
        .or(all().find(general))
        .or(all().find(plain));
    found.cloned()
}

fn read_ca(path: &Path) -> Result<String, CommandError> {
    std::fs::read_to_string(path).map_err(|source| CommandError::Ca {
        path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        source,
    })
}

/// Prints or writes the files.
fn set_up(
    files: &Files,
    arguments: &SetupArguments,
    gateway: &Gateway,
) -> Result<ExitCode, CommandError> {
    let client = arguments.client;
    let plan = files.plan(client, gateway)?;
    if !arguments.write {
        show_plan(client, gateway, &plan);
        return Ok(ExitCode::SUCCESS);
    }
    let written = files.write(&plan)?;
    for path in &written {
        println!("wrote {}", files.place(path).display());
    }
    if written.is_empty() {
        println!("nothing to change: {} has what it needs", client.name());
    }
    if !arguments.no_check {
        let ca = plan
            .ca
            .as_deref()
            .map(|path| files.read(path))
            .transpose()?;
        probe::check(client, gateway, ca.flatten().as_deref())?;
        let registries = gateway.registries.join(", ");
        println!("{} is trusted and serves {registries}", gateway.url());
    }
    show_limits(client, gateway);
    if !written.is_empty() {
        println!("now: {}", client.afterwards());
    }
    Ok(ExitCode::SUCCESS)
}

fn show_plan(client: Client, gateway: &Gateway, plan: &Plan) {
    for change in &plan.changes {
        let path = change.path.display();
        match &change.then {
            _ if !change.is_needed() => println!("# {path} stays as it is\n"),
            Some(text) => println!("# {path}\n{}\n", text.trim_end()),
            None => println!("# {path} is removed\n"),
        }
    }
    show_limits(client, gateway);
    println!(
        "Nothing is written without --write, and --undo restores what there was.\nThen: {}",
        client.afterwards()
    );
}

fn show_limits(client: Client, gateway: &Gateway) {
    if let Some(limits) = client.limits(gateway) {
        println!("note: {limits}");
    }
}

fn show_undone(client: Client, undone: Option<Undone>) -> ExitCode {
    let Some(Undone { restored, left }) = undone else {
        println!("nothing to undo: {} was not set up here", client.name());
        return ExitCode::SUCCESS;
    };
    for path in &restored {
        println!("restored {}", path.display());
    }
    for path in &left {
        let path = path.display();
        eprintln!(
            "roadstead: {path} was changed since, so it stays: remove by hand what `roadstead setup` wrote there"
        );
    }
    if !restored.is_empty() {
        println!("now: {}", client.after_undo());
    }
    if left.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_get_the_listener_that_suits_them() {
        let defaults = "";
        let general = r#"listen: [{address: ":5001", tls: off, read_only: true, registry: docker.io}, {address: ":80", tls: off}, {address: ":443"}]"#;
        let socket = r#"listen: [{address: "unix:a"}]"#;
        let machine = machine_name();
        for (yaml, client, expected) in [
            (
                defaults,
                Client::Docker,
                Some("http://127.0.0.1:5001".to_owned()),
            ),
            (
                defaults,
                Client::Podman,
                Some("https://127.0.0.1:5000".to_owned()),
            ),
            (
                general,
                Client::Docker,
                Some(format!("http://{machine}:5001")),
            ),
            (
                general,
                Client::Containerd,
                Some(format!("https://{machine}")),
            ),
            (socket, Client::Podman, None),
        ] {
            let config = crate::config::parse(yaml, "f", &|_| None).expect("good");
            let found = listener(&config, client, &["docker.io".to_owned()]);
            let url = found.map(|(_, gateway)| gateway.url());
            assert_eq!(url, expected, "{yaml} {client:?}");
        }
    }
}
