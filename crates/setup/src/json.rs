//! daemon.json: a value before the others of a list, with everything else byte for byte as it was.

use std::ops::Range;

use serde_json::{Map, Value};

use super::hunk::{Hunk, apply};
use super::merge::{MergeError, expect_same};

/// Inserts `value` as the first item of the list that the object has under `key`, unless it is in it.
///
/// # Errors
/// [`MergeError`] if the text is no JSON object, or has something else under the key.
pub(crate) fn first_in_list(text: &str, key: &str, value: &str) -> Result<Vec<Hunk>, MergeError> {
    let (name, item) = (quoted(key), quoted(value));
    if text.trim().is_empty() {
        return Ok(vec![Hunk {
            at: 0,
            old: text.to_owned(),
            new: format!("{{\n  {name}: [{item}]\n}}\n"),
        }]);
    }
    let mut object = object(text)?;
    let members = members(text);
    let own: Vec<&Member> = members.iter().filter(|member| member.key == key).collect();
    let hunk = match (own.as_slice(), object.get(key)) {
        ([], _) => {
            let open = text.find('{').map_or(0, |at| at + 1);
            let first = members.first();
            let between = first.map_or("", |first| &text[open..first.start]);
            let comma = if first.is_some() { "," } else { "" };
            Hunk::insert(open, format!("{between}{name}: [{item}]{comma}"))
        }
        ([_], Some(Value::Array(items))) if items.contains(&value.into()) => return Ok(Vec::new()),
        ([member], Some(Value::Array(items))) => {
            let comma = if items.is_empty() { "" } else { ", " };
            Hunk::insert(member.value.start + 1, format!("{item}{comma}"))
        }
        ([_], _) => return Err(unsuitable(format!("{key} is not a list; make it one"))),
        _ => return Err(unsuitable(format!("{key} is there twice; keep one"))),
    };
    let hunks = vec![hunk];
    let list = object
        .entry(key)
        .or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(items) = list {
        items.insert(0, value.into());
    }
    expect_same(&object, &self::object(&apply(text, &hunks))?)?;
    Ok(hunks)
}

fn unsuitable(message: String) -> MergeError {
    MergeError::Unsuitable(message)
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn object(text: &str) -> Result<Map<String, Value>, MergeError> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(MergeError::Unparsable("it is not a JSON object".to_owned())),
        Err(error) => Err(MergeError::Unparsable(error.to_string())),
    }
}

/// A member of the outermost object.
struct Member {
    key: String,
    /// Where its key begins.
    start: usize,
    value: Range<usize>,
}

/// The members of the outermost object of a text that is valid JSON.
fn members(text: &str) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    let mut key: Option<Range<usize>> = None;
    let (mut depth, mut at) = (0_usize, 0);
    let bytes = text.as_bytes();
    while let Some(&byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'"' => {
                at = string_end(bytes, start);
                if depth == 1 && key.is_none() {
                    key = Some(start..at);
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => key = None,
            b':' if depth == 1 => {
                if let Some(key) = &key {
                    let value = at + text[at..].len() - text[at..].trim_start().len();
                    members.push(Member {
                        key: serde_json::from_str(&text[key.clone()]).unwrap_or_default(),
                        start: key.start,
                        value: value..value,
                    });
                }
            }
            _ => {}
        }
    }
    members
}

/// The place after a string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b'"' => return at + 1,
            b'\\' => 2,
            _ => 1,
        };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "http://127.0.0.1:5001";

    fn merged(text: &str) -> Result<String, String> {
        let hunks = first_in_list(text, "registry-mirrors", URL);
        hunks
            .map(|hunks| apply(text, &hunks))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_mirror_comes_first_and_the_rest_stays() {
        let url = format!("{URL:?}");
        for (before, after) in [
            ("", "{\n  \"registry-mirrors\": [URL]\n}\n"),
            (" \n", "{\n  \"registry-mirrors\": [URL]\n}\n"),
            ("{}", "{\"registry-mirrors\": [URL]}"),
            ("{ }\n", "{\"registry-mirrors\": [URL] }\n"),
            (
                "{\n\t\"debug\": true,\n\t\"x\": {\"registry-mirrors\": 1}\n}\n",
                "{\n\t\"registry-mirrors\": [URL],\n\t\"debug\": true,\n\t\"x\": {\"registry-mirrors\": 1}\n}\n",
            ),
            (
                r#"{"a":"registry-mirrors","registry-mirrors":[],"z":1}"#,
                r#"{"a":"registry-mirrors","registry-mirrors":[URL],"z":1}"#,
            ),
            (
                "{\"a\": \"}\\\"{\", \"registry-mirrors\": [\n  \"https://other\"\n]}",
                "{\"a\": \"}\\\"{\", \"registry-mirrors\": [URL, \n  \"https://other\"\n]}",
            ),
            (
                r#"{"registry\u002dmirrors": ["a"]}"#,
                r#"{"registry\u002dmirrors": [URL, "a"]}"#,
            ),
        ] {
            let after = after.replace("URL", &url);
            assert_eq!(merged(before).as_deref(), Ok(&*after), "{before}");
            assert_eq!(merged(&after).as_deref(), Ok(&*after), "twice");
        }
        let second = format!(r#"{{"registry-mirrors": ["https://other", {url}]}}"#);
        assert_eq!(merged(&second), Ok(second), "it is in the list already");
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for (text, words) in [
            ("{", "cannot be parsed"),
            ("[]", "it is not a JSON object"),
            ("{\"a\": 1,}", "cannot be parsed"),
            ("// a comment\n{}", "cannot be parsed"),
            ("\u{feff}{}", "cannot be parsed"),
            (
                r#"{"registry-mirrors": "a"}"#,
                "registry-mirrors is not a list",
            ),
            (
                r#"{"registry-mirrors": null}"#,
                "registry-mirrors is not a list",
            ),
            (
                r#"{"registry-mirrors": [], "registry-mirrors": []}"#,
                "registry-mirrors is there twice",
            ),
        ] {
            let error = merged(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
