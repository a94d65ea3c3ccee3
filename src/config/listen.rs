//! `listen`: the listeners of the data plane.

use super::address::ListenAddress;
use super::fault::Report;
use super::host::HUB;
use super::keys::{Keys, list, mapping, refuse_empty, text, value};
use super::origin::Origin;
use super::reference::{Absent, Key, Kind};
use super::registry::Registry;
use super::tls::{TLS, Tls, tls};
use super::tree::Node;
use super::units::{Parsed, boolean};
use oci::network::{Network, NetworkError};
use oci::proxy_protocol::Versions;
use runtime::SocketPermissions;

/// The keys of a listener.
pub(super) const LISTENER: &[Key] = &[
    Key::new(
        "address",
        Kind::Scalar("address"),
        Absent::Required,
        "`host:port`, `[v6]:port`, `:port` (all addresses) or `unix:PATH`. Port 0 lets the system choose.",
    ),
    Key::new(
        "tls",
        Kind::ChoiceOrSection(&["auto", "off"], TLS),
        Absent::Is("auto"),
        "`auto`: a certificate of the gateway's own authority. `off`: plain HTTP. See [Certificates](certificates.md).",
    ),
    Key::new(
        "read_only",
        Kind::Scalar("boolean"),
        Absent::Is("false"),
        "Only GET and HEAD, never a challenge; every caller is anonymous.",
    ),
    Key::new(
        "registry",
        Kind::Scalar("name of a registry"),
        Absent::Nothing,
        "All requests to this listener go to that registry, whatever the name or Host.",
    ),
    Key::new(
        "public_url",
        Kind::Scalar("URL"),
        Absent::Nothing,
        "The gateway's URL for clients behind another proxy: `https://registry.example.com`. Used in token realms, `Location` and `Link`; its host is in the gateway's own certificate.",
    ),
    Key::new(
        "trusted_proxies",
        Kind::List("address or network"),
        Absent::Nothing,
        "Trusted reverse proxies, such as `10.0.0.7` or `10.0.0.0/8`; a Unix socket counts as `127.0.0.1`. They are believed what they say of a request: `X-Forwarded-For`, `-Proto` and `-Host`, `Forwarded` and `X-Request-Id`. See [Behind a proxy](recipes/behind-a-proxy.md).",
    ),
    Key::new(
        "proxy_protocol",
        Kind::Choice(&["v1", "v2", "any"]),
        Absent::Nothing,
        "The versions of the PROXY protocol with whose header each connection of `trusted_proxies` has to begin. Connections of others have none.",
    ),
    Key::new(
        "mode",
        Kind::Scalar("octal number"),
        Absent::Means("`0660` with `group`, else that of the umask"),
        "For `unix:PATH`: the mode of the socket file. Who may write to it may connect.",
    ),
    Key::new(
        "group",
        Kind::Scalar("name or number"),
        Absent::Means("that of the process"),
        "For `unix:PATH`: the group of the socket file, such as that of a proxy in front.",
    ),
];

/// One listener of the data plane.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address. No two listeners collide.
    pub address: ListenAddress,
    /// The TLS settings.
    pub tls: Tls,
    /// Only GET and HEAD, without challenges; every caller is anonymous.
    pub read_only: bool,
    /// The only registry of this listener.
    pub registry: Option<String>,
    /// The URL by which clients reach it, behind another proxy.
    pub public_url: Option<Origin>,
    /// The proxies that are believed what they say of their clients.
    pub trusted_proxies: Vec<Network>,
    /// The versions of the PROXY protocol that those proxies speak; `None`: none.
    pub proxy_protocol: Option<Versions>,
    /// Those of a socket file; none for TCP.
    pub permissions: SocketPermissions,
}

pub(super) fn listeners(keys: &mut Keys<'_, '_>) -> Option<Vec<Listen>> {
    let node = keys.node("listen")?;
    refuse_empty(node, "listen", r#"[{address: ":443"}]"#, keys.report);
    list(node, listener, keys.report)
}

pub(super) fn default_listeners(registries: &[Registry]) -> Vec<Listen> {
    let on_loopback = |port| ListenAddress::Tcp {
        host: Some("127.0.0.1".to_owned()),
        port,
    };
    let gateway = Listen {
        address: on_loopback(5000),
        tls: Tls::AUTO,
        read_only: false,
        registry: None,
        public_url: None,
        trusted_proxies: Vec::new(),
        proxy_protocol: None,
        permissions: SocketPermissions::default(),
    };
    let mirror = Listen {
        address: on_loopback(5001),
        tls: Tls::Off,
        read_only: true,
        registry: Some(HUB.to_owned()),
        public_url: None,
        trusted_proxies: Vec::new(),
        proxy_protocol: None,
        permissions: SocketPermissions::default(),
    };
    if registries.iter().any(|registry| registry.name == HUB) {
        vec![gateway, mirror]
    } else {
        vec![gateway]
    }
}

fn listener(node: &Node, report: &mut Report) -> Listen {
    mapping(node, LISTENER, report, |keys| Listen {
        address: keys
            .required("address", r#"":443""#, ListenAddress::parse)
            .unwrap_or(ListenAddress::Tcp {
                host: None,
                port: 0,
            }),
        tls: keys
            .node("tls")
            .map_or(Tls::AUTO, |node| tls(node, keys.report)),
        read_only: keys.value("read_only", boolean).unwrap_or(false),
        registry: keys.value("registry", text),
        public_url: keys.value("public_url", Origin::parse),
        trusted_proxies: trusted_proxies(keys),
        proxy_protocol: keys.value("proxy_protocol", versions),
        permissions: SocketPermissions {
            mode: keys.value("mode", mode),
            group: keys.value("group", group),
        },
    })
}

/// The mode of a socket file: three octal digits, perhaps with a leading zero.
fn mode(text: &str) -> Parsed<u32> {
    let is_octal =
        |text: &str| text.len() == 3 && text.bytes().all(|byte| (b'0'..b'8').contains(&byte));
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3);
    let digits = digits.unwrap_or(text);
    let mode = is_octal(digits).then(|| u32::from_str_radix(digits, 8).ok());
    mode.flatten()
        .ok_or_else(|| "is not a mode; write three octal digits, such as 0660".to_owned())
}

/// The name or number of a group.
fn group(text: &str) -> Parsed<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-@$".contains(c);
    if !text.is_empty() && text.len() <= 255 && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("is not a group; write its name or number, such as www-data".to_owned())
    }
}

