//! cosign's signatures: a manifest whose layers are payloads, with their signatures in annotations. A payload names the
//! digest that it vouches for.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::digest::Digest;
use super::name::Tag;

/// The artifact type of signatures among the referrers of a manifest.
pub const ARTIFACT_TYPE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
/// The longest payload, in bytes.
pub const MAX_PAYLOAD: u64 = 64 << 10;

/// The media type of payloads.
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The type that a payload states.
const SIGNATURE_TYPE: &str = "cosign container image signature";
/// The most signatures of one manifest that are looked at: the newest, which cosign appends.
const MAX_SIGNATURES: usize = 32;
/// The longest signature in base64; one of ECDSA on P-256 has less than 100 bytes.
const MAX_ENCODED: usize = 256;

/// A signature of a signature manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureLayer {
    /// The blob that is signed.
    pub payload: Digest,
    /// The signature of its bytes.
    pub signature: Vec<u8>,
}

#[derive(Deserialize)]
struct SignatureManifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: String,
    #[serde(default)]
    size: u64,
    annotations: Option<Annotations>,
}

#[derive(Deserialize)]
struct Annotations {
    #[serde(rename = "dev.cosignproject.cosign/signature")]
    signature: Option<String>,
}

/// The tag under which cosign stores the signatures of a digest.
pub fn signature_tag(digest: &Digest) -> Option<Tag> {
    let name = digest.to_string().replacen(':', "-", 1);
    format!("{name}.sig").parse().ok()
}

/// The signatures of a signature manifest, the newest first. Anything else has none.
pub fn signatures(manifest: &[u8]) -> Vec<SignatureLayer> {
    let Ok(manifest) = serde_json::from_slice::<SignatureManifest>(manifest) else {
        return Vec::new();
    };
    let layers = manifest.layers.into_iter().rev();
    let signatures = layers.filter_map(|layer| {
        let encoded = layer.annotations?.signature?;
        let is_signature = layer.media_type == PAYLOAD
            && layer.size <= MAX_PAYLOAD
            && encoded.len() <= MAX_ENCODED;
        Some(SignatureLayer {
            payload: layer.digest.parse().ok().filter(|_| is_signature)?,
            signature: STANDARD.decode(encoded).ok()?,
        })
    });
    signatures.take(MAX_SIGNATURES).collect()
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    image: Image,
    #[serde(rename = "type")]
    signature_type: String,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// The digest that a payload vouches for; `None` if it is no payload of a signature.
pub fn vouched(payload: &[u8]) -> Option<Digest> {
    let Payload { critical } = serde_json::from_slice(payload).ok()?;
    let digest = critical.image.digest.parse().ok();
    digest.filter(|_| critical.signature_type == SIGNATURE_TYPE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const SIGNED: &str = "MEYCIQDiWa2mW1ZlYFKe7yPHXKf+Bc6HhwxlyBnsn14xck6gZQIhANXPgVgOXfuVepHa83+WjEvz+3uwVOH3ElclJiqd5xMi";

    fn digest(n: char) -> Digest {
        let text = format!("sha256:{}", n.to_string().repeat(64));
        text.parse().expect("a digest")
    }

    #[test]
    fn signature_manifests_are_read() {
        let layer = |media_type: &str, signature: serde_json::Value| {
            json!({
                "mediaType": media_type,
                "digest": digest('b').to_string(),
                "annotations": {"dev.cosignproject.cosign/signature": signature, "other": 7},
            })
        };
        let read = |layers: Vec<serde_json::Value>| {
            signatures(json!({"layers": layers}).to_string().as_bytes())
        };
        assert_eq!(read(vec![layer(PAYLOAD, json!(SIGNED))]).len(), 1);
        for bad in [
            layer("application/octet-stream", json!(SIGNED)),
            layer(PAYLOAD, json!(null)),
            layer(PAYLOAD, json!("no base64!")),
            layer(PAYLOAD, json!("A".repeat(MAX_ENCODED + 4))),
            json!({"mediaType": PAYLOAD, "digest": digest('b').to_string()}),
            {
                let mut long = layer(PAYLOAD, json!(SIGNED));
                long["size"] = json!(MAX_PAYLOAD + 1);
                long
            },
        ] {
            assert_eq!(read(vec![bad.clone()]), [], "{bad}");
        }
        // The newest come first, and old ones beyond the limit are not looked at.
        let many: Vec<_> = (0_u8..40)
            .map(|n| layer(PAYLOAD, json!(STANDARD.encode([n]))))
            .collect();
        let read = read(many);
        assert_eq!(
            (read.len(), &*read[0].signature),
            (MAX_SIGNATURES, &[39][..])
        );
        assert_eq!(signatures(b"no JSON"), []);
        let tag = signature_tag(&digest('a')).expect("a tag");
        assert_eq!(tag.as_str(), format!("sha256-{}.sig", "a".repeat(64)));
        assert_eq!(tag.companion_of(), Some(digest('a')));
    }

    #[test]
    fn payloads_vouch_for_a_digest() {
        let payload = |signature_type: &str, digest: &str| {
            let image = json!({"docker-manifest-digest": digest});
            let critical = json!({"identity": {}, "image": image, "type": signature_type});
            json!({"critical": critical, "optional": null}).to_string()
        };
        let a = digest('a').to_string();
        for (payload, expected) in [
            (payload(SIGNATURE_TYPE, &a), Some(digest('a'))),
            (payload("atomic container signature", &a), None),
            (payload(SIGNATURE_TYPE, "sha256:00"), None),
            ("{}".to_owned(), None),
            ("not json".to_owned(), None),
        ] {
            assert_eq!(vouched(payload.as_bytes()), expected, "{payload}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = signatures(&bytes);
            prop_assert_eq!(vouched(&bytes), None);
        }
    }
}
