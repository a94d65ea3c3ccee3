//! Byte ranges and conditional requests (RFC 9110 §13 and §14), as far as one representation of a
//! known length needs them.

/// One `range-spec` of a `Range: bytes=…` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `a-` or `a-b`; both ends included.
    From { first: u64, last: Option<u64> },
    /// `-n`: the last n bytes.
    Suffix(u64),
}

/// A satisfiable range: `first..end`, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Span {
    /// The length in bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a satisfiable range is never empty"
    )]
    pub const fn len(&self) -> u64 {
        self.end - self.first
    }

    /// `Content-Range` of a 206.
    pub fn content_range(&self, size: u64) -> String {
        format!("bytes {}-{}/{size}", self.first, self.end - 1)
    }
}

/// What to send of a representation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// 200 with everything.
    Whole,
    /// 206.
    Part(Span),
    /// 416.
    Unsatisfiable,
}

/// Parses a `Range` header. `None` for what RFC 9110 §14.2 lets a server ignore: other units,
/// malformed sets, and more than one range.
pub fn parse(header: &str) -> Option<RangeSpec> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    match (first, last) {
        ("", "") => None,
        ("", suffix) => position(suffix).map(RangeSpec::Suffix),
        (first, "") => Some(RangeSpec::From {
            first: position(first)?,
            last: None,
        }),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(RangeSpec::From {
                first,
                last: Some(last),
            })
        }
    }
}

/// `1*DIGIT`; a number beyond u64 is beyond every representation, so it saturates.
fn position(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u64::MAX))
}

/// Applies a range to a representation of `size` bytes. An empty representation satisfies none.
pub fn select(range: Option<RangeSpec>, size: u64) -> Selection {
    let span = match range {
        None => return Selection::Whole,
        Some(RangeSpec::From { first, last }) => {
            let end = last.map_or(size, |last| last.saturating_add(1).min(size));
            Span { first, end }
        }
        Some(RangeSpec::Suffix(length)) => Span {
            first: size.saturating_sub(length),
            end: size,
        },
    };
    if span.first < span.end {
        Selection::Part(span)
    } else {
        Selection::Unsatisfiable
    }
}

/// `If-None-Match` against a strong entity tag without quotes: weak comparison (RFC 9110 §13.1.2).
/// A bare digest is accepted as well, since the reference implementation accepts it.
pub fn if_none_match(header: &str, tag: &str) -> bool {
    header.split(',').map(str::trim).any(|candidate| {
        let candidate = candidate.strip_prefix("W/").unwrap_or(candidate);
        candidate == "*" || unquote(candidate) == tag
    })
}

/// `If-Range` against a strong entity tag without quotes: strong comparison (RFC 9110 §13.1.5). A date
/// never matches, since nothing here has a modification date.
pub fn if_range(header: &str, tag: &str) -> bool {
    let header = header.trim();
    header.len() > 2 && header.starts_with('"') && unquote(header) == tag
}

fn unquote(text: &str) -> &str {
    text.strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ten_bytes() {
        let part = |first, end| Selection::Part(Span { first, end });
        for (header, expected) in [
            ("bytes=0-", part(0, 10)),
            ("bytes=0-0", part(0, 1)),
            ("Bytes=2-5", part(2, 6)),
            ("bytes=2-500", part(2, 10)),
            ("bytes=2-99999999999999999999999", part(2, 10)),
            ("bytes=-3", part(7, 10)),
            ("bytes=-30", part(0, 10)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=5-4", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes", Selection::Whole),
            ("items=0-1", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes=1-2-3", Selection::Whole),
            ("bytes=0-1,3-4", Selection::Whole),
            ("bytes=0 - 1", Selection::Whole),
        ] {
            assert_eq!(select(parse(header), 10), expected, "{header}");
        }
        assert_eq!(select(parse("bytes=0-"), 0), Selection::Unsatisfiable);
        assert_eq!(select(parse("bytes=-1"), 0), Selection::Unsatisfiable);
        assert_eq!(Span { first: 2, end: 6 }.content_range(10), "bytes 2-5/10");
    }

    #[test]
    fn conditions() {
        for (header, matches) in [
            ("\"sha256:a\"", true),
            ("W/\"sha256:a\"", true),
            ("sha256:a", true),
            ("\"x\", \"sha256:a\"", true),
            ("*", true),
            ("\"sha256:b\"", false),
            ("", false),
        ] {
            assert_eq!(if_none_match(header, "sha256:a"), matches, "{header}");
        }
        for (header, matches) in [
            ("\"sha256:a\"", true),
            ("W/\"sha256:a\"", false),
            ("sha256:a", false),
            ("Thu, 01 Jan 1970 00:00:00 GMT", false),
            ("\"", false),
        ] {
            assert_eq!(if_range(header, "sha256:a"), matches, "{header}");
        }
    }
}
