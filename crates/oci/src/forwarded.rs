//! What reverse proxies say of the client behind them: `Forwarded` (RFC 7239), and `X-Forwarded-For`, `-Proto` and `-Host`.
//!
//! Every proxy appends to what it received, so only the last entries are of proxies that are trusted; those before them are
//! whatever the client wrote.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::{HeaderMap, HeaderName};

use super::authority;

/// The most entries of a list that are read; there are as many proxies in a row at most.
pub const MAX_ENTRIES: usize = 32;

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";
const X_FORWARDED_HOST: &str = "x-forwarded-host";

/// What trusted proxies say of a request. What is absent, malformed or contradictory is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forwarded<'a> {
    /// The client: the last address of the list that is not of a trusted proxy, or the first if all are. Port 0 is unknown.
    pub client: Option<SocketAddr>,
    /// The scheme that the client uses.
    pub scheme: Option<Scheme>,
    /// The host, and perhaps the port, that the client addressed. Not empty.
    pub host: Option<&'a str>,
}

/// The scheme of a client's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `http`
    Http,
    /// `https`
    Https,
}

impl Scheme {
    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Http, Self::Https]
            .into_iter()
            .find(|scheme| text.eq_ignore_ascii_case(scheme.as_str()))
    }
}

/// A list that cannot be read, so that nothing of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Malformed;

/// One element of `Forwarded`.
#[derive(Clone, Copy, Default)]
struct Element<'a> {
    client: Option<SocketAddr>,
    scheme: Option<Scheme>,
    host: Option<&'a str>,
}

impl<'a> Forwarded<'a> {
    /// Reads the fields of a request that a trusted proxy sent. `trusts` says whether an address is a trusted proxy's.
    pub fn of(headers: &'a HeaderMap, trusts: impl Fn(IpAddr) -> bool) -> Self {
        let own = client_of_list(headers, &trusts);
        let standard = element(headers, &trusts);
        let (Ok(own), Ok(standard)) = (own, standard) else {
            // Of two that should agree, one was not written by the proxy.
            return Self {
                client: None,
                ..Self::of_last(headers, None)
            };
        };
        Self {
            client: agreed(own, standard.and_then(|element| element.client)),
            ..Self::of_last(headers, standard)
        }
    }

    /// The scheme and host of the nearest proxy.
    fn of_last(headers: &'a HeaderMap, standard: Option<Element<'a>>) -> Self {
        let scheme = last(headers, X_FORWARDED_PROTO).map(Scheme::parse);
        let host = last(headers, X_FORWARDED_HOST).map(host);
        Self {
            client: None,
            scheme: agreed(
                scheme.flatten(),
                standard.and_then(|element| element.scheme),
            ),
            host: agreed(host.flatten(), standard.and_then(|element| element.host)),
        }
    }
}

/// What two fields say, if they do not disagree.
fn agreed<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => (one == other).then_some(one),
        (one, other) => one.or(other),
    }
}

/// The values of all lines of a field, the last first. A line that is not text is empty.
fn lines<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).into_iter().rev();
    values.map(|value| value.to_str().unwrap_or_default())
}

/// The last value of a list.
fn last<'a>(headers: &'a HeaderMap, name: &'static str) -> Option<&'a str> {
    let line = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    line.rsplit(',').next().map(str::trim)
}

fn host(text: &str) -> Option<&str> {
    (!text.is_empty() && authority::is_valid(text)).then_some(text)
}

/// The client by `X-Forwarded-For`; `None` if there is none.
fn client_of_list(
    headers: &HeaderMap,
    trusts: impl Fn(IpAddr) -> bool,
) -> Result<Option<SocketAddr>, Malformed> {
    let entries = lines(headers, X_FORWARDED_FOR).flat_map(|line| line.rsplit(','));
    let mut first = None;
    for (index, entry) in entries.enumerate() {
        let client = address(entry.trim()).ok_or(Malformed)?;
        if index == MAX_ENTRIES {
            return Err(Malformed);
        }
        first = Some(client);
        if !trusts(client.ip()) {
            break;
        }
    }
    Ok(first)
}

