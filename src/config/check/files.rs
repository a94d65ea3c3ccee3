//! Checks the files that the configuration names: the folder of keys, certificates, CAs, passwords, public keys.
//!
//! A file that cannot be read is only a warning, since the configuration may be checked on another machine; one that cannot
//! be used is a fault.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::SystemTime;

use super::super::credentials::account_nodes;
use super::super::fault::{Report, shown};
use super::super::tree::Node;
use super::super::{Config, KeyFileError, Tls, public_key};
use gateway::{Certificate, TlsError, check_authorities};
use runtime::keys_folder::{self, KeysFolderError};

/// The largest password file that is read, in bytes.
const PASSWORD_BYTES: u64 = 64 << 10;

/// Reports every file that cannot be read or used, certificates that expire soon, and `hosts` that none covers.
pub fn check(config: &Config, tree: &Node, now: SystemTime, report: &mut Report) {
    keys(config, tree, report);
    let mut certificates = Some(Vec::new());
    for (index, listener) in config.listen.iter().enumerate() {
        let node = tree.near("listen").item(index).near("tls");
        let found = tls(&listener.tls, node, now, report);
        certificates = certificates.zip(found).map(|(mut all, found)| {
            all.extend(found);
            all
        });
    }
    let admin = tree.near("admin").near("tls");
    let _ = tls(&config.admin.tls, admin, now, report);
    let nodes = tree.near("registries");
    for (index, registry) in config.registries.iter().enumerate() {
        let node = nodes.item(index);
        if let Some(ca) = &registry.ca {
            authorities(ca, node.near("ca"), report);
        }
        for account in account_nodes(node) {
            let file = account.entry("password_file").map(|entry| &entry.node);
            let path = file.and_then(Node::text).filter(|path| !path.is_empty());
            if let (Some(file), Some(path)) = (file, path) {
                password(Path::new(path), file, report);
            }
        }
        let keys = registry.gate.iter().flat_map(|gate| &gate.signed_by);
        for (item, path) in keys.enumerate() {
            let at = node.near("gate").near("signed_by").item(item).at;
            match public_key(path) {
                Ok(_) => {}
                Err(KeyFileError::Read { path, source }) => unreadable(&path, &source, at, report),
                Err(error @ KeyFileError::Key { .. }) => report.fault(at, error.to_string()),
            }
        }
    }
    let bucket = config.store.bucket.as_ref();
    if let Some(ca) = bucket.and_then(|bucket| bucket.advertise_ca.as_ref()) {
        let node = tree.near("store").near("bucket").near("advertise_ca");
        authorities(ca, node, report);
    }
    let has_own = config.listen.iter().any(|listener| listener.tls.is_auto());
    let ordered = config
        .listen
        .iter()
        .filter_map(|listener| listener.tls.acme());
    let ordered: Vec<&str> = ordered
        .flat_map(|acme| &acme.hosts)
        .map(String::as_str)
        .collect();
    let has_any = |read: &Vec<Certificate>| !read.is_empty() || !ordered.is_empty();
    if let Some(certificates) = certificates.filter(|read| has_any(read) && !has_own) {
        let covers =
            |name: &str| ordered.contains(&name) || certificates.iter().any(|one| one.covers(name));
        hosts(config, covers, nodes, report);
    }
}

/// The folder of keys, where one is needed.
fn keys(config: &Config, tree: &Node, report: &mut Report) {
    let access = config.access.as_ref();
    let signs =
        access.is_some_and(|access| access.htpasswd.is_some() && access.token_key.is_none());
    let saves = |tls: &Tls| tls.is_auto() || tls.acme().is_some();
    if !signs && !config.all_tls().any(saves) {
        return;
    }
    let at = tree.near("keys").at;
    match keys_folder::check(&config.keys) {
        Ok(()) => {}
        Err(error @ KeysFolderError::Foreign { .. }) => report.fault(at, error.to_string()),
        Err(KeysFolderError::Io { path, source }) => unreadable(&path, &source, at, report),
    }
}

