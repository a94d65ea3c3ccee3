//! Queries of request targets: parsed strictly, rendered from the parsed pairs.
//!
//! Registries parse queries leniently, each in its own way: the first or the last of two equal keys counts,
//! keys match in any case, `;` separates pairs. A query that two of them could read differently is refused.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The characters that a rendered query does not escape.
pub(super) const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The limit of pairs in a query: no registry client sends a dozen.
const MAX_PAIRS: usize = 32;

/// The one key that may repeat: the tags of a manifest that is pushed by digest.
const REPEATABLE: &str = "tag";

/// A decoded query without duplicate keys, in its original order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Query(Vec<(String, String)>);

/// Why a query is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// A malformed escape, a control character, or bytes that are no UTF-8.
    #[error("the query is not valid percent-encoded UTF-8")]
    Encoding,
    /// This key occurs twice, in any case: two parsers may differ in which value counts.
    #[error("the query names {0:?} more than once")]
    Duplicate(String),
    /// More than 32 parameters.
    #[error("the query has more than {MAX_PAIRS} parameters")]
    TooMany,
    /// The endpoint has no such parameter.
    #[error("unknown parameter {0:?}")]
    Unknown(String),
    /// Some parsers split parameters at `;`, so the same text has two meanings.
    #[error("a ';' must be written %3B in this query")]
    Semicolon,
}

impl Query {
    /// Parses the text after `?`.
    ///
    /// # Errors
    /// [`QueryError`] for malformed escapes, control characters, more than 32 pairs, and a key that repeats in
    /// any case: two readers could disagree about which value counts.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            if pairs.len() == MAX_PAIRS {
                return Err(QueryError::TooMany);
            }
            let is_same = |(known, _): &(String, String)| known.eq_ignore_ascii_case(&key);
            let repeats = |known: &&(String, String)| known.0 != REPEATABLE || key != REPEATABLE;
            if pairs.iter().filter(repeats).any(is_same) {
                return Err(QueryError::Duplicate(key));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    /// The value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// The values of a key that may repeat.
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter().filter(move |(known, _)| known == key);
        pairs.map(|(_, value)| value.as_str())
    }

    /// The keys, in their original order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }

    /// Whether there is no parameter.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The memory it takes, in bytes.
    pub fn weight(&self) -> usize {
        let pair_size = |(key, value): &(String, String)| {
            size_of::<(String, String)>() + key.len() + value.len()
        };
        self.0.iter().map(pair_size).sum()
    }

    /// Checks that it has only these keys, in exactly this spelling.
    ///
    /// # Errors
    /// [`QueryError::Unknown`] for the first other key.
    pub fn check_keys(&self, known: &[&str]) -> Result<(), QueryError> {
        match self.keys().find(|key| !known.contains(key)) {
            Some(other) => Err(QueryError::Unknown(other.chars().take(64).collect())),
            None => Ok(()),
        }
    }

    /// Removes `key`.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.0.retain(|(known, _)| known != key);
        self
    }

    /// Sets `key` to `value`.
    #[must_use]
    pub fn with(self, key: &str, value: &str) -> Self {
        let mut query = self.without(key);
        query.0.push((key.to_owned(), value.to_owned()));
        query
    }

    /// Renders `?key=value&…`, or nothing when empty.
    pub fn render(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, "?");
        text
    }

    /// Renders `key=value&…`.
    pub fn render_pairs(&self) -> String {
        let mut text = String::new();
        self.write(&mut text, "");
        text
    }

    fn write(&self, text: &mut String, prefix: &str) {
        let mut separator = prefix;
        for (key, value) in &self.0 {
            let (key, value) = (
                utf8_percent_encode(key, UNRESERVED),
                utf8_percent_encode(value, UNRESERVED),
            );
            let _ = write!(text, "{separator}{key}={value}");
            separator = "&";
        }
    }
}

