//! `/api/v1/explain` and `roadstead explain`: what is said of a pull, and that it is what a pull then does.

mod agreement;
mod command;
mod effects;
mod links;
mod routing;
#[cfg(feature = "v1")]
mod v1;

use serde_json::json;

use super::*;

/// Users with the password `secret`: alice, bob.
const USERS: &str =
    "alice:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\nbob:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n";

/// The answer to a question.
#[track_caller]
fn ask_why(gateway: &Gateway, question: &Value) -> Reply {
    act(gateway, "/api/v1/explain", &question.to_string())
}

/// The explanation of a pull.
#[track_caller]
fn explain(gateway: &Gateway, question: &Value) -> Value {
    let reply = ask_why(gateway, question);
    assert_eq!(reply.status(), 200, "{question}: {reply:?}");
    serde_json::from_slice(&reply.body).expect("JSON")
}

/// The members of an explanation that are compared, one after the other.
#[track_caller]
fn assert_parts(told: &Value, expected: &[(&str, Value)]) {
    for (pointer, value) in expected {
        let found = told.pointer(pointer);
        assert_eq!(found, Some(value), "{pointer} in {told:#}");
    }
}

/// A sentence of an explanation.
#[track_caller]
fn assert_says(told: &Value, pointer: &str, words: &str) {
    let found = told.pointer(pointer).and_then(Value::as_str);
    assert!(
        found.is_some_and(|text| text.contains(words)),
        "{words:?} at {pointer} in {told:#}"
    );
}

/// A file of accounts in a folder that outlives the gateway.
pub(super) fn accounts(folder: &Path) -> std::path::PathBuf {
    let file = folder.join("users");
    std::fs::write(&file, USERS).expect("writable");
    file
}

/// Removes a blob from the store, as an eviction does.
fn evict(gateway: &Gateway, digest: &str) {
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    let file = gateway
        .store()
        .join("blobs/sha256")
        .join(&hex[..2])
        .join(hex);
    std::fs::remove_file(file).expect("it is stored");
}
