//! v2 images for v1 clients: for any manifest, index and configuration, the ids of a chain are distinct, each
//! image's JSON names its id and its parent's, and the same image has the same chain.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::digest::{Algorithm, Digest};
use oci::v2_to_v1::{ClientPlatform, ImageManifest, chain, choose, top_id};
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|&byte| byte == b'\n');
    let (manifest, config) = bytes.split_at(at.unwrap_or(bytes.len()));
    let platform = ClientPlatform::of_agent(&String::from_utf8_lossy(config));
    let plain = |text: &str| (1..=16).contains(&text.len()) && text.is_ascii();
    assert!(plain(&platform.os) && plain(&platform.architecture));
    if let Ok(found) = choose(manifest, &platform) {
        assert!(!found.is_empty());
    }
    let Ok(image) = ImageManifest::parse(manifest) else {
        return;
    };
    let named = Digest::of(Algorithm::Sha256, manifest);
    let Ok(links) = chain(&named, &platform, &image, config) else {
        return;
    };
    assert_eq!(
        chain(&named, &platform, &image, config).as_ref(),
        Ok(&links)
    );
    assert_eq!(links.len(), image.layers.len().max(1));
    let mut parent = None;
    for (at, link) in links.iter().enumerate() {
        let json: Value = serde_json::from_str(&link.json).expect("JSON");
        assert_eq!(json["id"], link.id.as_str());
        assert_eq!(json["parent"].as_str(), parent);
        assert!(json["config"].is_object() && json["container_config"].is_object());
        assert!(links[..at].iter().all(|other| other.id != link.id));
        parent = Some(link.id.as_str());
    }
    assert_eq!(
        links.last().map(|link| &link.id),
        Some(&top_id(&named, &platform))
    );
});
