//! `store.bucket`: the bucket, and how the gateways that share it reach each other.

use std::path::PathBuf;

use super::Secret;
use super::fault::Report;
use super::keys::{Keys, mapping, path, text};
use super::origin::Origin;
use super::reference::{Absent, Key, Kind};
use super::tree::Node;
use super::units::Parsed;

/// The keys of `store.bucket`.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "url",
        Kind::Scalar("`s3://name/prefix`"),
        Absent::Required,
        "The bucket, and the prefix of its keys.",
    ),
    Key::new(
        "access_key",
        Kind::Secret("text"),
        Absent::Means("unsigned requests"),
        "Signs requests, together with `secret_key`.",
    ),
    Key::new(
        "secret_key",
        Kind::Secret("text"),
        Absent::Means("unsigned requests"),
        "Never shown in messages or logs.",
    ),
    Key::new(
        "endpoint",
        Kind::Scalar("URL"),
        Absent::Means("the cloud's own"),
        "The service's URL, if it is not AWS: `http://127.0.0.1:9000`.",
    ),
    Key::new(
        "region",
        Kind::Scalar("text"),
        Absent::Means("`us-east-1`"),
        "The region's name at the service.",
    ),
    Key::new(
        "advertise",
        Kind::Scalar("URL"),
        Absent::Nothing,
        "How the other gateways of the bucket reach this one: scheme, host and port of a listener, without a `client_ca`. They read a blob from the gateway that fetches it, while it does. It needs `secret_key`, the same for all of them.",
    ),
    Key::new(
        "advertise_ca",
        Kind::Scalar("path"),
        Absent::Nothing,
        "PEM file of the CAs of the others' certificates, added to the system's. Reloaded when it changes.",
    ),
];

/// An S3-compatible bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// The bucket's name.
    pub name: String,
    /// The prefix of every key, without slashes at either end; may be empty.
    pub prefix: String,
    /// The endpoint; `None`: the cloud's own for the region.
    pub endpoint: Option<Origin>,
    /// The service's name for it.
    pub region: Option<String>,
    /// `None`: unsigned requests.
    pub account: Option<BucketAccount>,
    /// How the other gateways of the bucket reach this one; only with an account.
    pub advertise: Option<Origin>,
    /// PEM file of CAs, trusted for the other gateways besides the system's roots.
    pub advertise_ca: Option<PathBuf>,
}

/// The account that signs requests to a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketAccount {
    /// The name of the account.
    pub access_key: Secret,
    /// The signing key.
    pub secret_key: Secret,
}

pub(super) fn bucket(node: &Node, report: &mut Report) -> Bucket {
    mapping(node, KEYS, report, |keys| {
        let (name, prefix) = keys
            .required("url", r#""s3://name/prefix""#, bucket_url)
            .unwrap_or_default();
        let account = match (keys.secret("access_key"), keys.secret("secret_key")) {
            (Some(access_key), Some(secret_key)) => Some(BucketAccount {
                access_key,
                secret_key,
            }),
            _ => None,
        };
        for (one, other) in [("access_key", "secret_key"), ("secret_key", "access_key")] {
            if let (Some(one), None) = (node.entry(one), node.entry(other)) {
                let message = format!("without {other}; write both, or neither");
                keys.report
                    .fault(one.key_at, format!("{} {message}", one.key));
            }
        }
        Bucket {
            name,
            prefix,
            endpoint: keys.value("endpoint", Origin::parse),
            region: keys.value("region", text),
            advertise: advertise(keys, node, account.as_ref()),
            advertise_ca: keys.value("advertise_ca", path),
            account,
        }
    })
}

/// The URL of this gateway for the others, with its cross-checks.
fn advertise(
    keys: &mut Keys<'_, '_>,
    node: &Node,
    account: Option<&BucketAccount>,
) -> Option<Origin> {
    let advertise = keys.value("advertise", advertised_url);
    if let (Some(ca), None) = (node.entry("advertise_ca"), node.entry("advertise")) {
        let message = "advertise_ca without advertise; write both, or neither";
        keys.report.fault(ca.key_at, message);
    }
    let at = node.entry("advertise")?.key_at;
    if account.is_none() && node.entry("secret_key").is_none() {
        let message = "advertise without secret_key, by which the gateways know each other; write access_key and secret_key";
        keys.report.fault(at, message);
    }
    if advertise.as_ref().is_some_and(Origin::is_plain_remote) {
        let message =
            "content crosses the network between the gateways unencrypted; write https://";
        keys.report.warn(at, message);
    }
    advertise
}

fn advertised_url(text: &str) -> Parsed<Origin> {
    if text.contains('@') {
        return Err("holds a user or password; write scheme, host and port only".to_owned());
    }
    Origin::parse(text)
}

fn bucket_url(text: &str) -> Parsed<(String, String)> {
    let rest = text.strip_prefix("s3://").unwrap_or_default();
    let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
    if name.is_empty() || !name.chars().all(known) {
        return Err("is not a bucket; write s3://name or s3://name/prefix".to_owned());
    }
    Ok((name.to_owned(), prefix.trim_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::assert_faults;

    #[test]
    fn faults_of_the_bucket() {
        assert_faults(&[
            (
                "store: {bucket: s3}",
                &["1:17: expected keys and values here, not a single value; write `url: …`"],
            ),
            (
                r#"store: {bucket: {endpoint: "http://h", access_key: a}}"#,
                &[
                    r#"1:17: url is missing here; write `url: "s3://name/prefix"`"#,
                    "1:40: access_key without secret_key; write both, or neither",
                ],
            ),
            (
                r#"store: {bucket: {url: "https://bucket", secret_key: ""}}"#,
                &[
                    r#"1:23: "https://bucket" is not a bucket; write s3://name or s3://name/prefix"#,
                    "1:41: secret_key without access_key; write both, or neither",
                    "1:53: secret_key is empty; write it, or leave secret_key out",
                ],
            ),
            (
                r#"store: {bucket: {url: "s3://b", access_key: k, secret_key: s, advertise: "https://me:pw@h"}}"#,
                &[r#"1:74: "…@h" holds a user or password; write scheme, host and port only"#],
            ),
            (
                r#"store: {bucket: {url: "s3://b", access_key: k, secret_key: s, advertise: "https://h/p?q"}}"#,
                &[
                    r#"1:74: "https://h/p?…" holds a query or fragment; write scheme, host and port only"#,
                ],
            ),
            (
                r#"store: {bucket: {url: "s3://b", advertise: "https://h:5000"}}"#,
                &[
                    "1:33: advertise without secret_key, by which the gateways know each other; write access_key and secret_key",
                ],
            ),
            (
                r#"store: {bucket: {url: "s3://b", access_key: k, secret_key: s, advertise: "http://h"}}"#,
                &[
                    "warning: 1:63: content crosses the network between the gateways unencrypted; write https://",
                ],
            ),
            (
                r#"store: {bucket: {url: "s3://b", advertise_ca: ca.pem}}"#,
                &["1:33: advertise_ca without advertise; write both, or neither"],
            ),
            (
                r#"store: {bucket: {url: "s3://b", access_key: k, secret_key: [hunter2]}}"#,
                &[
                    "1:60: expected a single value here, not a list; write one word, in quotes if need be",
                ],
            ),
        ]);
    }
}
