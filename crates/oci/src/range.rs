//! Byte ranges (RFC 9110 §14) of one representation of known length.

/// One `range-spec` of a `Range: bytes=…` header (RFC 9110 §14.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeSpec {
    /// `a-` or `a-b`, both ends inclusive. Empty if it ends before it begins.
    From {
        /// The first byte, counted from 0.
        first: u64,
        /// The last byte; `None`: to the end.
        last: Option<u64>,
    },
    /// `-n`: the last n bytes.
    Suffix(u64),
}

/// A satisfiable range: `first..end`, never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte, counted from 0.
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

/// The part of a representation to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// 200 with everything.
    Whole,
    /// 206.
    Part(Span),
    /// 206 with two or more separate parts.
    Parts(Vec<Span>),
    /// 416.
    Unsatisfiable,
}

/// The most ranges of one request. More are an attack
/// (RFC 9110 §17.15); a client of zstd:chunked layers sends a handful.
pub const MAX_RANGES: usize = 64;
/// The least overhead of a part, in bytes: its boundary and headers. Parts with a smaller gap between them are
/// joined.
pub const PART_OVERHEAD: u64 = 100;

/// Parses a `Range` header: one range or more, in the client's order. `None` for what RFC 9110 §14.2
/// lets a server ignore: other units, malformed sets, and more than [`MAX_RANGES`].
pub fn parse(header: &str) -> Option<Vec<RangeSpec>> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    // Empty list elements are ignored (RFC 9110 §5.6.1.2).
    let elements = set.split(',').map(|text| text.trim_matches([' ', '\t']));
    for element in elements.filter(|element| !element.is_empty()) {
        if specs.len() == MAX_RANGES {
            return None;
        }
        specs.push(range_spec(element)?);
    }
    (!specs.is_empty()).then_some(specs)
}

