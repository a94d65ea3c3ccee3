//! `<size> <Range header>`: no span is empty, outside or near another, and every requested byte is sent.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::byteranges::Byteranges;
use oci::conditional::{if_none_match, if_range};
use oci::range::{MAX_RANGES, PART_OVERHEAD, RangeSpec, Selection, Span, parse, select};

fuzz_target!(|text: &str| {
    let (size, header) = text.split_once(' ').unwrap_or(("1000", text));
    let size: u64 = size.parse().unwrap_or(1000);
    // A strong comparison is no looser than a weak one.
    assert!(!if_range(header, "sha256:a") || if_none_match(header, "sha256:a"));
    let Some(ranges) = parse(header) else { return };
    assert!((1..=MAX_RANGES).contains(&ranges.len()));
    let written: Vec<String> = ranges.iter().map(write).collect();
    let again = parse(&format!("bytes={}", written.join(",")));
    assert_eq!(again.as_ref(), Some(&ranges));

    let asked: Vec<Span> = ranges
        .iter()
        .filter_map(|range| bytes_of(*range, size))
        .collect();
    let spans = match select(Some(&ranges), size) {
        Selection::Whole => {
            assert!(asked.len() > 1, "one range is never ignored");
            return;
        }
        Selection::Unsatisfiable => return assert_eq!(asked, []),
        Selection::Part(span) => vec![span],
        Selection::Parts(spans) => {
            assert!(spans.len() > 1);
            let cost = spans
                .iter()
                .map(|span| u128::from(span.len() + PART_OVERHEAD))
                .sum::<u128>();
            assert!(cost < u128::from(size), "dearer than the whole");
            frame_holds(&spans, size);
            spans
        }
    };
    for span in &spans {
        assert!(
            span.first < span.end && span.end <= size,
            "{span:?} of {size}"
        );
        // Nothing beyond the request is sent, except small gaps.
        assert!(asked.iter().any(|asked| asked.first == span.first));
        assert!(asked.iter().any(|asked| asked.end == span.end));
    }
    for (place, span) in spans.iter().enumerate() {
        for other in &spans[place + 1..] {
            let (a, b) = if span.first < other.first {
                (span, other)
            } else {
                (other, span)
            };
            assert!(
                b.first >= a.end.saturating_add(PART_OVERHEAD),
                "{a:?} {b:?}"
            );
        }
    }
    // Parts are in the client's order.
    let mut served: Vec<usize> = asked
        .iter()
        .map(|asked| {
            let holds = |span: &Span| span.first <= asked.first && asked.end <= span.end;
            spans
                .iter()
                .position(holds)
                .expect("what was asked for is sent")
        })
        .collect();
    let mut seen = Vec::new();
    served.retain(|place| {
        !seen.contains(place) && {
            seen.push(*place);
            true
        }
    });
    assert!(served.iter().copied().eq(0..spans.len()), "{served:?}");
});

/// The framing has its stated length, and each part has its `Content-Range`.
fn frame_holds(spans: &[Span], size: u64) {
    let frame = Byteranges::new(7, spans.to_vec(), size);
    let mut length = frame.end().len() as u64;
    for ((head, span), expected) in frame.parts().zip(spans) {
        assert_eq!(span, *expected);
        assert!(head.len() as u64 >= PART_OVERHEAD);
        assert!(head.contains(&format!(
            "\r\nContent-Range: {}\r\n\r\n",
            span.content_range(size)
        )));
        length += head.len() as u64 + span.len();
    }
    assert_eq!(frame.length(), length);
}

fn write(range: &RangeSpec) -> String {
    match range {
        RangeSpec::From {
            first,
            last: Some(last),
        } => format!("{first}-{last}"),
        RangeSpec::From { first, last: None } => format!("{first}-"),
        RangeSpec::Suffix(length) => format!("-{length}"),
    }
}

/// RFC 9110 §14.1.2, in wider integers.
fn bytes_of(range: RangeSpec, size: u64) -> Option<Span> {
    let size = i128::from(size);
    let (first, end) = match range {
        RangeSpec::From { first, last } => {
            let last = last.map_or(size - 1, i128::from);
            (i128::from(first), size.min(last + 1))
        }
        RangeSpec::Suffix(length) => (0.max(size - i128::from(length)), size),
    };
    let narrow = |position: i128| u64::try_from(position).expect("a position");
    (first < end).then(|| Span {
        first: narrow(first),
        end: narrow(end),
    })
}