/// The element of `Forwarded` that names the client; `None` if there is none.
fn element(
    headers: &HeaderMap,
    trusts: impl Fn(IpAddr) -> bool,
) -> Result<Option<Element<'_>>, Malformed> {
    let mut elements = Vec::new();
    for line in headers.get_all(FORWARDED) {
        parse_elements(line.to_str().map_err(|_| Malformed)?, &mut elements)?;
    }
    let mut first = None;
    for element in elements.into_iter().rev() {
        // `unknown` and obfuscated names hide who the proxy got the request from.
        let client = element.client.ok_or(Malformed)?;
        first = Some(element);
        if !trusts(client.ip()) {
            break;
        }
    }
    Ok(first)
}

/// Adds the elements of a line (RFC 7239 §4).
fn parse_elements<'a>(line: &'a str, elements: &mut Vec<Element<'a>>) -> Result<(), Malformed> {
    let mut element = Element::default();
    let mut rest = line.trim();
    loop {
        let (name, value) = rest.split_once('=').ok_or(Malformed)?;
        let value_and_rest = match value.strip_prefix('"') {
            // What these hold needs no escapes.
            Some(quoted) => quoted.split_once('"'),
            None => Some(value.split_at(value.find([',', ';', ' ', '\t']).unwrap_or(value.len()))),
        };
        let (value, after) = value_and_rest.ok_or(Malformed)?;
        let name = name.trim();
        if value.contains('\\') || name.is_empty() || name.contains([' ', ',', ';', '"']) {
            return Err(Malformed);
        }
        if name.eq_ignore_ascii_case("for") {
            element.client = address(value);
        } else if name.eq_ignore_ascii_case("proto") {
            element.scheme = Scheme::parse(value);
        } else if name.eq_ignore_ascii_case("host") {
            element.host = host(value);
        }
        let after = after.trim_start();
        let ends = after.is_empty() || after.starts_with(',');
        if ends {
            if elements.len() == MAX_ENTRIES {
                return Err(Malformed);
            }
            elements.push(std::mem::take(&mut element));
        }
        if after.is_empty() {
            return Ok(());
        }
        rest = after
            .strip_prefix([',', ';'])
            .ok_or(Malformed)?
            .trim_start();
    }
}

