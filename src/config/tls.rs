//! `tls` of a listener and of the admin address: where certificates come from, and who needs one.

use std::path::{Path, PathBuf};

use super::fault::Report;
use super::keys::{list, mapping, path, refuse_empty, value};
use super::reference::{Absent, Key, Kind};
use super::tree::{Node, Value};
use super::units::Parsed;
use acme::Settings as AcmeSettings;
use gateway::CertificateFiles;

/// The keys of `listen[].tls`.
pub(super) const TLS: &[Key] = &[
    Key::new(
        "certificates",
        Kind::Items(CERTIFICATE),
        Absent::Required,
        "Chosen by SNI; the first is the default. Reloaded when the files change. With `client_ca` alone they are the gateway's own, as with `auto`.",
    ),
    Key::new(
        "acme",
        Kind::Section(ACME),
        Absent::Nothing,
        "In place of `certificates`: one of Let's Encrypt or another ACME authority, renewed after two thirds of its validity. See [Certificates](certificates.md#certificates-of-an-acme-authority).",
    ),
    Key::new(
        "client_ca",
        Kind::Scalar("path"),
        Absent::Nothing,
        "PEM file of CAs. If set, a client certificate issued by one of them is required; its common name is a user of the rules, `cert:NAME`. Reloaded likewise.",
    ),
];

/// The keys of `listen[].tls.acme`.
pub(super) const ACME: &[Key] = &[
    Key::new(
        "directory",
        Kind::Scalar("https URL"),
        Absent::Is(LETS_ENCRYPT),
        "The directory of the authority, whose terms of service you agree to.",
    ),
    Key::new(
        "email",
        Kind::Scalar("e-mail address"),
        Absent::Nothing,
        "Where the authority writes to about the account.",
    ),
    Key::new(
        "hosts",
        Kind::List("host name"),
        Absent::Required,
        "The names in the certificate. The authority has to reach this listener at port 443 of each, or one with `tls: off` at port 80.",
    ),
];

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// The keys of a certificate.
pub(super) const CERTIFICATE: &[Key] = &[
    Key::new(
        "certificate",
        Kind::Scalar("path"),
        Absent::Required,
        "PEM file of the chain, with the leaf first.",
    ),
    Key::new(
        "key",
        Kind::Scalar("path"),
        Absent::Required,
        "PEM file of the private key.",
    ),
];

/// The TLS settings of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// Plain HTTP.
    Off,
    /// A certificate of the gateway's own CA, created at the first start.
    Auto {
        /// As for files.
        client_ca: Option<PathBuf>,
    },
    /// Certificates from files, reloaded when the files change.
    Certificates {
        /// At least one. Selected by SNI; the first is the default.
        certificates: Vec<CertificateFiles>,
        /// PEM file of CAs; if given, clients need a certificate of one of them. Reloaded likewise.
        client_ca: Option<PathBuf>,
    },
    /// A certificate of an ACME authority.
    Acme(AcmeSettings),
}

impl Tls {
    /// A certificate of the gateway's own CA; clients need none.
    pub const AUTO: Self = Self::Auto { client_ca: None };

    /// Whether the certificate is the gateway's own CA's.
    pub fn is_auto(&self) -> bool {
        matches!(self, Self::Auto { .. })
    }

    /// The certificate that an ACME authority issues.
    pub fn acme(&self) -> Option<&AcmeSettings> {
        match self {
            Self::Acme(settings) => Some(settings),
            Self::Off | Self::Auto { .. } | Self::Certificates { .. } => None,
        }
    }

    /// The CAs of the clients' certificates; `None`: clients need none.
    pub fn client_ca(&self) -> Option<&Path> {
        match self {
            Self::Off | Self::Acme(_) => None,
            Self::Auto { client_ca } | Self::Certificates { client_ca, .. } => client_ca.as_deref(),
        }
    }
}

pub(super) fn tls(node: &Node, report: &mut Report) -> Tls {
    if let Value::Text(_) = node.value {
        let word = |text: &str| match text {
            "auto" => Ok(Tls::AUTO),
            "off" | "false" => Ok(Tls::Off),
            _ => Err("is no way to do TLS; write auto, off, or certificates below it".to_owned()),
        };
        return value(node, word, report).unwrap_or(Tls::AUTO);
    }
    mapping(node, TLS, report, |keys| {
        const EXAMPLE: &str = "[{certificate: chain.pem, key: key.pem}]";
        let client_ca = keys.value("client_ca", path);
        let acme = keys.node("acme");
        if let Some(settings) = acme {
            keys.node("certificates");
            for key in ["certificates", "client_ca"] {
                if node.is_set(key) {
                    let message = format!("{key} and acme exclude each other; remove one of them");
                    keys.report.fault(node.near(key).at, message);
                }
            }
            return Tls::Acme(self::acme(settings, keys.report));
        }
        if node.is_set("client_ca") && !node.is_set("certificates") {
            keys.node("certificates");
            return Tls::Auto { client_ca };
        }
        let files = keys.required_node("certificates", EXAMPLE);
        if let Some(files) = files {
            refuse_empty(files, "certificates", EXAMPLE, keys.report);
        }
        Tls::Certificates {
            certificates: files
                .and_then(|files| list(files, certificate_files, keys.report))
                .unwrap_or_default(),
            client_ca,
        }
    })
}

