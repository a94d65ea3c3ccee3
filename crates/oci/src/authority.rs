//! `uri-host [ ":" port ]`, as in `Host`, `:authority` and the configuration (RFC 9110 §7.2).

use std::net::Ipv6Addr;

/// The longest host name, in bytes.
const LONGEST_NAME: usize = 253;

/// Splits off the port. A bracketed host keeps its brackets; a suffix that is not a number is no port.
#[must_use]
pub fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, Some(port)),
        _ => (authority, None),
    }
}

/// A host without the brackets of an IPv6 literal.
#[must_use]
pub fn unbracketed(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    inner.unwrap_or(host)
}

/// A host, in brackets if it is an IPv6 address.
#[must_use]
pub fn bracketed(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Whether a text matches the grammar of an authority without user information. Empty is valid.
#[must_use]
pub fn is_valid(text: &str) -> bool {
    let (host, port) = match text.rfind(':') {
        Some(at) if !text[at..].contains(']') => (&text[..at], &text[at + 1..]),
        _ => (text, ""),
    };
    let literal = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let name = |byte: u8| matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'\'' | b'('..=b',' | b';' | b'=');
    let host_is_valid = match literal {
        Some(literal) => literal.bytes().all(|byte| name(byte) || byte == b':'),
        None => host.bytes().all(name),
    };
    host_is_valid && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether two authorities are equal, ignoring default ports and case.
#[must_use]
pub fn is_same(one: &str, other: &str) -> bool {
    let bare = |authority: &str| {
        let authority = authority.to_ascii_lowercase();
        let portless = authority
            .strip_suffix(":443")
            .or(authority.strip_suffix(":80"));
        portless.map(str::to_owned).unwrap_or(authority)
    };
    bare(one) == bare(other)
}

/// The host and port of `name`, `name:port`, `v4`, `v4:port`, `[v6]` or `[v6]:port`; also of a bare v6, which
/// has no port. The host is in lower case and without brackets.
#[must_use]
pub fn parse(text: &str) -> Option<(String, Option<u16>)> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text.to_lowercase(), None));
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']')?;
        host.parse::<Ipv6Addr>().ok()?;
        (host, port)
    } else {
        let host = text.find(':').unwrap_or(text.len());
        let (host, port) = text.split_at(host);
        if !is_host_name(host) {
            return None;
        }
        (host, port)
    };
    let port = match port.strip_prefix(':') {
        Some(port) => Some(parse_port(port)?),
        None if port.is_empty() => None,
        None => return None,
    };
    Some((host.to_lowercase(), port))
}

/// Parses a port, which has only digits.
#[must_use]
pub fn parse_port(text: &str) -> Option<u16> {
    // `u16::from_str` would take a sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

/// Labels of letters, digits, `-` and (as in container networks) `_`, between dots.
fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        ends(label.chars().next())
            && ends(label.chars().last())
            && label
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    text.len() <= LONGEST_NAME && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_split_off() {
        for (text, expected) in [
            ("a", ("a", None)),
            ("a:1", ("a", Some("1"))),
            ("a:", ("a", Some(""))),
            ("a:x", ("a:x", None)),
            ("[::1]:5000", ("[::1]", Some("5000"))),
            ("[::1]", ("[::1]", None)),
            ("", ("", None)),
        ] {
            assert_eq!(split_port(text), expected, "{text}");
        }
    }

    #[test]
    fn grammar() {
        for (text, valid) in [
            ("", true),
            ("localhost", true),
            ("a.b:5000", true),
            ("a:", true),
            ("[::1]", true),
            ("[::1]:5000", true),
            ("a_b", true),
            ("a:x", false),
            ("a b", false),
            ("a/b", false),
            ("u@a", false),
            ("[::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_valid(text), valid, "{text}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        let parsed = |host: &str, port| Some((host.to_owned(), port));
        for (text, expected) in [
            ("Registry.Example", parsed("registry.example", None)),
            ("a:1", parsed("a", Some(1))),
            ("[::1]:1", parsed("::1", Some(1))),
            ("[::1]", parsed("::1", None)),
            ("::1", parsed("::1", None)),
            ("a:", None),
            ("a:+1", None),
            ("a:65536", None),
            ("[a]", None),
            ("-a", None),
            ("", None),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn default_ports_are_ignored() {
        for (one, other, same) in [
            ("a", "A:443", true),
            ("a:80", "a", true),
            ("a:5000", "a", false),
            ("a", "b", false),
        ] {
            assert_eq!(is_same(one, other), same, "{one} {other}");
        }
    }
}
