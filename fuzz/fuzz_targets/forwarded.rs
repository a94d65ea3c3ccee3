//! Lines of `X-Forwarded-For`, and of `Forwarded` where they begin with `=`: the client is one that a line names, and what
//! stands before an address that is not trusted changes nothing.

#![no_main]

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use oci::authority;
use oci::forwarded::Forwarded;

fn is_proxy(ip: IpAddr) -> bool {
    ip.is_loopback()
}

fn of(lines: &[&str]) -> Option<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, line) = match line.strip_prefix('=') {
            Some(line) => ("forwarded", line),
            None => ("x-forwarded-for", *line),
        };
        headers.append(name, HeaderValue::from_str(line).ok()?);
    }
    Some(headers)
}

fuzz_target!(|text: &str| {
    let lines: Vec<&str> = text.lines().collect();
    let Some(headers) = of(&lines) else { return };
    let found = Forwarded::of(&headers, is_proxy);
    if let Some(host) = found.host {
        assert!(!host.is_empty() && authority::is_valid(host));
    }
    let has_standard = headers.contains_key("forwarded");
    if let Some(client) = found.client {
        assert_eq!(client.ip(), client.ip().to_canonical());
        if !is_proxy(client.ip()) && !has_standard {
            let before = [&["192.0.2.66, nonsense"][..], &lines].concat();
            let headers = of(&before).expect("values");
            assert_eq!(Forwarded::of(&headers, is_proxy).client, Some(client));
        }
    }
    // Appended by a proxy, an address is the client's, whatever came before.
    if !has_standard {
        let after = [&lines[..], &["192.0.2.7"]].concat();
        let headers = of(&after).expect("values");
        let client = Forwarded::of(&headers, is_proxy).client;
        assert_eq!(
            client.map(|it| it.to_string()).as_deref(),
            Some("192.0.2.7:0")
        );
    }
});
