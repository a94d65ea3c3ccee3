//! Bytes that are barely HTTP: pingora answers them with an empty 400, the front refuses them, or they must not make
//! one request look like two.

use std::path::Path;
use std::time::Duration;

use testkit::http::{Cut, End, Raw};

/// The time limit for a response or the end of the connection. The scene's timeouts are 1 s.
const BOUND: Duration = Duration::from_secs(10);

/// Bytes, and the statuses answered until the gateway ends the connection.
pub struct Wire {
    pub bytes: Vec<u8>,
    pub statuses: &'static [u16],
}

const GOOD: &str = "GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";

/// Not parsable: one empty 400, whatever follows.
const NOT_HTTP: &[&[u8]] = &[
    // the request line
    b"\x00\r\n\r\n",
    b"\x00\x00\x00\x00\r\n\r\n",
    b"garbage\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET /v2/\r\n\r\n",
    b"GET /v2/\n\n",
    b"GET /v2/ HTTP/1.1 x\r\nHost: a\r\n\r\n",
    b"GET /v2/a b/tags/list HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET\t/v2/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    b" GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTP/1.1\rHost: a\r\n\r\n",
    b"G\x00T /v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"G(T /v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/\x7f HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTP/2.0\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTP/0.9\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTP/1.2\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTP/1.11\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTP/1\r\nHost: a\r\n\r\n",
    b"GET /v2/ http/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTPS/1.1\r\nHost: a\r\n\r\n",
    b"GET /v2/ ICAP/1.0\r\nHost: a\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    b"EHLO localhost\r\n\r\n",
    b"*1\r\n$4\r\nPING\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    // fields
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\n: no name\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nSpace : x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nTab\t: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nIn side: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nNu\x00l: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nNul: \x00\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nBell: \x07\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nDel: \x7f\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nReturn: a\rb\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nH\xc3\xa9: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\n(x): x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX[]: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\n Host: a\r\n\r\n",
    // the host
    b"GET /v2/ HTTP/1.1\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nX: y\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a b\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a/b\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: u@a\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: [::1\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a:b\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET ://a/v2/ HTTP/1.1\r\nHost: a\r\n\r\n",
    // the body's length
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1.0\r\n\r\nx",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1\r\n\r\nx",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1 1\r\n\r\nx",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\nxy",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\n\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
];

/// Not finished: 408 after `limits.header_timeout`, with the specification's JSON.
const NOT_FINISHED: &[&[u8]] = &[
    b"G",
    b"\x00",
    b"\xff\xfe\xfd",
    b"\r",
    b"GET /v2/",
    b"GET /v2/\r\n",
    b"GET /v2/ HTTP/1.1\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\n",
    b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: y",
    b"GET /v2/ HTTP/1.1\rHost: a\r\r",
    b"\x80\x2e\x01\x00\x02",
];

/// One request after all, or two: as many responses, in order, and no more. `{good}` is another request.
const IN_STEP: &[(&str, &[u16])] = &[
    ("{good}", &[200]),
    // pipelining is not supported: the second request is not misread, but the connection ends
    ("{good}{good}", &[200]),
    ("GET  /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", &[404]),
    ("GET /v2/  HTTP/1.1\r\nHost: a\r\n\r\n", &[404]),
    ("\r\n\r\n{good}", &[200]),
    ("GET /v2/ HTTP/1.0\r\n\r\n", &[200]),
    ("GET /v2/ HTTP/1.0\r\nHost: a\r\n\r\n{good}", &[200]),
    ("GET /v2/ HTTP/1.1\nHost: a\n\n", &[200]),
    ("GET /v2/ HTTP/1.1\r\nHost: a\n\r\n", &[200]),
    ("GET /v2/ HTTP/1.1\r\nHost:\r\n\r\n", &[200]),
    (
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{good}",
        &[200],
    ),
    (
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        &[200],
    ),
    (
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nExpect: 200-maybe\r\n\r\n",
        &[200],
    ),
    // an unexpected body hides no request
    (
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\n{good}",
        &[200],
    ),
    (
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n{good}\r\n0\r\n\r\n",
        &[200],
    ),
    (
        "POST /v2/library/app/blobs/uploads/ HTTP/1.1\r\nHost: a\r\nContent-Length: 31\r\n\r\n{good}",
        &[405],
    ),
    // absolute form: the path counts, and no other host is contacted
    ("GET http://a/v2/ HTTP/1.1\r\nHost: a\r\n\r\n", &[200]),
    ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", &[404]),
    (
        "GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        &[404],
    ),
    (
        "GET https://evil.example/v0/_ping HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        &[404],
    ),
    (
        "GET ftp://evil.example/x HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        &[404],
    ),
    ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &[404]),
    ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", &[404]),
    (
        "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
        &[404],
    ),
];