/// The certificates of a listener; `None` if one of them cannot be read or used.
fn tls(tls: &Tls, node: &Node, now: SystemTime, report: &mut Report) -> Option<Vec<Certificate>> {
    if let Some(ca) = tls.client_ca() {
        authorities(ca, node.near("client_ca"), report);
    }
    let Tls::Certificates { certificates, .. } = tls else {
        return Some(Vec::new());
    };
    let mut read = Some(Vec::new());
    for (index, files) in certificates.iter().enumerate() {
        let node = node.near("certificates").item(index);
        match Certificate::read(files) {
            Ok(certificate) => {
                expiry(
                    &certificate,
                    &files.certificate,
                    node.near("certificate"),
                    now,
                    report,
                );
                read = read.map(|mut all| {
                    all.push(certificate);
                    all
                });
            }
            Err(error) => {
                let is_key = matches!(&error, TlsError::Key { .. })
                    || matches!(&error, TlsError::Read { path, .. } if *path == files.key);
                let node = node.near(if is_key { "key" } else { "certificate" });
                unusable(&error, node, report);
                read = None;
            }
        }
    }
    read
}

/// Reports a certificate that has expired, or soon will.
fn expiry(
    certificate: &Certificate,
    path: &Path,
    node: &Node,
    now: SystemTime,
    report: &mut Report,
) {
    let path = path.display();
    if certificate.expires_at().is_some_and(|end| end <= now) {
        let message = format!("the certificate in {path} has expired; renew it");
        report.warn(node.at, message);
    } else if let Some(left) = certificate.expires_soon(now) {
        let hours = left.as_secs() / 3600;
        let message = format!("the certificate in {path} expires in {hours} hours; renew it");
        report.warn(node.at, message);
    }
}

fn authorities(path: &Path, node: &Node, report: &mut Report) {
    if let Err(error) = check_authorities(path) {
        unusable(&error, node, report);
    }
}

fn unusable(error: &TlsError, node: &Node, report: &mut Report) {
    match error {
        TlsError::Read { path, source } => unreadable(path, source, node.at, report),
        error => report.fault(node.at, telemetry::chain(error)),
    }
}

fn password(path: &Path, node: &Node, report: &mut Report) {
    use std::io::Read as _;

    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path)?;
        file.take(PASSWORD_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) if bytes.trim_ascii().is_empty() => {
            let message = format!("{} is empty; write the password into it", path.display());
            report.fault(node.at, message);
        }
        Ok(_) => {}
        Err(error) => unreadable(path, &error, node.at, report),
    }
}

fn unreadable(
    path: &Path,
    error: &io::Error,
    at: super::super::fault::Position,
    report: &mut Report,
) {
    let why = match error.kind() {
        ErrorKind::NotFound => "there is no such file".to_owned(),
        ErrorKind::PermissionDenied => "this user may not read it".to_owned(),
        _ => error.to_string(),
    };
    let path = path.display();
    report.warn(
        at,
        format!("{path} cannot be read: {why}; the gateway will not start without it"),
    );
}

/// Reports `hosts` that no certificate of the listeners covers.
fn hosts(config: &Config, covers: impl Fn(&str) -> bool, nodes: &Node, report: &mut Report) {
    for (index, registry) in config.registries.iter().enumerate() {
        for (item, host) in registry.hosts.iter().enumerate() {
            let Some((name, _)) = oci::authority::parse(host) else {
                continue;
            };
            if covers(&name) {
                continue;
            }
            let message = format!("no certificate of the listeners is for {}", shown(&name));
            let write = "clients will refuse the connection; add one that names it to listen[].tls.certificates, or the name to acme.hosts";
            let at = nodes.item(index).near("hosts").item(item).at;
            report.warn(at, format!("{message}: {write}"));
        }
    }
}
