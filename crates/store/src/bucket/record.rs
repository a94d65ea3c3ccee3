//! Records in the bucket: pointers and links with their freshness, for all gateways with the same account at an
//! upstream. They grant access, so they are parsed strictly, and one that a node withdrew is not used again.

use std::sync::PoisonError;

use object_store::ObjectStoreExt as _;
use object_store::path::Path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outbox::KeyChange;
use super::{Bucket, SMALL_TIMEOUT};
use crate::record::{Record, RecordKey};
use telemetry::metrics::{self, BucketEvent};

/// The longest record, in bytes.
const MAX_LENGTH: u64 = 64 << 10;

/// A record with its path, so that a moved object is detected.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SharedRecord {
    /// Relative to `repositories`, as on disk.
    path: String,
    record: Value,
}

impl Bucket {
    /// Reads a record, if the bucket has a valid one.
    pub(crate) async fn record<V: Record>(&self, record: &RecordKey) -> Option<V> {
        let (key, path) = self.place(record)?;
        let outbox = &self.inner.outbox;
        if !outbox.trusts(key.as_ref()) {
            return None;
        }
        let read = self.read(SMALL_TIMEOUT, async {
            let got = self.inner.s3.get(&key).await?;
            if got.meta.size > MAX_LENGTH {
                return Ok(None);
            }
            got.bytes().await.map(Some)
        });
        let read = read.await.ok()?;
        let Some(bytes) = read else {
            metrics::bucket(BucketEvent::Miss);
            return None;
        };
        let record = bytes.and_then(|bytes| parse::<V>(&path, &bytes));
        if record.is_none() {
            metrics::bucket(BucketEvent::WrongBytes);
            tracing::warn!(%key, "a record in the bucket is invalid; the upstream is asked again");
            return None;
        }
        metrics::bucket(BucketEvent::Hit);
        record.filter(|record| outbox.trusts_confirmation(record.checked_at().unwrap_or(0)))
    }

    /// Shares a record with other gateways, in the background.
    pub(crate) fn put_record<V: Serialize>(&self, key: &RecordKey, record: &V) {
        let Some((key, path)) = self.place(key) else {
            return;
        };
        let shared = serde_json::to_value(record)
            .and_then(|record| serde_json::to_vec(&SharedRecord { path, record }));
        if let Ok(json) = shared {
            self.change(&key, KeyChange::Put(json.into()));
        }
    }

    /// Withdraws a record. This gateway does not use it from now on.
    pub(crate) fn remove_record(&self, key: &RecordKey) {
        if let Some((key, _)) = self.place(key) {
            self.change(&key, KeyChange::Withdraw);
        }
    }

    /// The object and the path of a record; `None` if its kind or its registry is not shared.
    fn place(&self, key: &RecordKey) -> Option<(Path, String)> {
        let views = self.inner.views.read();
        let views = views.unwrap_or_else(PoisonError::into_inner);
        let view = views.of(key.registry())?;
        let path = key.shared_path()?;
        let (registry, below) = path.split_once('/')?;
        let object = self.key(&format!("repositories/{registry}/{view}/{below}"));
        Some((object, path))
    }
}

/// Parses a record strictly: its path matches, it has no unknown fields, and its media type is a valid header
/// value.
fn parse<V: Serialize + DeserializeOwned>(path: &str, bytes: &[u8]) -> Option<V> {
    let shared: SharedRecord = serde_json::from_slice(bytes).ok()?;
    let record: V = serde_json::from_value(shared.record.clone()).ok()?;
    let same = serde_json::to_value(&record).ok()? == shared.record;
    let media_type = shared.record.get("media_type").and_then(Value::as_str);
    let is_header_value = media_type.is_none_or(|media_type| {
        (1..256).contains(&media_type.len())
            && media_type
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ')
    });
    (shared.path == path && same && is_header_value).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pointer;

    #[test]
    fn records_are_parsed_strictly() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let good = format!(
            r#"{{"path":"r/a/_tags/full/t","record":{{"digest":"{digest}","media_type":"a/b","size":3,"checked_at":7}}}}"#
        );
        let read = |json: &str| parse::<Pointer>("r/a/_tags/full/t", json.as_bytes());
        assert_eq!(read(&good).map(|pointer| pointer.checked_at), Some(7));
        for (what, from, to) in [
            ("another name", "full/t", "full/u"),
            ("an unknown field", r#""size":3"#, r#""size":3,"more":1"#),
            (
                "an unknown field outside",
                r#""path""#,
                r#""more":1,"path""#,
            ),
            ("no digest", "sha256:", "sha256:x"),
            ("no length", r#""size":3"#, r#""size":-3"#),
            ("no time", r#","checked_at":7"#, ""),
            ("an invalid header", "a/b", r"a/b\r\nX: y"),
            ("an empty header", "a/b", ""),
            ("cut off", "}}", "}"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good, "{what}");
            assert_eq!(read(&bad), None, "{what}");
        }
    }
}