/// Lengths that two parsers could read in two ways. Whatever the response, the request hidden in the body is not
/// answered.
const SMUGGLED: &[&str] = &[
    "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n{good}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1f\r\n{good}\r\n0\r\n\r\n",
    "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n1f\r\n{good}\r\n0\r\n\r\n",
    "Content-Length: 31\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{good}",
    "Content-Length: 0\r\nContent-Length: 31\r\n\r\n{good}",
    "Content-Length: 31\r\nContent-Length: 0\r\n\r\n{good}",
    "Content-Length: 31\r\nContent-Length: 31\r\n\r\n{good}",
    "Content-Length: 031\r\n\r\n{good}",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n1f\r\n{good}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked, chunked\r\n\r\n1f\r\n{good}\r\n0\r\n\r\n",
    "Transfer-Encoding : chunked\r\n\r\n1f\r\n{good}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\nzz\r\n{good}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n-1\r\n{good}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n{good}\r\n0\r\n\r\n",
    "Transfer-Encoding: chunked\r\n\r\n1f;{good}\r\n0\r\n\r\n",
];

pub fn wires() -> Vec<Wire> {
    let mut wires = Vec::new();
    let mut add = |bytes: Vec<u8>, statuses| wires.push(Wire { bytes, statuses });
    for bytes in NOT_HTTP {
        add(bytes.to_vec(), &[400]);
    }
    for bytes in NOT_FINISHED {
        add(bytes.to_vec(), &[408]);
    }
    for (text, statuses) in IN_STEP {
        add(text.replace("{good}", GOOD).into_bytes(), statuses);
    }
    for (name, length, statuses) in [
        ("many", 300, &[400][..]),
        ("long", 70_000, &[431]),
        ("endless", 300_000, &[431]),
    ] {
        let fields = format!("X-{name}: y\r\n").repeat(if name == "many" { length } else { 0 });
        let value = "v".repeat(if name == "many" { 0 } else { length });
        let text = format!("GET /v2/ HTTP/1.1\r\nHost: a\r\n{fields}X: {value}\r\n\r\n");
        add(text.into_bytes(), statuses);
    }
    let target = "a".repeat(70_000);
    add(
        format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes(),
        &[431],
    );
    add(vec![b'a'; 200_000], &[431]);
    wires
}

/// Requests whose body hides another request.
pub fn smuggled() -> Vec<Vec<u8>> {
    let begin = "GET /v2/A/tags/list HTTP/1.1\r\nHost: a\r\n";
    let whole = SMUGGLED.iter().map(|rest| format!("{begin}{rest}"));
    whole
        .map(|text| text.replace("{good}", GOOD).into_bytes())
        .collect()
}

/// Sends the bytes; returns the statuses answered until the gateway ends the connection, and checks each response.
pub fn answers(url: &str, ca: Option<&Path>, bytes: &[u8]) -> Result<Vec<u16>, String> {
    let mut raw = Raw::connect(url, ca);
    raw.read_timeout(BOUND).map_err(|error| error.to_string())?;
    // A peer that refuses early may not read all of it.
    let _ = raw.try_send(bytes);
    let mut statuses = Vec::new();
    loop {
        let head = match raw.read_head() {
            Ok(head) => head,
            Err(Cut::TimedOut) => return Err(format!("a hang after {statuses:?}")),
            Err(_) => return Ok(statuses),
        };
        let (body, end) = raw.read_body("GET", &head);
        statuses.push(head.status);
        if !matches!(end, End::Complete) {
            return Err(format!("{statuses:?}, then {end:?}"));
        }
        let is_ours = head.header("docker-distribution-api-version") == Some("registry/2.0")
            && head.header("content-type") == Some("application/json")
            && serde_json::from_slice::<serde_json::Value>(&body).is_ok();
        // Only requests that pingora cannot parse get an empty response.
        let is_silent = head.status == 400 && body.is_empty();
        if !is_ours && !is_silent {
            return Err(format!("{head:?} {}", String::from_utf8_lossy(&body)));
        }
    }
}
