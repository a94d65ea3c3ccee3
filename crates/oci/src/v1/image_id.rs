//! Image ids, and the lists of them in a registry's answers.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::digest::Digest;

/// An image's id: 64 hexadecimal digits in lower case, or 16 of them.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(Arc<str>);

/// A text that is no image id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an image's id is 64 hexadecimal digits in lower case, or 16 of them")]
pub struct ImageIdError;

impl ImageId {
    /// 64 digits, or 16.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id made of the first 64 digits of a digest.
    pub fn of_digest(digest: &Digest) -> Self {
        let mut hex = digest.hex();
        hex.truncate(64);
        Self(hex.into())
    }
}

impl FromStr for ImageId {
    type Err = ImageIdError;

    fn from_str(text: &str) -> Result<Self, ImageIdError> {
        let digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if matches!(text.len(), 16 | 64) && text.bytes().all(digit) {
            Ok(Self(text.into()))
        } else {
            Err(ImageIdError)
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ids in an image list, `[{"id": …}, …]`, or in an ancestry, `["<id>", …]`. Other items are skipped.
pub fn ids_in_list(json: &[u8]) -> Vec<ImageId> {
    let Ok(serde_json::Value::Array(items)) = serde_json::from_slice(json) else {
        return Vec::new();
    };
    let id = |item: &serde_json::Value| {
        let text = item.as_str().or_else(|| item.get("id")?.as_str());
        text?.parse().ok()
    };
    items.iter().filter_map(id).collect()
}

/// The ids that tags point at: `{"<tag>": "<id>", …}`, or one tag's `"<id>"`.
pub fn ids_of_tags(json: &[u8]) -> Vec<ImageId> {
    let id = |value: &serde_json::Value| value.as_str()?.parse().ok();
    match serde_json::from_slice(json) {
        Ok(serde_json::Value::Object(tags)) => tags.values().filter_map(id).collect(),
        Ok(value) => id(&value).into_iter().collect(),
        Err(_) => Vec::new(),
    }
}

/// The id that a tag points at in a list of tags.
pub fn id_of_tag(json: &[u8], tag: &str) -> Option<ImageId> {
    let tags: serde_json::Value = serde_json::from_slice(json).ok()?;
    tags.get(tag)?.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids_in_answers() {
        let id = "0123456789abcdef".repeat(4);
        let short = "0123456789abcdef";
        let list = format!(r#"[{{"id": "{id}", "Tag": "1"}}, {{"id": 5}}, "{short}", null, "x"]"#);
        let both: Vec<ImageId> = [&*id, short].map(|id| id.parse().expect("an id")).into();
        assert_eq!(ids_in_list(list.as_bytes()), both);
        for nothing in [&b"[]"[..], b"{}", b"", b"[", b"\"0123456789abcdef\""] {
            assert_eq!(ids_in_list(nothing), []);
        }
        let tags = format!(r#"{{"1": "{id}", "2": "{short}", "3": "x"}}"#);
        assert_eq!(ids_of_tags(tags.as_bytes()).len(), 2);
        assert_eq!(id_of_tag(tags.as_bytes(), "2"), Some(both[1].clone()));
        assert_eq!(id_of_tag(tags.as_bytes(), "3"), None);
        assert_eq!(id_of_tag(b"[]", "1"), None);
        assert_eq!(ids_of_tags(format!("\"{short}\"").as_bytes()), both[1..]);
        assert_eq!(ids_of_tags(b"[]"), []);
    }
}