fn versions(text: &str) -> Parsed<Versions> {
    match text {
        "v1" => Ok(Versions::V1),
        "v2" => Ok(Versions::V2),
        "any" => Ok(Versions::Any),
        _ => Err("is no version of the PROXY protocol; write v1, v2 or any".to_owned()),
    }
}

fn trusted_proxies(keys: &mut Keys<'_, '_>) -> Vec<Network> {
    let network = |text: &str| {
        text.parse()
            .map_err(|error: NetworkError| error.to_string())
    };
    let networks = keys.list("trusted_proxies", |node, report| {
        value(node, network, report)
    });
    networks.unwrap_or_default().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_listeners() {
        assert_faults(&[
            (
                "listen: []",
                &[r#"1:9: listen is empty; write `listen: [{address: ":443"}]`"#],
            ),
            (
                "listen:\n  - tls: off",
                &[r#"2:5: address is missing here; write `address: ":443"`"#],
            ),
            (
                "listen: [{address: localhost}]",
                &[r#"1:20: "localhost" has no port; write localhost:5000"#],
            ),
            (
                r#"listen: [{address: "::1"}]"#,
                &[r#"1:20: "::1" has no brackets; write [::1]:5000"#],
            ),
            (
                r#"listen: [{address: "*:443"}]"#,
                &[
                    r#"1:20: "*:443" is not an address; write host:port, [v6]:port, :port for all addresses, or unix:PATH"#,
                ],
            ),
            (
                r#"listen: [{address: ":65536"}]"#,
                &[
                    r#"1:20: ":65536" is not an address; write host:port, [v6]:port, :port for all addresses, or unix:PATH"#,
                ],
            ),
            (
                "listen: [{address: 443}]",
                &[r#"1:20: "443" is only a port; write :443 for all addresses"#],
            ),
            (
                r#"listen: [{address: "unix:"}]"#,
                &[
                    r#"1:20: "unix:" has no path; write host:port, [v6]:port, :port for all addresses, or unix:PATH"#,
                ],
            ),
            (
                "listen: [{address: [a, b]}]",
                &[
                    "1:20: expected a single value here, not a list; write one word, in quotes if need be",
                ],
            ),
            (
                r#"listen: [{address: ":1", read_only: yes}]"#,
                &[r#"1:37: "yes" is neither true nor false; write one of them"#],
            ),
            (
                r#"listen: [{address: "unix:a", mode: 660, group: www-data}, {address: "unix:b", mode: "0600"}]"#,
                &[],
            ),
            (
                r#"listen: [{address: "unix:a", mode: rw, group: "a b"}, {address: "unix:b", mode: 0o660}, {address: "unix:c", mode: 1777}]"#,
                &[
                    r#"1:36: "rw" is not a mode; write three octal digits, such as 0660"#,
                    r#"1:47: "a b" is not a group; write its name or number, such as www-data"#,
                    r#"1:81: "0o660" is not a mode; write three octal digits, such as 0660"#,
                    r#"1:115: "1777" is not a mode; write three octal digits, such as 0660"#,
                ],
            ),
            (
                r#"listen: [{address: ":1", mode: 0660, group: www-data}]"#,
                &[
                    "1:32: mode is for socket files, and :1 is none; remove mode",
                    "1:45: group is for socket files, and :1 is none; remove group",
                ],
            ),
            (
                r#"listen: [{address: ":1", public_url: "registry.example.com"}]"#,
                &[
                    r#"1:38: "registry.example.com" is not a URL; write http://host:port or https://host"#,
                ],
            ),
            (
                r#"listen: [{address: ":1", trusted_proxies: [10.0.0.1/8, proxy.lan]}]"#,
                &[
                    r#"1:44: "10.0.0.1/8" has bits behind its prefix; write 10.0.0.0/8"#,
                    r#"1:56: "proxy.lan" is not a network; write an address or a prefix, such as 10.0.0.7 or 10.0.0.0/8"#,
                ],
            ),
            (
                r#"listen: [{address: ":1", trusted_proxies: [10.0.0.7], proxy_protocol: any}]"#,
                &[],
            ),
            (
                r#"listen: [{address: ":1", trusted_proxies: ["::/0"]}]"#,
                &[
                    "warning: 1:43: every client is a trusted proxy here, and may choose its address; write the addresses of your proxies",
                ],
            ),
            (
                r#"listen: [{address: ":1", proxy_protocol: v3}, {address: ":2", proxy_protocol: v1}]"#,
                &[
                    r#"1:42: "v3" is no version of the PROXY protocol; write v1, v2 or any"#,
                    "1:79: without trusted_proxies any client could choose its address; write trusted_proxies: [10.0.0.7]",
                ],
            ),
        ]);
    }
}
