//! The key and the signatures were made with openssl: `openssl ecparam -genkey -name prime256v1`,
//! `openssl dgst -sha256 -sign`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

const KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8ct7ce7LVAls+haIHnO/RylHLr4g
5awHgs/42G2IouCeTCQFGnOHA7kihrCYdNivusU7Xyz/FBQgQeP+flWPtg==
-----END PUBLIC KEY-----
";
const OTHER_KEY: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEk/09XdLjN/DpibydCH9ZwWKEsSXP
vKP8AIlHkyK414IiMY2Q2aVclizlJo6NFyZynFuTQphnOObzZDRIBO2OWQ==
-----END PUBLIC KEY-----
";
const P384_KEY: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEoxcY8IlTMWZdKdMIwk95ljMQ56WUaakL
WJfivyLY8ukrjVk1aFU1CFvLiyeh3aLmEfsJ1dZLLJabN4HWxbYOy+JjYWZ9nKjL
0F9tW7SdULOkLd7l/h+WuJY2COLszteg
-----END PUBLIC KEY-----
";
/// Of [`payload`] by [`KEY`].
const SIGNED: &str = "MEYCIQDiWa2mW1ZlYFKe7yPHXKf+Bc6HhwxlyBnsn14xck6gZQIhANXPgVgOXfuVepHa83+WjEvz+3uwVOH3ElclJiqd5xMi";
/// The same with another type.
const SIGNED_OTHER_TYPE: &str = "MEYCIQDhcXm6iG/mM7wKsysiVm8/JV5oh4IyY/ReXndepj3uIAIhAMZyUaLucqjSup/a7zlPew6nEoSzAwDqQjEHk47L5gEO";
/// Of `not json`.
const SIGNED_NONSENSE: &str = "MEUCIBeDkEVH6MLaVoVvSr9PCR/Z85S/lYbO8teweBvoCam0AiEA9PN2ANNweF0wtcA1Ir4oqbbJOF/nco+Z9n1oNLO3dzA=";

fn digest(n: char) -> Digest {
    let text = format!("sha256:{}", n.to_string().repeat(64));
    text.parse().expect("a digest")
}

fn key(pem: &str) -> PublicKey {
    PublicKey::parse(pem.as_bytes()).expect("a key")
}

fn payload(signature_type: &str) -> String {
    format!(
        r#"{{"critical":{{"identity":{{"docker-reference":"r/a"}},"image":{{"docker-manifest-digest":"{}"}},"type":"{signature_type}"}},"optional":null}}"#,
        digest('a')
    )
}

fn layer(signature: &str) -> SignatureLayer {
    SignatureLayer {
        payload: digest('b'),
        signature: STANDARD.decode(signature).expect("base64"),
    }
}

#[test]
fn keys_are_parsed() {
    assert_ne!(key(KEY).fingerprint(), key(OTHER_KEY).fingerprint());
    // Anything may stand around the block.
    let commented = format!("# a key\n{KEY}");
    assert_eq!(key(&commented).fingerprint(), key(KEY).fingerprint());
    let off_curve = KEY.replace("8ct7", "8ct8");
    for (pem, error) in [
        ("", KeyError::NoKey),
        ("MFkwEwYHKoZI", KeyError::NoKey),
        (&KEY.replace("PUBLIC", "PRIVATE"), KeyError::NoKey),
        (P384_KEY, KeyError::Unsupported),
        (&off_curve, KeyError::Unsupported),
    ] {
        assert_eq!(PublicKey::parse(pem.as_bytes()).err(), Some(error), "{pem}");
    }
}

#[test]
fn signatures_by_openssl_are_verified() {
    let good = payload("cosign container image signature");
    let (ours, other) = (key(KEY), key(OTHER_KEY));
    let found = |payload: &str, signature: &str, keys: &[PublicKey], of: char| {
        is_signature_of(&digest(of), payload.as_bytes(), &layer(signature), keys)
    };
    let fingerprint = Some(ours.fingerprint());
    let both = [other.clone(), ours.clone()];
    assert_eq!(
        found(&good, SIGNED, std::slice::from_ref(&ours), 'a'),
        fingerprint
    );
    assert_eq!(found(&good, SIGNED, &both, 'a'), fingerprint);
    // Another key, another digest, another payload, a truncated signature, no key.
    assert_eq!(found(&good, SIGNED, &[other], 'a'), None);
    assert_eq!(found(&good, SIGNED, &both, 'b'), None);
    let changed = good.replace("r/a", "r/b");
    assert_eq!(found(&changed, SIGNED, &both, 'a'), None);
    assert_eq!(found(&good, &SIGNED[..SIGNED.len() - 4], &both, 'a'), None);
    assert_eq!(found(&good, "", &both, 'a'), None);
    assert_eq!(found(&good, SIGNED, &[], 'a'), None);
    // Well signed, but no vouching for an image.
    let other_type = payload("atomic container signature");
    assert_eq!(found(&other_type, SIGNED_OTHER_TYPE, &both, 'a'), None);
    assert_eq!(found("not json", SIGNED_NONSENSE, &both, 'a'), None);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = PublicKey::parse(&bytes);
        let layer = SignatureLayer { payload: digest('b'), signature: bytes.clone() };
        let verified = is_signature_of(&digest('a'), &bytes, &layer, &[key(KEY)]);
        prop_assert_eq!(verified, None);
    }
}
