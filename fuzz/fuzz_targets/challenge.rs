//! `WWW-Authenticate`: names are tokens, and parsed challenges, rendered properly, parse to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::challenge::{Challenge, parse};

/// The longest accepted header, in bytes.
const LONGEST: usize = 8 << 10;

fuzz_target!(|header: &str| {
    let challenges = parse(header);
    assert!(header.len() <= LONGEST || challenges.is_empty());
    for challenge in &challenges {
        assert!(is_token(&challenge.scheme), "{:?}", challenge.scheme);
        for (name, value) in challenge.parameters() {
            assert!(is_token(name), "{name:?}");
            assert!(value.len() <= header.len());
            assert!(challenge.parameter(name).is_some());
        }
    }
    let written: Vec<String> = challenges.iter().map(write).collect();
    let written = written.join(", ");
    if written.len() <= LONGEST {
        assert_eq!(parse(&written), challenges, "{written}");
    }
});

/// `1*tchar`, in lower case.
fn is_token(text: &str) -> bool {
    let tchar = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&byte)
    };
    !text.is_empty() && text.bytes().all(tchar)
}

fn write(challenge: &Challenge) -> String {
    let parameters = challenge.parameters().map(|(name, value)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{name}=\"{value}\"")
    });
    let parameters: Vec<String> = parameters.collect();
    let separator = if parameters.is_empty() { "" } else { " " };
    format!("{}{separator}{}", challenge.scheme, parameters.join(", "))
}