/// One element of the set.
fn range_spec(text: &str) -> Option<RangeSpec> {
    match text.split_once('-')? {
        ("", "") => None,
        ("", suffix) => position(suffix).map(RangeSpec::Suffix),
        (first, "") => Some(RangeSpec::From {
            first: position(first)?,
            last: None,
        }),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            Some(RangeSpec::From {
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

/// Applies ranges to a representation of `size` bytes. Unsatisfiable ranges are dropped; an empty
/// representation satisfies none. If the parts would cost as much as the whole, the whole is sent.
pub fn select(ranges: Option<&[RangeSpec]>, size: u64) -> Selection {
    let Some(ranges) = ranges else {
        return Selection::Whole;
    };
    let spans: Vec<Span> = ranges
        .iter()
        .filter_map(|range| satisfied(*range, size))
        .collect();
    let parts = coalesce(&spans);
    match parts.as_slice() {
        [] => Selection::Unsatisfiable,
        [part] => Selection::Part(*part),
        _ => {
            let cost = parts.iter().fold(0_u64, |cost, part| {
                cost.saturating_add(part.len())
                    .saturating_add(PART_OVERHEAD)
            });
            if cost < size {
                Selection::Parts(parts)
            } else {
                Selection::Whole
            }
        }
    }
}

/// The bytes that a range selects, if any.
fn satisfied(range: RangeSpec, size: u64) -> Option<Span> {
    let span = match range {
        RangeSpec::From { first, last } => Span {
            first,
            end: last.map_or(size, |last| last.saturating_add(1).min(size)),
        },
        RangeSpec::Suffix(length) => Span {
            first: size.saturating_sub(length),
            end: size,
        },
    };
    (span.first < span.end).then_some(span)
}

/// Joins spans that overlap or nearly touch (RFC 9110 §15.3.7.2). A joined span takes the position of its first
/// member, so that the client's order is preserved.
fn coalesce(spans: &[Span]) -> Vec<Span> {
    let mut sorted: Vec<(usize, Span)> = spans.iter().copied().enumerate().collect();
    sorted.sort_by_key(|(_, span)| span.first);
    let mut joined: Vec<(usize, Span)> = Vec::new();
    for (place, span) in sorted {
        match joined.last_mut() {
            Some((first_place, before))
                if span.first < before.end.saturating_add(PART_OVERHEAD) =>
            {
                before.end = before.end.max(span.end);
                *first_place = place.min(*first_place);
            }
            _ => joined.push((place, span)),
        }
    }
    joined.sort_by_key(|(place, _)| *place);
    joined.into_iter().map(|(_, span)| span).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selected(header: &str, size: u64) -> Selection {
        select(parse(header).as_deref(), size)
    }

    fn span(first: u64, end: u64) -> Span {
        Span { first, end }
    }

    #[test]
    fn ranges_of_ten_bytes() {
        let part = |first, end| Selection::Part(span(first, end));
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
            ("bytes=5-4", Selection::Unsatisfiable),
            ("bytes=500-0", Selection::Unsatisfiable),
            ("bytes=-", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes", Selection::Whole),
            ("items=0-1", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes=1-2-3", Selection::Whole),
            ("bytes=0 - 1", Selection::Whole),
            ("bytes=0-1 3-4", Selection::Whole),
            ("bytes=0-1;3-4", Selection::Whole),
            // Nearby ranges are joined.
            ("bytes=0-1,3-4", part(0, 5)),
            ("bytes=3-4 ,\t0-1", part(0, 5)),
            ("bytes=,0-1,,", part(0, 2)),
            ("bytes=0-,0-,-10", part(0, 10)),
            // Ranges outside are dropped, but a malformed one invalidates the set.
            ("bytes=10-,4-5,99-100,-0", part(4, 6)),
            ("bytes=10-,99-100,-0", Selection::Unsatisfiable),
            ("bytes=0-1,5-4", part(0, 2)),
            ("bytes=0-1,x", Selection::Whole),
            ("bytes=0-1,bytes=3-4", Selection::Whole),
            ("bytes=,", Selection::Whole),
        ] {
            assert_eq!(selected(header, 10), expected, "{header}");
        }
        assert_eq!(selected("bytes=0-", 0), Selection::Unsatisfiable);
        assert_eq!(selected("bytes=-1,0-1", 0), Selection::Unsatisfiable);
        assert_eq!(span(2, 6).content_range(10), "bytes 2-5/10");
    }

    #[test]
    fn several_ranges_of_a_thousand_bytes() {
        let parts = |spans: &[(u64, u64)]| {
            let spans = spans.iter().map(|&(first, end)| span(first, end));
            Selection::Parts(spans.collect())
        };
        for (header, expected) in [
            ("bytes=0-9,500-509", parts(&[(0, 10), (500, 510)])),
            // The client's order is preserved.
            ("bytes=500-509,0-9", parts(&[(500, 510), (0, 10)])),
            (
                "bytes=-10,0-9,500-509",
                parts(&[(990, 1000), (0, 10), (500, 510)]),
            ),
            // A joined span takes the position of its first member.
            (
                "bytes=800-809,0-9,400-409,5-20,850-",
                parts(&[(800, 1000), (0, 21), (400, 410)]),
            ),
            ("bytes=15-20,400-409,0-19", parts(&[(0, 21), (400, 410)])),
            // A gap as long as a part's headers splits parts, a shorter one is sent.
            ("bytes=0-9,110-119", parts(&[(0, 10), (110, 120)])),
            ("bytes=0-9,109-119", Selection::Part(span(0, 120))),
            // A single remaining part is no multipart.
            ("bytes=500-509,5000-", Selection::Part(span(500, 510))),
            ("bytes=0-499,500-", Selection::Part(span(0, 1000))),
            // With headers as long as the whole: the whole.
            ("bytes=0-399,600-", Selection::Whole),
            ("bytes=0-299,500-999", Selection::Whole),
            ("bytes=0-298,500-999", parts(&[(0, 299), (500, 1000)])),
        ] {
            assert_eq!(selected(header, 1000), expected, "{header}");
        }
    }

    #[test]
    fn more_than_64_ranges_are_ignored() {
        let header = |n: u64| {
            let set: Vec<_> = (0..n).map(|i| format!("{0}-{0}", i * 1000)).collect();
            format!("bytes={}", set.join(","))
        };
        let Selection::Parts(parts) = selected(&header(64), 1 << 20) else {
            panic!("64 ranges are served");
        };
        assert_eq!(parts.len(), 64);
        assert_eq!(selected(&header(65), 1 << 20), Selection::Whole);
    }

    #[test]
    fn largest_numbers() {
        let most = u64::MAX;
        let parts = vec![span(0, 1), span(most - 1, most)];
        assert_eq!(selected("bytes=0-0,-1", most), Selection::Parts(parts));
        let overflowing = format!("bytes=0-{},{}-", most / 2, most / 2 + 200);
        assert_eq!(selected(&overflowing, most), Selection::Whole);
    }

    /// A model of [`select`] that works byte by byte.
    fn model(ranges: &[RangeSpec], size: usize) -> Selection {
        let named = |range: &RangeSpec, byte: usize| match *range {
            RangeSpec::From { first, last } => {
                first <= byte as u64 && last.is_none_or(|last| byte as u64 <= last)
            }
            RangeSpec::Suffix(length) => size - byte <= usize::try_from(length).unwrap_or(size),
        };
        // The first range that selects each byte.
        let mut wanted: Vec<Option<usize>> = (0..size)
            .map(|byte| ranges.iter().position(|range| named(range, byte)))
            .collect();
        let gap = usize::try_from(PART_OVERHEAD).expect("short");
        let mut last = None;
        for byte in 0..size {
            if wanted[byte].is_some() {
                if let Some(last) = last.filter(|last| byte - last <= gap) {
                    wanted[last + 1..byte].fill(Some(usize::MAX));
                }
                last = Some(byte);
            }
        }
        let mut runs = Vec::new();
        let mut byte = 0;
        for run in wanted.chunk_by(|a, b| a.is_some() == b.is_some()) {
            if let Some(Some(place)) = run.iter().min() {
                runs.push((*place, span(byte, byte + run.len() as u64)));
            }
            byte += run.len() as u64;
        }
        runs.sort_by_key(|(place, _)| *place);
        let cost: u64 = runs.iter().map(|(_, run)| PART_OVERHEAD + run.len()).sum();
        match runs.as_slice() {
            [] => Selection::Unsatisfiable,
            [(_, run)] => Selection::Part(*run),
            _ if cost >= size as u64 => Selection::Whole,
            _ => Selection::Parts(runs.into_iter().map(|(_, run)| run).collect()),
        }
    }

    fn any_range() -> impl Strategy<Value = RangeSpec> {
        prop_oneof![
            (0_u64..2100, prop_oneof![0_u64..40, 0_u64..2100]).prop_map(|(first, more)| {
                let last = Some(first + more);
                RangeSpec::From { first, last }
            }),
            (0_u64..2100, 0_u64..2100).prop_map(|(first, last)| {
                let last = Some(last);
                RangeSpec::From { first, last }
            }),
            (0_u64..2100).prop_map(|first| RangeSpec::From { first, last: None }),
            (0_u64..300).prop_map(RangeSpec::Suffix),
        ]
    }

    proptest! {
        #[test]
        fn selecting_agrees_with_the_model(
            ranges in proptest::collection::vec(any_range(), 1..10),
            size in 0_usize..2000,
        ) {
            prop_assert_eq!(select(Some(&ranges), size as u64), model(&ranges, size));
        }

        #[test]
        fn what_is_written_is_read(ranges in proptest::collection::vec(any_range(), 1..=MAX_RANGES)) {
            let written: Vec<String> = ranges.iter().map(|range| match range {
                RangeSpec::From { first, last: Some(last) } => format!("{first}-{last}"),
                RangeSpec::From { first, last: None } => format!("{first}-"),
                RangeSpec::Suffix(length) => format!("-{length}"),
            }).collect();
            prop_assert_eq!(parse(&format!("bytes={}", written.join(", "))), Some(ranges));
        }

        #[test]
        fn any_header_is_read(header in "\\PC{0,40}|bytes=[0-9, -]{0,60}", size: u64) {
            let _ = select(parse(&header).as_deref(), size);
        }
    }
}
