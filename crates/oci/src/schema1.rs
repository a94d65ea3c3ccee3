//! The digest of signed schema 1 manifests (`…manifest.v1+prettyjws`).
//!
//! The document is a JSON object with an added last member, `signatures`. Its digest is that of the original
//! object: the first `formatLength` bytes and `formatTail`, which each signature repeats.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::digest::{Algorithm, Digest};

/// The end of the document after the signed part: `"signatures": […]}`, and nothing else that a reader could
/// take for a part of the manifest.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Appendix<'a> {
    #[serde(borrow)]
    signatures: Vec<Signature<'a>>,
}

#[derive(Deserialize)]
struct Signature<'a> {
    protected: &'a str,
}

/// `protected`, decoded.
#[derive(Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
struct Protected {
    format_length: usize,
    format_tail: String,
}

/// The signed object; `None` if the bytes are no signed manifest. The signatures are not verified: the digest
/// alone identifies the bytes.
pub fn payload(signed: &[u8]) -> Option<Vec<u8>> {
    let mark = memchr_last(signed, b"\"signatures\"")?;
    let start = signed[..mark]
        .iter()
        .rposition(|byte| !byte.is_ascii_whitespace())
        .filter(|comma| signed[*comma] == b',')?;
    let appendix = [b"{", &signed[start + 1..]].concat();
    let Appendix { signatures } = serde_json::from_slice(&appendix).ok()?;
    let mut all = signatures.iter().map(|signature| {
        let protected = URL_SAFE_NO_PAD.decode(signature.protected).ok()?;
        serde_json::from_slice::<Protected>(&protected).ok()
    });
    let protected = all.next()??;
    if !all.all(|other| other.as_ref() == Some(&protected)) || protected.format_length != start {
        return None;
    }
    let tail = URL_SAFE_NO_PAD.decode(&protected.format_tail).ok()?;
    let closes = tail.trim_ascii() == b"}";
    closes.then(|| [&signed[..start], &tail].concat())
}

/// The digest of a manifest: of the signed object for signed schema 1, else of the bytes.
pub fn digest_of(algorithm: Algorithm, manifest: &[u8]) -> Digest {
    match payload(manifest) {
        Some(payload) => Digest::of(algorithm, &payload),
        None => Digest::of(algorithm, manifest),
    }
}

/// The last position of `needle`.
fn memchr_last(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes
        .windows(needle.len())
        .rposition(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Signs as the reference implementation does.
    fn sign(payload: &str) -> String {
        let body = payload.trim_end().strip_suffix('}').expect("an object");
        let body_text = body.trim_end();
        let tail = &payload[body_text.len()..];
        let protected = format!(
            r#"{{"formatLength":{},"formatTail":"{}","time":"2015-01-01T00:00:00Z"}}"#,
            body_text.len(),
            URL_SAFE_NO_PAD.encode(tail)
        );
        let protected = URL_SAFE_NO_PAD.encode(protected);
        format!(
            "{body_text},\n   \"signatures\": [\n      {{\n         \"header\": {{\"alg\": \"ES256\"}},\n         \"signature\": \"xyz\",\n         \"protected\": \"{protected}\"\n      }}\n   ]\n}}"
        )
    }

    #[test]
    fn digest_covers_the_signed_payload() {
        let payload_of = |text: &str| payload(text.as_bytes());
        for plain in [
            "{\n   \"schemaVersion\": 1,\n   \"name\": \"a\"\n}",
            r#"{"schemaVersion":1,"history":["\"signatures\""]}"#,
        ] {
            let signed = sign(plain);
            assert_eq!(payload_of(&signed).as_deref(), Some(plain.as_bytes()));
            assert_eq!(
                digest_of(Algorithm::Sha256, signed.as_bytes()),
                Digest::of(Algorithm::Sha256, plain.as_bytes())
            );
            // Nothing may hide between the signed object and the signatures, or after them.
            let smuggled =
                signed.replacen(",\n   \"signatures\"", ",\"name\":\"b\",\"signatures\"", 1);
            assert_eq!(payload_of(&smuggled), None);
            let behind = format!("{},\"name\":\"b\"}}", &signed[..signed.len() - 1]);
            assert_eq!(payload_of(&behind), None);
            assert_eq!(payload_of(&format!("{signed}x")), None);
        }
        for other in [
            "",
            "{}",
            r#"{"schemaVersion":2}"#,
            r#"{"signatures":[]}"#,
            r#"{"a":1,"signatures":[]}"#,
            r#"{"a":1,"signatures":[{"protected":"!"}]}"#,
        ] {
            assert_eq!(payload_of(other), None, "{other}");
            let digest = Digest::of(Algorithm::Sha256, other.as_bytes());
            assert_eq!(digest_of(Algorithm::Sha256, other.as_bytes()), digest);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = payload(&bytes);
            let signed = [b"{\"a\":1,\"signatures\":[{\"protected\":\"".as_slice(), &bytes].concat();
            let _ = payload(&signed);
        }
    }
}
