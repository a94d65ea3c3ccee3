//! HTTP/1.1 requests without a body, parsed without pingora.
//!
//! Nearly all requests of a registry are such: a GET or HEAD with a few fields, then nothing until its response. What
//! is the least unusual (a body, an expectation, an upgrade, a second `Host`, bytes after the head) is pingora's.

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Uri, header};
use httparse::Status;
use pingora_http::RequestHeader;

/// Fields of a request; one with more is pingora's.
const FIELDS: usize = 64;

/// The head of a request that has no body.
#[derive(Debug)]
pub struct DirectRequest {
    pub header: RequestHeader,
    pub keep_alive: bool,
}

impl DirectRequest {
    /// Parses a head; `None` if pingora has to.
    pub fn parse(head: &Bytes) -> Option<Self> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let Ok(Status::Complete(length)) = request.parse(head) else {
            return None;
        };
        let path = request.path?;
        if length != head.len()
            || request.version != Some(1)
            || !path.starts_with('/')
            || !path.is_ascii()
        {
            return None;
        }
        let method = match request.method? {
            "GET" => Method::GET,
            "HEAD" => Method::HEAD,
            _ => return None,
        };
        let target = PathAndQuery::from_maybe_shared(head.slice_ref(path.as_bytes())).ok()?;
        let mut fields = HeaderMap::with_capacity(request.headers.len());
        let mut keep_alive = true;
        let mut hosts = 0;
        for field in request.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            match name {
                header::CONTENT_LENGTH
                | header::TRANSFER_ENCODING
                | header::EXPECT
                | header::UPGRADE => return None,
                header::HOST => hosts += 1,
                header::CONNECTION if field.value.eq_ignore_ascii_case(b"close") => {
                    keep_alive = false;
                }
                header::CONNECTION if !field.value.eq_ignore_ascii_case(b"keep-alive") => {
                    return None;
                }
                _ => {}
            }
            let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).ok()?;
            fields.append(name, value);
        }
        let (mut parts, ()) = http::Request::new(()).into_parts();
        parts.method = method;
        parts.uri = Uri::from(target);
        parts.headers = fields;
        (hosts == 1).then(|| Self {
            header: parts.into(),
            keep_alive,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(head: &str) -> Option<DirectRequest> {
        DirectRequest::parse(&Bytes::copy_from_slice(head.as_bytes()))
    }

    #[test]
    fn only_plain_requests_without_a_body_are_parsed() {
        let host = "Host: a\r\n";
        for (line, fields, parsed) in [
            ("GET / HTTP/1.1", "", true),
            ("HEAD /v2/ HTTP/1.1", "", true),
            (
                "GET /v2/a?ns=x&n=1 HTTP/1.1",
                "Accept: */*\r\naccept: b\r\n",
                true,
            ),
            ("GET / HTTP/1.1", "Connection: Keep-Alive\r\n", true),
            ("GET / HTTP/1.1", "Connection: close\r\n", true),
            ("GET / HTTP/1.1", "Connection: upgrade\r\n", false),
            ("GET / HTTP/1.1", "Connection: close, te\r\n", false),
            ("GET / HTTP/1.1", "Upgrade: h2c\r\n", false),
            ("GET / HTTP/1.1", "Content-Length: 0\r\n", false),
            ("GET / HTTP/1.1", "Transfer-Encoding: chunked\r\n", false),
            ("GET / HTTP/1.1", "Expect: 100-continue\r\n", false),
            ("GET / HTTP/1.1", "Host: b\r\n", false),
            ("GET / HTTP/1.1", "Bad Name: b\r\n", false),
            ("GET / HTTP/1.1", "Folded: a\r\n b\r\n", false),
            ("GET / HTTP/1.0", "", false),
            ("POST / HTTP/1.1", "", false),
            ("OPTIONS * HTTP/1.1", "", false),
            ("GET http://a/ HTTP/1.1", "", false),
            ("GET /ü HTTP/1.1", "", false),
            ("GET  / HTTP/1.1", "", false),
            ("CONNECT a:1 HTTP/1.1", "", false),
        ] {
            let head = format!("{line}\r\n{host}{fields}\r\n");
            assert_eq!(parse(&head).is_some(), parsed, "{head}");
            // What follows the head may be a body or the next request.
            assert!(parse(&format!("{head}x")).is_none(), "{head}");
        }
        assert!(parse("GET / HTTP/1.1\r\n\r\n").is_none());
        let many = "A: b\r\n".repeat(FIELDS);
        assert!(parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")).is_none());
    }

    #[test]
    fn fields_are_as_they_were_sent() {
        let head = "GET /v2/a/b?x=%20 HTTP/1.1\r\nhost: a:5000\r\nX-Two: 1\r\nx-two:  2 \r\n\r\n";
        let request = parse(head).expect("a plain request");
        let header = &request.header;
        assert_eq!(header.method, Method::GET);
        assert_eq!(header.uri.path(), "/v2/a/b");
        assert_eq!(header.uri.query(), Some("x=%20"));
        assert_eq!(header.version, http::Version::HTTP_11);
        assert_eq!(header.headers["host"], "a:5000");
        let values: Vec<_> = header.headers.get_all("x-two").iter().collect();
        assert_eq!(values, ["1", "2"]);
        assert!(request.keep_alive);
    }
}
