//! A bad request, its expected response, and its transmission over each protocol.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::wire::h2::{self, H2, Refused};
use testkit::http::{Cut, End, Raw, Reply};

/// How long any answer may take.
const BOUND: Duration = Duration::from_secs(15);

/// The expected response to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expect {
    /// This status and this code of the specification, as JSON.
    Error(u16, &'static str),
    /// The fault is ignored: 200 and the whole content.
    Whole(Vec<u8>),
    /// 304 without a body.
    NotModified,
    /// 416 with the size.
    Unsatisfiable(usize),
}

/// One request, for any protocol.
#[derive(Clone)]
pub struct Case {
    pub method: &'static str,
    pub target: String,
    pub headers: Vec<(&'static str, Vec<u8>)>,
    pub expect: Expect,
}

impl Case {
    pub fn new(method: &'static str, target: impl Into<String>, expect: Expect) -> Self {
        Self {
            method,
            target: target.into(),
            headers: Vec::new(),
            expect,
        }
    }

    pub fn get(target: impl Into<String>, status: u16, code: &'static str) -> Self {
        Self::new("GET", target, Expect::Error(status, code))
    }

    pub fn header(mut self, name: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name, value.as_ref().to_vec()));
        self
    }

    /// The key by which two cases are the same.
    pub fn identity(&self) -> (String, Vec<(&'static str, Vec<u8>)>) {
        (
            format!("{} {}", self.method, self.target),
            self.headers.clone(),
        )
    }

    /// The request as HTTP/1.1.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        if !self.headers.iter().any(|(name, _)| *name == "host") {
            bytes.extend(b"Host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes
    }

    /// Sends it over HTTP/1.1 and checks the response; a persistent connection must still be in step.
    pub fn over_h1(&self, url: &str, ca: Option<&Path>) -> Result<(), String> {
        let mut raw = Raw::connect(url, ca);
        raw.read_timeout(BOUND).map_err(|error| error.to_string())?;
        raw.try_send(self.bytes())
            .map_err(|error| format!("not taken: {error}"))?;
        let head = raw.read_head().map_err(|cut| format!("{cut:?}"))?;
        let (body, end) = raw.read_body(self.method, &head);
        let reply = Reply { head, body, end };
        self.judge(&reply)?;
        if reply.header("connection") == Some("close") {
            return match raw.read_to_end() {
                (rest, Cut::Closed | Cut::NoCloseNotify | Cut::Reset) if rest.is_empty() => Ok(()),
                (rest, cut) => Err(format!("{} bytes more, then {cut:?}", rest.len())),
            };
        }
        raw.try_send(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .map_err(|error| format!("kept alive, but not usable: {error}"))?;
        let next = raw
            .read_head()
            .map_err(|cut| format!("kept alive, then {cut:?}"))?;
        match raw.read_body("GET", &next) {
            (body, End::Complete) if next.status == 200 && body == b"{}" => Ok(()),
            (body, end) => Err(format!("out of step: {next:?} {body:?} {end:?}")),
        }
    }

    /// Sends it over HTTP/2 on a new stream of `connection`.
    pub fn over_h2(&self, connection: &mut H2, stream: u32) -> Result<(), String> {
        let mut fields = h2::pseudo(self.method, &self.target).to_vec();
        for (name, value) in &self.headers {
            if *name == "host" {
                fields[2].1 = value;
            } else {
                fields.push((name.as_bytes(), value));
            }
        }
        let reply = connection.exchange(stream, &fields);
        self.judge(&reply.map_err(|refused: Refused| format!("{refused:?}"))?)
    }

    /// Checks the response.
    fn judge(&self, reply: &Reply) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {}", shown(reply)));
        for name in ["docker-distribution-api-version", "cache-status"] {
            let mut count = 0;
            for (key, _) in &reply.head.headers {
                count += usize::from(key.eq_ignore_ascii_case(name));
            }
            if count != 1 {
                return wrong(&format!("{count} × {name}"));
            }
        }
        if reply.end != End::Complete {
            return wrong("a broken body");
        }
        let is_head = self.method == "HEAD";
        if is_head && !reply.body.is_empty() {
            return wrong("a HEAD with a body");
        }
        match &self.expect {
            Expect::Error(status, code) => {
                if reply.status() != *status {
                    return wrong(&format!("not {status}"));
                }
                if *status == 405 && reply.header("allow") != Some("GET, HEAD") {
                    return wrong("405 without Allow");
                }
                self.judge_error(reply, code)
            }
            Expect::Whole(content) => {
                let length = content.len().to_string();
                if reply.status() != 200 || reply.header("content-length") != Some(&length) {
                    return wrong("not the whole content");
                }
                if !is_head && reply.body != *content {
                    return wrong("other bytes");
                }
                Ok(())
            }
            Expect::NotModified if reply.status() == 304 && reply.body.is_empty() => Ok(()),
            Expect::NotModified => wrong("not 304"),
            Expect::Unsatisfiable(size) => {
                let range = format!("bytes */{size}");
                if reply.status() != 416 || reply.header("content-range") != Some(&range) {
                    return wrong("not a 416 with the size");
                }
                self.judge_error(reply, "RANGE_INVALID")
            }
        }
    }

    fn judge_error(&self, reply: &Reply, code: &str) -> Result<(), String> {
        if reply.header("content-type") != Some("application/json") {
            return Err(format!("not JSON: {}", shown(reply)));
        }
        if self.method != "HEAD" && reply.error_code().as_deref() != Some(code) {
            return Err(format!("not {code}: {}", shown(reply)));
        }
        Ok(())
    }
}

/// A response in one line.
fn shown(reply: &Reply) -> String {
    let Reply { head, body, end } = reply;
    let start = body[..body.len().min(200)].escape_ascii();
    format!("{} {:?} {start} {end:?}", head.status, head.headers)
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |text: &str| text.chars().take(120).collect::<String>();
        write!(f, "{} {}", self.method, short(&self.target).escape_debug())?;
        for (name, value) in &self.headers {
            let value = String::from_utf8_lossy(value);
            write!(f, " {name}: {}", short(&value).escape_debug())?;
        }
        Ok(())
    }
}
