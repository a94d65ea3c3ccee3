//! `admin`: the listeners for operators.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::address::ListenAddress;
use super::fault::Report;
use super::keys::{mapping, path};
use super::reference::{Absent, Key, Kind};
use super::tls::{TLS, Tls, tls};
use super::tree::Node;

/// The keys of `admin`.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "address",
        Kind::Scalar("address, or `off`"),
        Absent::Is("127.0.0.1:5002"),
        "The dashboard, its API, metrics and health: loopback, `unix:PATH` (mode 0600), or with `tls` and `htpasswd` any address.",
    ),
    Key::new(
        "tls",
        Kind::ChoiceOrSection(&["auto", "off"], TLS),
        Absent::Is("off"),
        "As for `listen`. Required beyond loopback.",
    ),
    Key::new(
        "htpasswd",
        Kind::Scalar("path"),
        Absent::Nothing,
        "The operators, who log in with Basic: a file as for `access.htpasswd`. Required beyond loopback. `/metrics`, `/livez` and `/readyz` need no login.",
    ),
    Key::new(
        "metrics",
        Kind::Scalar("address, or `off`"),
        Absent::Is("off"),
        "Another address with `/metrics`, `/livez` and `/readyz` alone, in plain HTTP, which may be public: `:9090`.",
    ),
];

/// The admin listeners. `None` is off.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The dashboard, API, metrics and health.
    pub address: Option<ListenAddress>,
    /// The TLS settings of `address`.
    pub tls: Tls,
    /// The file of operators; `None`: clients on this machine, without a login.
    pub htpasswd: Option<PathBuf>,
    /// Metrics and health only; may be public.
    pub metrics: Option<ListenAddress>,
}

impl Admin {
    /// The socket file that the commands of this machine use, where the address demands TLS or a login.
    pub fn command_socket(&self, keys: &Path) -> Option<PathBuf> {
        let is_tcp = matches!(self.address, Some(ListenAddress::Tcp { .. }));
        let demands = self.tls != Tls::Off || self.htpasswd.is_some();
        (is_tcp && demands).then(|| keys.join("admin.sock"))
    }
}

pub(super) fn admin(node: &Node, report: &mut Report) -> Admin {
    mapping(node, KEYS, report, |keys| Admin {
        address: keys.value_or_off(
            "address",
            ListenAddress::parse,
            Some(ListenAddress::Tcp {
                host: Some("127.0.0.1".to_owned()),
                port: 5002,
            }),
        ),
        tls: keys
            .node("tls")
            .map_or(Tls::Off, |node| tls(node, keys.report)),
        htpasswd: keys.value("htpasswd", path),
        metrics: keys.value_or_off("metrics", ListenAddress::parse, None),
    })
}

/// Reports an address that other machines reach without TLS or without a login, and keys without effect.
pub(super) fn check(admin: &Admin, node: &Node, report: &mut Report) {
    let at = node.near("address").at;
    match &admin.address {
        Some(address @ ListenAddress::Tcp { host, .. }) if !is_loopback(host.as_deref()) => {
            if admin.tls == Tls::Off {
                let message = format!("{address} is open to other machines, so it needs TLS");
                report.fault(at, format!("{message}; write tls: auto below admin"));
            }
            if admin.htpasswd.is_none() {
                let message = format!("{address} is open to other machines, so it needs a login");
                let write = "write htpasswd: conf/admin.htpasswd below admin";
                report.fault(at, format!("{message}; {write}"));
            }
        }
        Some(ListenAddress::Tcp { .. }) | None => {}
        Some(ListenAddress::Unix(_)) => {
            for key in ["tls", "htpasswd"] {
                if node.is_set(key) {
                    let message = format!("a socket file is its owner's alone; remove {key}");
                    report.fault(node.near(key).at, message);
                }
            }
        }
    }
}

/// Whether only this machine reaches a host. A name may have any address.
pub(super) fn is_loopback(host: Option<&str>) -> bool {
    host.is_some_and(|host| {
        host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    })
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_the_admin_address() {
        assert_faults(&[
            (
                "admin: off",
                &["1:8: expected keys and values here, not a single value; write `address: …`"],
            ),
            (
                r#"admin: {address: "unix:", metrics: 9090}"#,
                &[
                    r#"1:18: "unix:" has no path; write host:port, [v6]:port, :port for all addresses, or unix:PATH, or off"#,
                    r#"1:36: "9090" is only a port; write :9090 for all addresses, or off"#,
                ],
            ),
        ]);
    }

    #[test]
    fn other_machines_need_tls_and_a_login() {
        const TLS: &str = "so it needs TLS; write tls: auto below admin";
        const LOGIN: &str = "so it needs a login; write htpasswd: conf/admin.htpasswd below admin";
        for address in [
            ":5002",
            "0.0.0.0:5002",
            "10.0.0.1:5002",
            "admin.example:5002",
        ] {
            let fault = |need: &str| format!("1:18: {address} is open to other machines, {need}");
            for (more, needs) in [
                ("", &[TLS, LOGIN][..]),
                (", htpasswd: h", &[TLS]),
                (", tls: off, htpasswd: h", &[TLS]),
                (", tls: auto", &[LOGIN]),
                (", tls: auto, htpasswd: h", &[]),
            ] {
                let yaml = format!(r#"admin: {{address: "{address}"{more}}}"#);
                let faults: Vec<String> = needs.iter().map(|need| fault(need)).collect();
                let faults: Vec<&str> = faults.iter().map(String::as_str).collect();
                assert_faults(&[(&yaml, &faults)]);
            }
        }
        for yaml in [
            r#"admin: {address: "127.0.0.2:5002"}"#,
            r#"admin: {address: "[::1]:5002", tls: auto}"#,
            r#"admin: {address: "localhost:5002", htpasswd: h}"#,
            "admin: {address: off, htpasswd: h}",
            r#"admin: {metrics: ":9090"}"#,
        ] {
            assert_faults(&[(yaml, &[])]);
        }
        assert_faults(&[(
            r#"admin: {address: "unix:a", tls: auto, htpasswd: h}"#,
            &[
                "1:33: a socket file is its owner's alone; remove tls",
                "1:49: a socket file is its owner's alone; remove htpasswd",
            ],
        )]);
    }
}