fn acme(node: &Node, report: &mut Report) -> AcmeSettings {
    mapping(node, ACME, report, |keys| AcmeSettings {
        directory: keys
            .value("directory", directory)
            .unwrap_or_else(|| LETS_ENCRYPT.to_owned()),
        email: keys.value("email", email),
        hosts: keys
            .some_values("hosts", "[registry.example.com]", host_name)
            .into_iter()
            .collect(),
    })
}

/// The URL of a directory, which has a path.
fn directory(text: &str) -> Parsed<String> {
    let is_graphic = text.bytes().all(|byte| byte.is_ascii_graphic());
    let rest = text.strip_prefix("https://").filter(|_| is_graphic);
    let host = rest.map(|rest| rest.split_once('/').map_or(rest, |(host, _)| host));
    match host.and_then(oci::authority::parse) {
        Some(_) => Ok(text.to_owned()),
        None => Err(format!(
            "is not an https URL; write one such as {LETS_ENCRYPT}"
        )),
    }
}

fn email(text: &str) -> Parsed<String> {
    let is_good = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"@,?<>".contains(&byte))
    };
    match text.split_once('@') {
        Some((user, host)) if is_good(user) && is_good(host) => Ok(text.to_owned()),
        _ => Err("is not an e-mail address; write one such as ops@example.com".to_owned()),
    }
}

/// The name of a host, which the authority looks up: neither an address nor a pattern.
fn host_name(text: &str) -> Parsed<String> {
    let parsed = oci::authority::parse(text).filter(|(_, port)| port.is_none());
    let is_address = |host: &str| host.parse::<std::net::IpAddr>().is_ok();
    match parsed {
        Some((host, _)) if !is_address(&host) => Ok(host),
        _ => Err("is not a host name; write one such as registry.example.com".to_owned()),
    }
}

fn certificate_files(node: &Node, report: &mut Report) -> CertificateFiles {
    mapping(node, CERTIFICATE, report, |keys| CertificateFiles {
        certificate: keys
            .required("certificate", "chain.pem", path)
            .unwrap_or_default(),
        key: keys.required("key", "key.pem", path).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_tls() {
        assert_faults(&[
            (
                r#"listen: [{address: ":1", tls: on}]"#,
                &[r#"1:31: "on" is no way to do TLS; write auto, off, or certificates below it"#],
            ),
            (
                r#"listen: [{address: ":1", tls: {}}]"#,
                &[
                    "1:31: certificates is missing here; write `certificates: [{certificate: chain.pem, key: key.pem}]`",
                ],
            ),
            (
                r#"listen: [{address: ":1", tls: {certificates: []}}]"#,
                &[
                    "1:46: certificates is empty; write `certificates: [{certificate: chain.pem, key: key.pem}]`",
                ],
            ),
            (
                "listen:\n  - address: \":1\"\n    tls:\n      certificates:\n        - {certificate: a.pem}\n        - {key: b.pem}",
                &[
                    "5:11: key is missing here; write `key: key.pem`",
                    "6:11: certificate is missing here; write `certificate: chain.pem`",
                ],
            ),
            (
                r#"listen: [{address: ":1", tls: [auto]}]"#,
                &["1:31: expected keys and values here, not a list; write `certificates: …`"],
            ),
            (r#"listen: [{address: ":1", tls: {client_ca: c}}]"#, &[]),
            (
                r#"listen: [{address: ":1", tls: {acme: {hosts: [registry.example.com], email: ops@example.com, directory: "https://[::1]:14000/dir"}}}]"#,
                &[],
            ),
            (
                r#"listen: [{address: ":1", tls: {acme: {directory: "http://a/", email: ops, hosts: ["*.a", 192.0.2.1, "a:1"]}}}]"#,
                &[
                    r#"1:50: "http://a/" is not an https URL; write one such as https://acme-v02.api.letsencrypt.org/directory"#,
                    r#"1:70: "ops" is not an e-mail address; write one such as ops@example.com"#,
                    r#"1:83: "*.a" is not a host name; write one such as registry.example.com"#,
                    r#"1:90: "192.0.2.1" is not a host name; write one such as registry.example.com"#,
                    r#"1:101: "a:1" is not a host name; write one such as registry.example.com"#,
                ],
            ),
            (
                r#"listen: [{address: ":1", tls: {acme: {}, client_ca: c, certificates: [{certificate: a, key: b}]}}]"#,
                &[
                    "1:38: hosts is missing here; write `hosts: [registry.example.com]`",
                    "1:53: client_ca and acme exclude each other; remove one of them",
                    "1:70: certificates and acme exclude each other; remove one of them",
                ],
            ),
        ]);
    }
}
