//! `routing`, `limits` and `log`: settings of the whole process.

use std::time::Duration;

use regex::Regex;
use tracing::Level;

use super::fault::Report;
use super::keys::{list, mapping, value};
use super::reference::{Absent, Key, Kind};
use super::tree::Node;
use super::units::{Parsed, boolean, count, duration, header_bytes, rate, some_duration};
use runtime::share::PerClient;
use telemetry::Format;

/// The keys of `routing`.
pub(super) const ROUTING: &[Key] = &[Key::new(
    "old_clients",
    Kind::ChoiceOrList(&["default"], "regular expression"),
    Absent::Is("default"),
    "Which User-Agents are not shown v2. `default`: Docker up to 1.5.",
)];

/// The keys of `limits`.
pub(super) const LIMITS: &[Key] = &[
    Key::new(
        "header_bytes",
        Kind::Scalar("size from 1KiB to 1MiB"),
        Absent::Is("64KiB"),
        "Limit of a request head. A longer one gets a 431.",
    ),
    Key::new(
        "header_timeout",
        Kind::Scalar("duration above zero"),
        Absent::Is("10s"),
        "Time for a complete request head, or the form of a `POST /token`. After it comes a 408.",
    ),
    Key::new(
        "idle_timeout",
        Kind::Scalar("duration above zero"),
        Absent::Is("75s"),
        "Limit between requests of a connection, and of a write without progress.",
    ),
    Key::new(
        "connections",
        Kind::Scalar("count"),
        Absent::Is("10000"),
        "Open connections; further ones are closed, so that clients try elsewhere. The same number, but at least 100, limits concurrent requests; the next gets a 503.",
    ),
    Key::new(
        "per_client",
        Kind::ChoiceOrSection(&["off"], PER_CLIENT_KEYS),
        Absent::Means("the defaults below"),
        "Share of one client: an IPv4 address, or an IPv6 network of 64 bits. 127.0.0.1, `::1` and Unix sockets have no limit. Behind a proxy of `listen[].trusted_proxies`, clients are counted by their own addresses.",
    ),
    Key::new(
        "fills",
        Kind::Scalar("count"),
        Absent::Is("64"),
        "Concurrent downloads, at most half of them from one registry. A client that waits 20 s for a slot gets a 503.",
    ),
    Key::new(
        "drain",
        Kind::Scalar("duration"),
        Absent::Is("30s"),
        "Grace period for running requests after SIGTERM.",
    ),
];

/// The keys of `limits.per_client`.
pub(super) const PER_CLIENT_KEYS: &[Key] = &[
    Key::new(
        "connections",
        Kind::Scalar("count, or `off`"),
        Absent::Is("256"),
        "Open connections; further ones are closed at once.",
    ),
    Key::new(
        "requests",
        Kind::Scalar("count, or `off`"),
        Absent::Is("512"),
        "Requests in flight; the next gets a 429.",
    ),
    Key::new(
        "rate",
        Kind::Scalar("rate, or `off`"),
        Absent::Is("off"),
        "Requests per second, minute or hour: `200/s`. As many may come at once, and then evenly; the next gets a 429 whose `Retry-After` says when.",
    ),
];

/// The keys of `log`.
pub(super) const LOG: &[Key] = &[
    Key::new(
        "format",
        Kind::Choice(&["text", "json"]),
        Absent::Is("text"),
        "The format of the lines on standard error.",
    ),
    Key::new(
        "level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        Absent::Is("info"),
        "The lowest level that is written.",
    ),
    Key::new(
        "access",
        Kind::Scalar("boolean"),
        Absent::Is("true"),
        "One line for each request.",
    ),
];

/// Which clients are routed to v1.
#[derive(Debug, Clone)]
pub struct Routing {
    /// Selected by User-Agent.
    pub old_clients: OldClients,
}

/// The User-Agents of clients that speak v1.
#[derive(Debug, Clone)]
pub enum OldClients {
    /// The built-in table.
    Default,
    /// Clients whose User-Agent matches one of these.
    Patterns(Vec<Regex>),
}

/// The limits for each client and for all clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The size of a request's head; 1 KiB to 1 MiB.
    pub header_bytes: usize,
    /// The timeout for a request's head; above zero.
    pub header_timeout: Duration,
    /// The timeout between requests of a connection; above zero.
    pub idle_timeout: Duration,
    /// Concurrent connections; at least 1.
    pub connections: usize,
    /// The share of one client address.
    pub per_client: PerClient,
    /// Concurrent fills; at least 1.
    pub fills: usize,
    /// The grace period for in-flight requests after SIGTERM.
    pub drain: Duration,
}

/// More than an office behind one address needs, and a small part of the total.
const PER_CLIENT: PerClient = PerClient {
    connections: Some(256),
    requests: Some(512),
    rate: None,
};

/// The settings of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The format of a line.
    pub format: Format,
    /// The lowest level that is logged.
    pub level: Level,
    /// Whether every request is logged.
    pub access: bool,
}

pub(super) fn routing(node: &Node, report: &mut Report) -> Routing {
    mapping(node, ROUTING, report, |keys| {
        let node = keys.node("old_clients");
        let patterns = node
            .filter(|node| node.text() != Some("default"))
            .and_then(|node| {
                list(
                    node,
                    |item, report| value(item, pattern, report),
                    keys.report,
                )
            });
        Routing {
            old_clients: patterns.map_or(OldClients::Default, |patterns| {
                OldClients::Patterns(patterns.into_iter().flatten().collect())
            }),
        }
    })
}

