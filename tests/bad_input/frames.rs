//! HTTP/2 that violates RFC 9113 below the level of requests, and bytes that are not TLS.

use std::path::Path;

use crate::wire::h2::{
    self, ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, Frame, GOAWAY, H2, HEADERS,
    PING, PREFACE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, settings,
};
use testkit::http::Cut;

/// The outcome of a connection after a violation, found by a PING that follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `RST_STREAM`, `GOAWAY`, or an end of the connection.
    Refused,
    /// Neither: the PING was answered.
    Ignored,
    /// A response with this status, empty or the gateway's own.
    Status(u16),
}
use Outcome::{Ignored, Refused, Status};

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;

/// One violation.
pub struct Broken {
    pub what: &'static str,
    /// Everything that is sent, preface included.
    pub bytes: Vec<u8>,
    pub outcome: Outcome,
}

/// Connections that fail before there is a request.
#[expect(clippy::too_many_lines, reason = "one table")]
pub fn connections() -> Vec<Broken> {
    let wrong_preface = |bytes: &[u8]| bytes.to_vec();
    let after = |bytes: Vec<u8>| [PREFACE, &settings(&[]), &bytes].concat();
    let block = h2::encode(&h2::pseudo("GET", "/v2/"));
    let good = || h2::request(1, &h2::pseudo("GET", "/v2/"));
    let cases: Vec<(&'static str, Vec<u8>, Outcome)> = vec![
        (
            "HTTP/1.1 after h2 was agreed on",
            wrong_preface(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n"),
            Refused,
        ),
        ("zeros for a preface", wrong_preface(&[0; 64]), Refused),
        (
            "half a preface twice",
            wrong_preface(b"PRI * HTTP/2.0\r\n\r\nPRI * HTTP/2.0\r\n\r\n"),
            Refused,
        ),
        (
            "lower case preface",
            wrong_preface(&PREFACE.to_ascii_lowercase()),
            Refused,
        ),
        (
            "text after the preface",
            [PREFACE, b"hello, is anybody there?"].concat(),
            Refused,
        ),
        (
            "no settings first, which the h2 crate lets pass",
            [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(),
            Ignored,
        ),
        (
            "settings of five bytes",
            after(frame(SETTINGS, 0, 0, &[0; 5])),
            Refused,
        ),
        (
            "settings on a stream",
            after(frame(SETTINGS, 0, 1, &[])),
            Refused,
        ),
        (
            "an acknowledgement with settings",
            after(frame(SETTINGS, ACK, 0, &[0; 6])),
            Refused,
        ),
        ("enable push 2", after(settings(&[(2, 2)])), Refused),
        (
            "a window too large",
            after(settings(&[(4, 1 << 31)])),
            Refused,
        ),
        ("frames too small", after(settings(&[(5, 1)])), Refused),
        ("unknown settings", after(settings(&[(0xffff, 7)])), Ignored),
        (
            "a ping of seven bytes",
            after(frame(PING, 0, 0, &[0; 7])),
            Refused,
        ),
        (
            "a ping on a stream",
            after(frame(PING, 0, 1, &[0; 8])),
            Refused,
        ),
        ("data on stream 0", after(frame(DATA, 0, 0, b"x")), Refused),
        (
            "data on an idle stream",
            after(frame(DATA, END_STREAM, 1, b"x")),
            Refused,
        ),
        (
            "headers on stream 0",
            after(frame(HEADERS, 5, 0, &block)),
            Refused,
        ),
        (
            "headers on an even stream",
            after(frame(HEADERS, 5, 2, &block)),
            Refused,
        ),
        (
            "a continuation of nothing",
            after(frame(CONTINUATION, END_HEADERS, 1, &block)),
            Refused,
        ),
        (
            "a ping amid headers",
            after(
                [
                    frame(HEADERS, END_STREAM, 1, &block),
                    frame(PING, 0, 0, &[0; 8]),
                ]
                .concat(),
            ),
            Refused,
        ),
        (
            "headers that are no HPACK",
            after(frame(HEADERS, 5, 1, &[0xff; 16])),
            Refused,
        ),
        (
            "an index beyond the table",
            after(frame(HEADERS, 5, 1, &[0xfe])),
            Refused,
        ),
        ("index 0", after(frame(HEADERS, 5, 1, &[0x80])), Refused),
        (
            "a length beyond the block",
            after(frame(HEADERS, 5, 1, &[0, 0x7e, b'a'])),
            Refused,
        ),
        (
            "a Huffman code of ones",
            after(frame(HEADERS, 5, 1, &[0, 0x84, 255, 255, 255, 255, 0])),
            Refused,
        ),
        (
            "more padding than frame",
            after(frame(HEADERS, 5 | 8, 1, &[255, 0x82])),
            Refused,
        ),
        (
            "a window update of nothing",
            after(frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
            Refused,
        ),
        (
            "a window update of three bytes",
            after(frame(WINDOW_UPDATE, 0, 0, &[1; 3])),
            Refused,
        ),
        (
            "a window beyond all bounds",
            after(frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])),
            Refused,
        ),
        (
            "a window update of an idle stream",
            after(frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
            Refused,
        ),
        (
            "a reset of an idle stream",
            after(frame(RST_STREAM, 0, 1, &[0; 4])),
            Refused,
        ),
        (
            "a reset of five bytes",
            after([good(), frame(RST_STREAM, 0, 1, &[0; 5])].concat()),
            Refused,
        ),
        (
            "a reset of stream 0",
            after(frame(RST_STREAM, 0, 0, &[0; 4])),
            Refused,
        ),
        (
            "a push promise",
            after(frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x82])),
            Refused,
        ),
        (
            "a priority of one byte",
            after(frame(PRIORITY, 0, 1, &[0])),
            Refused,
        ),
        (
            "an unknown frame",
            after(frame(0xbe, 0xff, 7, b"what")),
            Ignored,
        ),
        (
            "a frame over 16 KiB",
            after(frame(0xbe, 0, 0, &[0; (16 << 10) + 1])),
            Refused,
        ),
        (
            "a stream number that went down",
            after([h2::request(3, &h2::pseudo("GET", "/v2/")), good()].concat()),
            Refused,
        ),
        (
            "a hundred kilobytes of noise",
            [PREFACE, &testkit::image::random(9, 100_000)].concat(),
            Refused,
        ),
    ];
    let broken = |(what, bytes, outcome)| Broken {
        what,
        bytes,
        outcome,
    };
    cases.into_iter().map(broken).collect()
}

