//! Files of other registries' storage folders: what is read of them is a valid name, and no name leads outside.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::storage::{StoredManifest, link, manifest, v1_repository, v1_tag};

fuzz_target!(|bytes: &[u8]| {
    if let Some(digest) = link(bytes) {
        let text = std::str::from_utf8(bytes).expect("it was read");
        assert_eq!(text.trim_ascii(), digest.to_string());
    }
    if let Some(id) = v1_tag(bytes) {
        assert!(matches!(id.as_str().len(), 16 | 64));
        assert!(id.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
    if let StoredManifest::Whole { media_type, .. } = manifest(bytes) {
        assert!(!media_type.ends_with(".v1+prettyjws"), "{media_type}");
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (namespace, name) = text.split_once('\n').unwrap_or(("library", text));
    if let Some(repository) = v1_repository(namespace, name) {
        let repository = repository.as_str();
        assert!(!repository.starts_with("library/") || repository.matches('/').count() > 1);
        for component in repository.split('/') {
            assert!(
                !component.is_empty() && !component.starts_with(['.', '_']),
                "{repository}"
            );
        }
        assert!(repository.len() <= namespace.len() + 1 + name.len());
    }
});
