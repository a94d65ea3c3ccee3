//! Repository names, tags and digests: accepted texts match the grammar, and render unchanged.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::digest::Digest;
use oci::name::{Reference, Repository, Tag};

fuzz_target!(|text: &str| {
    assert_eq!(
        text.parse::<Repository>().is_ok(),
        is_repository(text),
        "{text:?}"
    );
    if let Ok(repository) = text.parse::<Repository>() {
        assert_eq!(repository.to_string(), text);
    }
    assert_eq!(text.parse::<Tag>().is_ok(), is_tag(text), "{text:?}");
    assert_eq!(text.parse::<Digest>().is_ok(), is_digest(text), "{text:?}");
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
        let json = serde_json::to_string(&digest).expect("JSON");
        assert_eq!(json, format!("\"{text}\""));
        assert_eq!(
            serde_json::from_str::<Digest>(&json).expect("read back"),
            digest
        );
    }
    match text.parse::<Reference>() {
        Ok(reference) => {
            assert_eq!(reference.to_string(), text);
            assert_eq!(matches!(reference, Reference::Digest(_)), is_digest(text));
        }
        Err(_) => assert!(!is_tag(text) && !is_digest(text)),
    }
});

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/…)*`, read from left to right.
fn is_repository(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let component = |text: &str| {
        let mut rest = text;
        loop {
            let after = rest.trim_start_matches(word);
            if after.len() == rest.len() {
                return false;
            }
            let next = after.trim_start_matches(|c| !word(c));
            match &after[..after.len() - next.len()] {
                "" => return true,
                "." | "_" | "__" => rest = next,
                dashes if dashes.bytes().all(|byte| byte == b'-') => rest = next,
                _ => return false,
            }
        }
    };
    text.len() <= 255 && text.split('/').all(component)
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= 128 && text.starts_with(word) && text.chars().all(|c| word(c) || ".-".contains(c))
}

fn is_digest(text: &str) -> bool {
    let hex = |hex: &str| hex.bytes().all(|byte| b"0123456789abcdef".contains(&byte));
    match text.split_once(':') {
        Some(("sha256", encoded)) => encoded.len() == 64 && hex(encoded),
        Some(("sha512", encoded)) => encoded.len() == 128 && hex(encoded),
        _ => false,
    }
}