/// An address with or without a port, which is 0 then: `v4`, `v4:port`, `v6`, `[v6]` or `[v6]:port`.
fn address(text: &str) -> Option<SocketAddr> {
    let canonical = |ip: IpAddr, port| Some(SocketAddr::new(ip.to_canonical(), port));
    if let Ok(ip) = text.parse::<IpAddr>() {
        return canonical(ip, 0);
    }
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return canonical(inner.parse::<Ipv6Addr>().ok()?.into(), 0);
    }
    let socket = text.parse::<SocketAddr>().ok()?;
    canonical(socket.ip(), socket.port())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const PROXIES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "fd00::1"];

    fn of(fields: &[(&'static str, &str)]) -> (Option<String>, Option<Scheme>, Option<String>) {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            headers.append(*name, value);
        }
        let found = Forwarded::of(&headers, |ip| PROXIES.contains(&&*ip.to_string()));
        let client = found.client.map(|client| client.to_string());
        (client, found.scheme, found.host.map(str::to_owned))
    }

    fn client(fields: &[(&'static str, &str)]) -> Option<String> {
        of(fields).0
    }

    #[test]
    fn the_last_address_that_is_not_trusted_is_the_clients() {
        for (lists, expected) in [
            (&[][..], None),
            (&["192.0.2.7"], Some("192.0.2.7:0")),
            (&["192.0.2.7:1234"], Some("192.0.2.7:1234")),
            (&["::ffff:192.0.2.7"], Some("192.0.2.7:0")),
            (&["2001:db8::7"], Some("[2001:db8::7]:0")),
            (&["[2001:db8::7]"], Some("[2001:db8::7]:0")),
            (&["[2001:db8::7]:8"], Some("[2001:db8::7]:8")),
            // What a client wrote itself stands before what the proxy appended.
            (&["192.0.2.66, 192.0.2.7"], Some("192.0.2.7:0")),
            (&["nonsense, 192.0.2.7"], Some("192.0.2.7:0")),
            (&["192.0.2.66", "192.0.2.7"], Some("192.0.2.7:0")),
            (&["192.0.2.66,192.0.2.7 , 10.0.0.2"], Some("192.0.2.7:0")),
            (&["192.0.2.7", "10.0.0.2", "fd00::1"], Some("192.0.2.7:0")),
            // All are proxies: the first is the client.
            (&["10.0.0.2, 10.0.0.1"], Some("10.0.0.2:0")),
            // Malformed, before any that is not trusted.
            (&["192.0.2.7, nonsense"], None),
            (&["192.0.2.7, nonsense, 10.0.0.1"], None),
            (&["192.0.2.7,"], None),
            (&[""], None),
            (&["192.0.2.7", "ä"], None),
            (&["unknown"], None),
            (&["192.0.2.7:99999"], None),
            (&["192.0.2.7 192.0.2.8"], None),
            (&["fe80::1%eth0"], None),
        ] {
            let fields: Vec<_> = lists.iter().map(|it| ("x-forwarded-for", *it)).collect();
            assert_eq!(client(&fields).as_deref(), expected, "{lists:?}");
        }
        let many = vec!["10.0.0.1"; MAX_ENTRIES + 1].join(", ");
        assert_eq!(client(&[("x-forwarded-for", &many)]), None);
    }

    #[test]
    fn elements_of_forwarded() {
        for (line, expected, scheme, host) in [
            ("for=192.0.2.7", Some("192.0.2.7:0"), None, None),
            (
                "For=\"[2001:db8::7]:4711\";Proto=HTTPS;host=\"a.example:5000\"",
                Some("[2001:db8::7]:4711"),
                Some(Scheme::Https),
                Some("a.example:5000"),
            ),
            (
                "for=192.0.2.66;proto=http;host=b, for=192.0.2.7 ; proto=https;host=a, for=10.0.0.2;proto=http;host=c",
                Some("192.0.2.7:0"),
                Some(Scheme::Https),
                Some("a"),
            ),
            (
                "for=10.0.0.2;by=203.0.113.43;x=\"a,b;c\"",
                Some("10.0.0.2:0"),
                None,
                None,
            ),
            ("for=unknown;proto=https;host=a", None, None, None),
            ("for=_hidden;proto=https", None, None, None),
            ("for=192.0.2.7, proto=https", None, None, None),
            ("for=192.0.2.7;host=\"a\\\"b\"", None, None, None),
            ("for=192.0.2.7;host=\"a", None, None, None),
            ("for=192.0.2.7;", None, None, None),
            ("for=192.0.2.7 host=a", None, None, None),
            ("192.0.2.7", None, None, None),
            ("", None, None, None),
            (
                "for=192.0.2.7;host=a/b;proto=ftp",
                Some("192.0.2.7:0"),
                None,
                None,
            ),
        ] {
            let (client, found, of) = of(&[("forwarded", line)]);
            assert_eq!(client.as_deref(), expected, "{line}");
            assert_eq!((found, of.as_deref()), (scheme, host), "{line}");
        }
        let lines = [
            ("forwarded", "for=192.0.2.7"),
            ("forwarded", "for=10.0.0.1"),
        ];
        assert_eq!(client(&lines).as_deref(), Some("192.0.2.7:0"));
        let many = vec!["for=10.0.0.1"; MAX_ENTRIES + 1].join(", ");
        assert_eq!(client(&[("forwarded", &many)]), None);
    }

    #[test]
    fn fields_that_disagree_are_not_believed() {
        let list = ("x-forwarded-for", "192.0.2.7");
        for (line, expected) in [
            ("for=192.0.2.7", Some("192.0.2.7:0")),
            ("for=192.0.2.66", None),
            ("for=unknown", None),
        ] {
            let found = client(&[list, ("forwarded", line)]);
            assert_eq!(found.as_deref(), expected, "{line}");
        }
        for (fields, scheme, host) in [
            (
                &[
                    ("x-forwarded-proto", "http, https"),
                    ("x-forwarded-host", "b , a:1"),
                ][..],
                Some(Scheme::Https),
                Some("a:1"),
            ),
            (
                &[
                    ("x-forwarded-proto", "https"),
                    ("forwarded", "for=192.0.2.7;proto=http;host=a"),
                ],
                None,
                Some("a"),
            ),
            (
                &[("x-forwarded-proto", "ws"), ("x-forwarded-host", "u@a")],
                None,
                None,
            ),
            (&[("x-forwarded-host", "")], None, None),
        ] {
            let (_, found, of) = of(fields);
            assert_eq!((found, of.as_deref()), (scheme, host), "{fields:?}");
        }
    }
}