/// Requests on stream 1 that are malformed (RFC 9113 §8.1.1).
#[expect(clippy::too_many_lines, reason = "one table")]
pub fn requests() -> Vec<Broken> {
    const METHOD: Field<'_> = (b":method", b"GET");
    const SCHEME: Field<'_> = (b":scheme", b"https");
    const HOST: Field<'_> = (b":authority", b"a");
    const PATH: Field<'_> = (b":path", b"/v2/");
    let with = |field: Field<'static>| vec![METHOD, SCHEME, HOST, PATH, field];
    let path = |path: &'static [u8]| vec![METHOD, SCHEME, HOST, (b":path", path)];
    let cases: Vec<(&'static str, Vec<Field<'_>>, Outcome)> = vec![
        ("no method", vec![SCHEME, HOST, PATH], Refused),
        ("no scheme", vec![METHOD, HOST, PATH], Refused),
        ("no path", vec![METHOD, SCHEME, HOST], Refused),
        ("nothing", vec![], Refused),
        (
            "two methods",
            vec![METHOD, METHOD, SCHEME, HOST, PATH],
            Refused,
        ),
        ("two paths", vec![METHOD, SCHEME, HOST, PATH, PATH], Refused),
        (
            "a status",
            vec![METHOD, SCHEME, HOST, PATH, (b":status", b"200")],
            Refused,
        ),
        ("an unknown pseudo-header", with((b":host", b"a")), Refused),
        (
            "a pseudo-header after a header",
            vec![METHOD, SCHEME, HOST, (b"x", b"y"), PATH],
            Refused,
        ),
        ("an upper case name", with((b"X-Upper", b"y")), Refused),
        ("a name with a space", with((b"x y", b"z")), Refused),
        ("an empty name", with((b"", b"z")), Refused),
        ("a value with a line feed", with((b"x", b"a\nb")), Refused),
        ("a value with a NUL", with((b"x", b"a\0b")), Refused),
        ("connection", with((b"connection", b"close")), Refused),
        (
            "transfer-encoding",
            with((b"transfer-encoding", b"chunked")),
            Refused,
        ),
        ("upgrade", with((b"upgrade", b"h2c")), Refused),
        ("keep-alive", with((b"keep-alive", b"5")), Refused),
        ("te that is not trailers", with((b"te", b"gzip")), Refused),
        (
            "a content-length of no number",
            with((b"content-length", b"x")),
            Refused,
        ),
        (
            "a body shorter than announced",
            with((b"content-length", b"9")),
            Refused,
        ),
        ("an empty path", path(b""), Refused),
        ("a path without a slash", path(b"v2/"), Refused),
        ("a path with a space", path(b"/v2/ a"), Refused),
        ("a path with a NUL", path(b"/v2/\0"), Refused),
        ("a path that is not UTF-8", path(b"/v2/\xff"), Refused),
        (
            "an empty authority",
            vec![METHOD, SCHEME, (b":authority", b""), PATH],
            Refused,
        ),
        (
            "an authority with a space",
            vec![METHOD, SCHEME, (b":authority", b"a b"), PATH],
            Refused,
        ),
        (
            "another scheme",
            vec![METHOD, (b":scheme", b"gopher"), HOST, (b":path", b"/x")],
            Status(404),
        ),
        (
            "an asterisk",
            vec![(b":method", b"OPTIONS"), SCHEME, HOST, (b":path", b"*")],
            Status(404),
        ),
        (
            "CONNECT",
            vec![
                (b":method", b"CONNECT"),
                (b":authority", b"evil.example:443"),
            ],
            Status(404),
        ),
        (
            "a method with a space",
            vec![(b":method", b"G T"), SCHEME, HOST, PATH],
            Refused,
        ),
        (
            "another host than the authority",
            with((b"host", b"evil.example")),
            Status(400),
        ),
    ];
    let broken = |(what, fields, outcome): (_, Vec<Field<'_>>, _)| Broken {
        what,
        bytes: [PREFACE, &settings(&[(1, 0)]), &h2::request(1, &fields)].concat(),
        outcome,
    };
    cases.into_iter().map(broken).collect()
}