/// Removes the pairs of `key` from a raw query, and leaves the other bytes unchanged.
pub fn raw_without(query: &str, key: &str) -> String {
    let others = query.split('&').filter(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        !pair.is_empty() && decode(name).as_deref() != Ok(key)
    });
    others.collect::<Vec<_>>().join("&")
}

/// Decodes one form-encoded part, strictly.
fn decode(text: &str) -> Result<String, QueryError> {
    let bytes = text.as_bytes();
    let is_escape = |at: usize| {
        bytes
            .get(at + 1..at + 3)
            .is_some_and(|pair| pair.iter().all(u8::is_ascii_hexdigit))
    };
    if (0..bytes.len()).any(|at| bytes[at] == b'%' && !is_escape(at)) {
        return Err(QueryError::Encoding);
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced)
        .decode_utf8()
        .map_err(|_| QueryError::Encoding)?;
    if decoded.contains(char::is_control) {
        return Err(QueryError::Encoding);
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn raw_queries_keep_their_bytes() {
        for (query, without) in [
            ("_state=a%2bB-_~==&digest=x", "_state=a%2bB-_~==&digest=x"),
            ("ns=docker.io&_state=%41", "_state=%41"),
            ("a=1&ns=x&b=2", "a=1&b=2"),
            ("n%73=x&a", "a"),
            ("nsx=1", "nsx=1"),
            ("ns", ""),
            ("", ""),
        ] {
            assert_eq!(raw_without(query, "ns"), without, "{query}");
        }
    }

    #[test]
    fn queries() {
        let query = Query::parse("n=5&last=a%2Fb&ns=docker.io&flag").expect("valid");
        assert_eq!(query.value("last"), Some("a/b"));
        assert_eq!(query.value("flag"), Some(""));
        assert_eq!(query.value("none"), None);
        assert_eq!(
            query.clone().without("ns").render(),
            "?n=5&last=a%2Fb&flag="
        );
        assert_eq!(query.with("n", "6").value("n"), Some("6"));
        assert_eq!(Query::parse("").expect("valid").render(), "");
        assert_eq!(
            Query::parse("a=1&a=2"),
            Err(QueryError::Duplicate("a".into()))
        );
        assert_eq!(
            Query::parse("a=1&%61=2"),
            Err(QueryError::Duplicate("a".into()))
        );
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%00", "a=%0d%0aX: y"] {
            assert_eq!(Query::parse(bad), Err(QueryError::Encoding), "{bad}");
        }
    }

    #[test]
    fn pair_limit_and_repeated_keys() {
        let query = |n: usize| {
            let pairs: Vec<String> = (0..n).map(|i| format!("k{i}=1")).collect();
            Query::parse(&pairs.join("&")).map(|query| query.keys().count())
        };
        assert_eq!(query(32), Ok(32));
        assert_eq!(query(33), Err(QueryError::TooMany));
        assert_eq!(query(100_000), Err(QueryError::TooMany));
        for repeated in ["digest=a&DIGEST=b", "Ns=a&nS=b", "tag=a&Tag=b&TAG=c"] {
            let parsed = Query::parse(repeated);
            assert!(
                matches!(parsed, Err(QueryError::Duplicate(_))),
                "{repeated}"
            );
        }
        let tags = Query::parse("tag=a&x=1&tag=b").expect("repeated tags");
        assert_eq!(tags.values("tag").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(tags.check_keys(&["tag", "x"]), Ok(()));
        let unknown = QueryError::Unknown("x".into());
        assert_eq!(tags.check_keys(&["tag"]), Err(unknown));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC{0,60}") {
            let _ = Query::parse(&text);
        }

        #[test]
        fn query_round_trips(pairs in proptest::collection::btree_map("[a-z%&=+;é]{1,5}", "\\PC{0,9}", 0..4)) {
            let query = pairs.iter().fold(Query::default(), |query, (key, value)| query.with(key, value));
            let rendered = query.render();
            prop_assert_eq!(query.render_pairs(), rendered.trim_start_matches('?'));
            prop_assert_eq!(Query::parse(rendered.trim_start_matches('?')), Ok(query));
        }
    }
}