fn pattern(text: &str) -> Parsed<Regex> {
    // The crate's own message spans several lines.
    Regex::new(text).map_err(|_| {
        r"is not a regular expression; write one such as ^docker/1\.[0-5]\.".to_owned()
    })
}

pub(super) fn limits(node: &Node, report: &mut Report) -> Limits {
    mapping(node, LIMITS, report, |keys| Limits {
        header_bytes: keys.value("header_bytes", header_bytes).unwrap_or(64 << 10),
        header_timeout: keys
            .value("header_timeout", some_duration)
            .unwrap_or(Duration::from_secs(10)),
        idle_timeout: keys
            .value("idle_timeout", some_duration)
            .unwrap_or(Duration::from_secs(75)),
        connections: keys.value("connections", count).unwrap_or(10_000),
        per_client: match keys.node("per_client") {
            Some(node) if node.is_off() => PerClient {
                connections: None,
                requests: None,
                rate: None,
            },
            Some(node) => per_client(node, keys.report),
            None => PER_CLIENT,
        },
        fills: keys.value("fills", count).unwrap_or(64),
        drain: keys
            .value("drain", duration)
            .unwrap_or(Duration::from_secs(30)),
    })
}

fn per_client(node: &Node, report: &mut Report) -> PerClient {
    mapping(node, PER_CLIENT_KEYS, report, |keys| PerClient {
        connections: keys.value_or_off("connections", count, PER_CLIENT.connections),
        requests: keys.value_or_off("requests", count, PER_CLIENT.requests),
        rate: keys.value_or_off("rate", rate, PER_CLIENT.rate),
    })
}

pub(super) fn log(node: &Node, report: &mut Report) -> Log {
    mapping(node, LOG, report, |keys| Log {
        format: keys.value("format", log_format).unwrap_or(Format::Text),
        level: keys.value("level", log_level).unwrap_or(Level::INFO),
        access: keys.value("access", boolean).unwrap_or(true),
    })
}

fn log_format(text: &str) -> Parsed<Format> {
    match text {
        "text" => Ok(Format::Text),
        "json" => Ok(Format::Json),
        _ => Err("is not a format; write text or json".to_owned()),
    }
}

fn log_level(text: &str) -> Parsed<Level> {
    match text {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err("is not a level; write error, warn, info, debug or trace".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::PerClient;
    use crate::config::tests::{assert_faults, typed};
    use runtime::rate::Rate;

    #[test]
    fn a_client_has_a_share_unless_it_is_off() {
        for (yaml, connections, requests, rate) in [
            ("", Some(256), Some(512), None),
            (
                "limits: {per_client: {requests: 7}}",
                Some(256),
                Some(7),
                None,
            ),
            (
                "limits: {per_client: {connections: off, rate: off}}",
                None,
                Some(512),
                None,
            ),
            (
                "limits: {per_client: {rate: 200/s}}",
                Some(256),
                Some(512),
                Some((200, 1)),
            ),
            (
                "limits: {per_client: {rate: 1000000/h}}",
                Some(256),
                Some(512),
                Some((1_000_000, 3600)),
            ),
            ("limits: {per_client: off}", None, None, None),
        ] {
            let config = typed(yaml).expect("good");
            let rate = rate.map(|(requests, seconds)| Rate {
                requests: NonZeroU32::new(requests).expect("above zero"),
                period: Duration::from_secs(seconds),
            });
            let expected = PerClient {
                connections,
                requests,
                rate,
            };
            assert_eq!(config.limits.per_client, expected, "{yaml}");
        }
    }

    #[test]
    fn faults_of_the_process() {
        assert_faults(&[
            (
                r#"routing: {old_clients: ["(", "ok", 5]}"#,
                &[r#"1:25: "(" is not a regular expression; write one such as ^docker/1\.[0-5]\."#],
            ),
            (
                "routing: {old_clients: builtin}",
                &[
                    "1:24: expected a list here, not a single value; write [a, b] or lines that begin with -",
                ],
            ),
            (
                "limits: {header_bytes: 512, connections: 0, fills: -1, idle_timeout: 0s}",
                &[
                    r#"1:24: "512" is out of range; write a size from 1KiB to 1MiB"#,
                    r#"1:42: "0" is not a count; write a whole number from 1 to 4294967295"#,
                    r#"1:52: "-1" is not a count; write a whole number from 1 to 4294967295"#,
                    r#"1:70: "0s" is no time at all; write 1s or longer"#,
                ],
            ),
            (
                "limits: {header_bytes: 2MiB, header_timeout: forever, drain: off}",
                &[
                    r#"1:24: "2MiB" is out of range; write a size from 1KiB to 1MiB"#,
                    r#"1:46: "forever" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m"#,
                    r#"1:62: "off" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m"#,
                ],
            ),
            (
                "limits: {per_client: {connections: 0, request: 5, rate: 200}}",
                &[
                    r#"1:36: "0" is not a count; write a whole number from 1 to 4294967295, or off"#,
                    r#"1:39: unknown key "request"; did you mean "requests"?"#,
                    r#"1:57: "200" is not a rate; write a whole number up to 1000000, and /s, /m or /h, such as 200/s, or off"#,
                ],
            ),
            (
                "limits: {per_client: 256}",
                &[
                    "1:22: expected keys and values here, not a single value; write `connections: …`",
                ],
            ),
            (
                "log: {format: xml, level: verbose, access: maybe}",
                &[
                    r#"1:15: "xml" is not a format; write text or json"#,
                    r#"1:27: "verbose" is not a level; write error, warn, info, debug or trace"#,
                    r#"1:44: "maybe" is neither true nor false; write one of them"#,
                ],
            ),
        ]);
    }
}
