//! Range headers with their expected responses, and a strict parser of `multipart/byteranges`.

use testkit::http::{End, Fetched, Head, Reply};

/// The expected response to a blob request; spans are `(first, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expect {
    Whole,
    Part(usize, usize),
    Parts(Vec<(usize, usize)>),
    Unsatisfiable,
}

/// Headers and their expected responses, for a blob of `size` bytes with this entity tag.
pub(super) fn cases(size: usize, tag: &str) -> Vec<(Vec<(&'static str, String)>, Expect)> {
    use Expect::{Part, Parts, Unsatisfiable, Whole};
    let end = size;
    let several = || ("Range", "bytes=0-9,1000-1009".to_owned());
    let spread = |n: usize| {
        let set: Vec<_> = (0..n).map(|i| format!("{0}-{0}", i * 200)).collect();
        format!("bytes={}", set.join(","))
    };
    let mut cases = vec![
        (
            vec![("If-Range", tag.to_owned()), several()],
            Parts(vec![(0, 10), (1000, 1010)]),
        ),
        (vec![("If-Range", "\"other\"".to_owned()), several()], Whole),
        (vec![("If-Range", format!("W/{tag}")), several()], Whole),
        (vec![("Range", "bytes=5-9".to_owned()), several()], Whole),
    ];
    for (set, expected) in [
        ("bytes=0-9,1000-1009", Parts(vec![(0, 10), (1000, 1010)])),
        // The client's order.
        (
            "bytes=-10, 5000-5999 ,0-0",
            Parts(vec![(end - 10, end), (5000, 6000), (0, 1)]),
        ),
        // Overlapping, touching and nearly touching ones are one part.
        (
            "bytes=1000-1999,10000-10009,1500-2499,2500-2509,2550-2599",
            Parts(vec![(1000, 2600), (10_000, 10_010)]),
        ),
        ("bytes=0-9,5-19,60-99", Part(0, 100)),
        ("bytes=0-0,0-0,0-0,0-0", Part(0, 1)),
        ("bytes=0-,0-,0-", Part(0, end)),
        // Ranges outside the blob are left out.
        (
            "bytes=0-9,99999999-,3000-3009,-0",
            Parts(vec![(0, 10), (3000, 3010)]),
        ),
        ("bytes=0-9,99999999-", Part(0, 10)),
        ("bytes=99999999-,-0,88888888-99999999", Unsatisfiable),
        // A range that ends before it begins selects no byte either.
        ("bytes=500-0", Unsatisfiable),
        ("bytes=9-8,-0", Unsatisfiable),
        ("bytes=0-9,9-8", Part(0, 10)),
        // As much as the whole, or malformed.
        ("bytes=0-9999,10110-", Whole),
        ("bytes=0-9,x", Whole),
    ] {
        cases.push((vec![("Range", set.to_owned())], expected));
    }
    let spots = (0..64).map(|i| (i * 200, i * 200 + 1)).collect();
    cases.push((vec![("Range", spread(64))], Parts(spots)));
    cases.push((vec![("Range", spread(65))], Whole));
    cases
}

/// One part of a multipart body: its bytes, their first offset and end.
type Part<'a> = (&'a [u8], usize, usize);

/// Parses a multipart body strictly by RFC 2046 §5.1.1.
pub(super) fn parts<'a>(body: &'a [u8], boundary: &str, size: usize) -> Vec<Part<'a>> {
    let take = |rest: &'a [u8], text: &str| {
        rest.strip_prefix(text.as_bytes()).unwrap_or_else(|| {
            let found = rest[..rest.len().min(100)].escape_ascii();
            panic!("{text:?} is missing before {found}")
        })
    };
    let mut rest = take(body, &format!("--{boundary}"));
    let mut parts = Vec::new();
    while !rest.starts_with(b"--") {
        rest = take(rest, "\r\nContent-Type: application/octet-stream\r\n");
        rest = take(rest, "Content-Range: bytes ");
        let line_end = rest.windows(4).position(|window| window == b"\r\n\r\n");
        let (range, bytes) = rest.split_at(line_end.expect("an empty line"));
        let range = std::str::from_utf8(range).expect("a range");
        let range = range.strip_suffix(&format!("/{size}")).expect("the size");
        let (first, last) = range.split_once('-').expect("a range");
        let first: usize = first.parse().expect("a number");
        let end: usize = last.parse::<usize>().expect("a number") + 1;
        let (part, after) = bytes[4..].split_at(end - first);
        parts.push((part, first, end));
        rest = take(after, &format!("\r\n--{boundary}"));
    }
    assert_eq!(rest, b"--\r\n", "the end");
    parts
}

