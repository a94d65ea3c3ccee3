//! `Authorization`: a parsed header, rendered properly, parses to the same; one without credentials is anonymous.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use oci::authorization::{Authorization, parse};

fuzz_target!(|header: &[u8]| {
    let Ok(found) = parse(header) else { return };
    let written = match &found {
        Authorization::Anonymous => "Basic Og==".to_owned(),
        Authorization::Basic { user, password } => {
            assert!(!user.contains(':') && !user.contains('\0'), "{user:?}");
            assert!(!password.contains(&0));
            let plain = [user.as_bytes(), b":", password].concat();
            format!("Basic {}", STANDARD.encode(plain))
        }
        Authorization::Bearer(token) => {
            assert!(token.is_ascii() && !token.is_empty());
            format!("Bearer {token}")
        }
        Authorization::Token(token) => {
            assert!(token.is_ascii() && !token.is_empty());
            // The word is dropped at most twice, so a third one belongs to the token.
            format!("Token Token {token}")
        }
    };
    assert_eq!(parse(written.as_bytes()).as_ref(), Ok(&found), "{written}");
});
