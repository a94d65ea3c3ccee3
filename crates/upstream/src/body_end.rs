//! How the end of an upstream's body is recognised. A body that only the end of its connection ends looks complete when
//! it was cut off (RFC 9112 §8).

use http::{HeaderMap, Version, header};

/// What ends a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// A length, a last chunk or the end of a stream: a body that was cut off is an error.
    Announced,
    /// The end of the connection, whatever the reason.
    Connection,
}

impl BodyEnd {
    pub(super) fn of(response: &reqwest::Response) -> Self {
        Self::from_head(response.version(), response.headers())
    }

    fn from_head(version: Version, headers: &HeaderMap) -> Self {
        if version >= Version::HTTP_2 {
            return Self::Announced;
        }
        let coding = headers
            .get_all(header::TRANSFER_ENCODING)
            .iter()
            .next_back();
        let announced = match coding {
            // It overrides any length (RFC 9112 §6.3).
            Some(codings) => {
                let last = codings.as_bytes().rsplit(|byte| *byte == b',').next();
                let last = last.unwrap_or_default().trim_ascii();
                last.eq_ignore_ascii_case(b"chunked")
            }
            None => headers.contains_key(header::CONTENT_LENGTH),
        };
        if announced {
            Self::Announced
        } else {
            Self::Connection
        }
    }
}

/// Whether these bytes are a complete JSON value of which no proper prefix is one as well, apart from white space.
pub fn is_whole_json(bytes: &[u8]) -> bool {
    let first = bytes.trim_ascii_start().first();
    // A prefix of a number is a number.
    let ends_itself = first.is_some_and(|byte| !byte.is_ascii_digit() && *byte != b'-');
    ends_itself && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_body() {
        use BodyEnd::{Announced, Connection};
        for (version, headers, end) in [
            (Version::HTTP_11, &[("content-length", "5")][..], Announced),
            (Version::HTTP_10, &[("content-length", "5")], Announced),
            (
                Version::HTTP_11,
                &[("transfer-encoding", "Chunked")],
                Announced,
            ),
            (
                Version::HTTP_11,
                &[("transfer-encoding", "gzip, chunked ")],
                Announced,
            ),
            (
                Version::HTTP_11,
                &[("transfer-encoding", "gzip"), ("content-length", "5")],
                Connection,
            ),
            (
                Version::HTTP_11,
                &[
                    ("transfer-encoding", "chunked"),
                    ("transfer-encoding", "gzip"),
                ],
                Connection,
            ),
            (Version::HTTP_11, &[], Connection),
            (Version::HTTP_10, &[], Connection),
            (Version::HTTP_2, &[], Announced),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().expect("a value"));
            }
            assert_eq!(
                BodyEnd::from_head(version, &map),
                end,
                "{version:?} {headers:?}"
            );
        }
    }

    #[test]
    fn no_beginning_of_whole_json_is_whole() {
        for text in [r#"{"a": [1, "}"]}"#, "[]", r#""id""#, "true", "null"] {
            assert!(is_whole_json(text.as_bytes()), "{text}");
            for end in 0..text.len() {
                assert!(!is_whole_json(&text.as_bytes()[..end]), "{text} {end}");
            }
        }
        assert!(is_whole_json(b" {}\n"));
        for text in ["", " ", "12", "-1", "{} {}", "<html>"] {
            assert!(!is_whole_json(text.as_bytes()), "{text}");
        }
    }
}
