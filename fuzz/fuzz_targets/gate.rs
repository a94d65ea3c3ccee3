//! What the gate reads of a registry: manifests, configurations, signature manifests and payloads.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::content::{ContentKind, MAX_NAMED, examine, platform_of};
use oci::cosign::{signature_tag, signatures, vouched};
use oci::references::references;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let examined = examine(bytes);
    assert!(examined.manifests.len() <= MAX_NAMED && examined.blobs.len() <= MAX_NAMED);
    let is_json = serde_json::from_slice::<Value>(bytes).is_ok();
    let named = examined.manifests.iter().chain(&examined.blobs);
    let all = references(bytes);
    for digest in named {
        // The two readers differ in which malformed members they pass over, but not in what a digest is.
        let text = String::from_utf8_lossy(bytes);
        let is_written = text.contains(&digest.hex()) || text.contains('\\');
        assert!(all.contains(digest) || is_written, "{digest}");
    }
    if !is_json {
        let begins = bytes.trim_ascii_start().first();
        let is_unknown = examined.kind == Some(ContentKind::Unknown);
        assert!(is_unknown || matches!(begins, Some(b'{' | b'[')));
    }
    if let ContentKind::Image(platform) = platform_of(bytes) {
        assert!(platform.is_known() && platform.accepts(&platform));
    }
    let found = signatures(bytes);
    assert!(found.len() <= 32);
    for digest in found
        .iter()
        .map(|layer| layer.payload)
        .chain(vouched(bytes))
    {
        // A tag is too short for SHA-512.
        if let Some(tag) = signature_tag(&digest) {
            assert_eq!(tag.companion_of(), Some(digest));
        }
    }
});