/// The boundary of a multipart answer.
pub(super) fn boundary(head: &Head) -> &str {
    let media_type = head.header("content-type").expect("a media type");
    let boundary = media_type.strip_prefix("multipart/byteranges; boundary=");
    let boundary = boundary.unwrap_or_else(|| panic!("not multipart: {media_type}"));
    assert!((1..=70).contains(&boundary.len()), "{boundary}");
    boundary
}

/// Checks the response to a GET, to the byte.
pub(super) fn judge(reply: &Reply, content: &[u8], expected: &Expect, label: &str) {
    let size = content.len();
    assert_eq!(reply.end, End::Complete, "{label}");
    judge_head(&reply.head, size, expected, label);
    if *expected != Expect::Unsatisfiable {
        let length = reply.head.length().expect("a length");
        assert_eq!(length, reply.body.len() as u64, "{label}");
    }
    match expected {
        Expect::Whole => assert!(reply.body == content, "{label}"),
        Expect::Part(first, end) => assert!(reply.body == content[*first..*end], "{label}"),
        Expect::Parts(spans) => {
            let boundary = boundary(&reply.head);
            let parts = parts(&reply.body, boundary, size);
            let found: Vec<_> = parts.iter().map(|&(_, first, end)| (first, end)).collect();
            assert_eq!(found, *spans, "{label}");
            for (bytes, first, end) in parts {
                assert!(*bytes == content[first..end], "{label}: {first}-{end}");
            }
        }
        Expect::Unsatisfiable => {
            assert_eq!(reply.error_code().as_deref(), Some("RANGE_INVALID"));
        }
    }
}

/// Checks status and headers of the response to a GET or HEAD.
pub(super) fn judge_head(head: &Head, size: usize, expected: &Expect, label: &str) {
    let (status, content_range) = match expected {
        Expect::Whole => (200, None),
        Expect::Part(first, end) => (206, Some(format!("bytes {first}-{}/{size}", end - 1))),
        Expect::Parts(_) => (206, None),
        Expect::Unsatisfiable => (416, Some(format!("bytes */{size}"))),
    };
    assert_eq!(head.status, status, "{label}: {head:?}");
    let found = head.header("content-range");
    assert_eq!(found, content_range.as_deref(), "{label}");
    match expected {
        Expect::Parts(_) => assert_eq!(boundary(head).len(), 32),
        Expect::Unsatisfiable => {
            assert_eq!(head.header("content-type"), Some("application/json"));
            return;
        }
        Expect::Whole | Expect::Part(..) => {
            let media_type = head.header("content-type");
            assert_eq!(media_type, Some("application/octet-stream"), "{label}");
        }
    }
    assert_eq!(head.header("accept-ranges"), Some("bytes"), "{label}");
}

pub(super) fn as_reply(fetched: Fetched) -> Reply {
    let text = |value: &http::HeaderValue| value.to_str().expect("text").to_owned();
    let headers = fetched.headers.iter();
    let head = Head {
        status: fetched.status,
        reason: String::new(),
        headers: headers
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
    };
    let end = match fetched.broken {
        None => End::Complete,
        Some(error) => End::Malformed(error),
    };
    let body = fetched.body;
    Reply { head, body, end }
}

pub(super) fn borrowed<'a>(headers: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    let pairs = headers.iter().map(|(name, value)| (*name, value.as_str()));
    pairs.collect()
}
