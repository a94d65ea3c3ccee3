//! Compares the responses to a request and to its twin, which names decoys.

use testkit::http::Reply;

/// Headers whose values differ between any two responses.
const PASSING: [&str; 8] = [
    "date",
    "x-request-id",
    "location",
    "docker-upload-uuid",
    "x-docker-token",
    "retry-after",
    "age",
    "connection",
];

/// Finds the first difference between the responses to a request and to its twin. `pairs` are decoys and the values
/// they replaced.
pub fn differences(reply: &Reply, twin: &Reply, pairs: &[(String, String)]) -> Option<String> {
    let busy = |reply: &Reply| reply.status() >= 500 || reply.status() == 429;
    if busy(reply) || busy(twin) {
        return None;
    }
    if reply.status() != twin.status() {
        return Some(format!("{} and {}", reply.status(), twin.status()));
    }
    let undone = |text: &str| {
        let pairs = pairs.iter();
        pairs.fold(text.to_owned(), |text, (decoy, secret)| {
            text.replace(decoy, secret)
        })
    };
    let (ours, theirs) = (headers(reply, str::to_owned), headers(twin, undone));
    let differing = ours.iter().zip(&theirs).find(|(one, other)| one != other);
    if let Some(((name, one), (other_name, other))) = differing {
        return Some(format!("{name}: {one} and {other_name}: {other}"));
    }
    if ours.len() != theirs.len() {
        return Some(format!("{} and {} headers", ours.len(), theirs.len()));
    }
    let (one, other) = (reply.text(), undone(&twin.text()));
    // No two tokens are equal.
    let is_token = one.contains("\"access_token\"") && other.contains("\"access_token\"");
    (one != other && !is_token).then(|| "the bodies".to_owned())
}

/// The headers to compare, sorted.
fn headers(reply: &Reply, value_of: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = reply
        .head
        .headers
        .iter()
        .map(|(name, value)| {
            let name = name.to_ascii_lowercase();
            // The second request may hit what the first one stored.
            let warmed = name == "cache-status" && reply.status() < 400;
            let passing = warmed || PASSING.contains(&&*name);
            let value = if passing {
                String::new()
            } else {
                value_of(value)
            };
            // The remaining freshness lifetime decreases.
            let value = value.split("; ttl=").next().unwrap_or_default().to_owned();
            (name, value)
        })
        .collect();
    headers.sort();
    headers
}
