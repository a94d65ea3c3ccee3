//! Manifests and `Accept`: facts come from the manifest only, and a client's class does not depend on the
//! layout of its header.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::client::Generation;
use oci::digest::{Algorithm, Digest};
use oci::manifest::{
    AcceptClass, DOCKER_SCHEMA1_SIGNED, ManifestFacts, OCI_INDEX, OCI_MANIFEST, facts,
};
use oci::schema1;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let found = facts(bytes);
    let _: Digest = schema1::digest_of(Algorithm::Sha256, bytes);
    if let Some(payload) = schema1::payload(bytes) {
        // A payload is a prefix of the signed document and its tail.
        assert!(payload.len() <= bytes.len(), "{}", payload.len());
    }
    // `facts` ignores unknown members and their errors, so this parser accepts less.
    let Ok(body) = serde_json::from_slice::<Value>(bytes) else {
        let begins = bytes.trim_ascii_start().first();
        assert!(found == ManifestFacts::default() || matches!(begins, Some(b'{' | b'[')));
        return accept_holds(bytes);
    };
    if let Some(subject) = found.subject {
        let said = body["subject"]["digest"]
            .as_str()
            .or(body["subject"][0].as_str());
        assert_eq!(
            said.and_then(|said| said.parse::<Digest>().ok()),
            Some(subject)
        );
    }
    if let Some(found) = found.media_type.as_deref()
        && body.is_object()
    {
        match &body["mediaType"] {
            Value::Null => {
                let guesses = [DOCKER_SCHEMA1_SIGNED, OCI_INDEX, OCI_MANIFEST];
                assert!(guesses.contains(&found), "{found}");
            }
            said => assert_eq!(said.as_str(), Some(found)),
        }
    }
});

fn accept_holds(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let lines: Vec<&str> = text.lines().collect();
    for client in [Generation::V1, Generation::Schema1, Generation::Modern] {
        let class = AcceptClass::of(lines.iter().copied(), client);
        assert_eq!(AcceptClass::of([lines.join(",").as_str()], client), class);
        let loud: Vec<String> = lines.iter().map(|line| line.to_ascii_uppercase()).collect();
        assert_eq!(
            AcceptClass::of(loud.iter().map(String::as_str), client),
            class
        );
        let backwards = lines.iter().rev().copied();
        assert_eq!(AcceptClass::of(backwards, client), class);
    }
}