/// Sends the bytes, then a PING and after its acknowledgement another, and determines the outcome: an error is sent before
/// the second acknowledgement.
pub fn outcome(url: &str, ca: &Path, bytes: &[u8]) -> Result<Outcome, String> {
    const MARKS: [&[u8]; 2] = [b"roadstea", b"dsteaded"];

    let mut connection = H2::bare(url, ca).map_err(|error| error.to_string())?;
    // A peer that refuses early may not read all of it.
    let _ = connection.send(bytes);
    let _ = connection.send(&frame(PING, 0, 0, MARKS[0]));
    loop {
        let Frame {
            kind,
            flags,
            stream,
            payload,
        } = match connection.next() {
            Ok(frame) => frame,
            Err(Cut::TimedOut) => return Err("a hang".to_owned()),
            Err(_) => return Ok(Refused),
        };
        match kind {
            GOAWAY | RST_STREAM => return Ok(Refused),
            HEADERS if stream == 1 => return Ok(Status(h2::head(&payload).status)),
            PING if flags & ACK != 0 && payload == MARKS[0] => {
                let _ = connection.send(&frame(PING, 0, 0, MARKS[1]));
            }
            PING if flags & ACK != 0 && payload == MARKS[1] => return Ok(Ignored),
            _ => {}
        }
    }
}

/// Bytes that are not TLS, or soon stop being TLS, and the statuses that a TLS port answers, if any.
pub fn no_tls() -> Vec<(&'static [u8], Option<u16>)> {
    vec![
        (b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", Some(400)),
        (b"GET /v2/", Some(400)),
        (b"\r\n", Some(400)),
        (b"\x00", Some(400)),
        (b"\x15\x03\x01\x00\x02\x02\x28", Some(400)),
        (b"\x80\x2e\x01\x00\x02\x00\x15", Some(400)),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Some(400)),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some(400)),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(400)),
        (b"\x16", None),
        (b"\x16\x03\x01", None),
        (b"\x16\x03\x01\xff\xff\x01\x00\x00", None),
        (b"\x16\x03\x01\x00\x05\x01\xff\xff\xff\x00", None),
        (b"\x16GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n", None),
        (b"\x16\x09\x09\x00\x01\x00", None),
    ]
}
