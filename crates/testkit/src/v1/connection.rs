//! Connections: requests are read, responses framed, and cut or held as the script says.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use serde_json::{Value, json};

use super::{State, V1Request, routes};

/// Answers the requests of one connection, with the faults of the script.
pub fn serve(
    stream: &TcpStream,
    state: &Mutex<State>,
    changed: &Condvar,
    ended: &AtomicBool,
    connection: usize,
) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader, connection) {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        let (answer, hangs_up) = {
            let Ok(mut state) = state.lock() else { return };
            state.requests.push(request.clone());
            while state.script.mute && !ended.load(Ordering::SeqCst) {
                let Ok(woken) = changed.wait(state) else {
                    return;
                };
                state = woken;
            }
            let mut answer = routes::answer(&mut state, &request);
            answer.unframed = state.script.unframed;
            (answer, state.script.hangs_up || state.script.unframed)
        };
        let bytes = answer.bytes(request.line.starts_with("HEAD "));
        let head = bytes.len() - answer.body_length(&request);
        let mut stream = stream;
        let is_layer = request.line.ends_with("/layer HTTP/1.1");
        let (cut, hold) = {
            let Ok(mut state) = state.lock() else { return };
            let script = &mut state.script;
            let breaks = is_layer && script.cuts > 0 && request.line.starts_with("GET ");
            script.cuts -= usize::from(breaks);
            let whole = answer.status == 200 && request.line.contains("/images/");
            let cut = breaks.then_some(answer.body.len() / 2);
            let cut = cut.or(script.truncate.filter(|_| whole));
            (cut, script.hold.filter(|_| is_layer))
        };
        if let Some(cut) = cut.filter(|cut| head + cut < bytes.len()) {
            let _ = stream.write_all(&bytes[..head + cut]);
            return;
        }
        let first = hold.map_or(bytes.len(), |hold| bytes.len().min(head + hold));
        if stream.write_all(&bytes[..first]).is_err() {
            return;
        }
        if first < bytes.len() {
            let Ok(mut state) = state.lock() else { return };
            while state.script.hold.is_some() && !ended.load(Ordering::SeqCst) {
                let Ok(woken) = changed.wait(state) else {
                    return;
                };
                state = woken;
            }
        }
        if stream.write_all(&bytes[first..]).is_err() || hangs_up {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>, connection: usize) -> Option<V1Request> {
    let mut line = || {
        let mut line = String::new();
        let read = reader.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = Vec::new();
    loop {
        let line = line()?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let mut request = V1Request {
        line: first,
        headers,
        body: Vec::new(),
        connection,
    };
    if request.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            request.body.extend(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = request.header("content-length") {
        request.body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut request.body).ok()?;
    }
    Some(request)
}

/// A response.
pub struct V1Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// The announced length, if it differs from the body's.
    pub length: Option<usize>,
    pub body: Vec<u8>,
    pub chunked: bool,
    pub unframed: bool,
}

impl V1Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".into(), "application/json".into())],
            length: None,
            body: body.to_string().into_bytes(),
            chunked: false,
            unframed: false,
        }
    }

    pub fn error(status: u16, text: &str) -> Self {
        Self::json(status, &json!({"error": text}))
    }

    pub fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn cacheable(self) -> Self {
        self.with("Cache-Control", "public, max-age=31536000")
            .with("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")
            .with("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
    }

    pub fn bytes(&self, head: bool) -> Vec<u8> {
        let length = self.length.unwrap_or(self.body.len());
        let mut text = format!("HTTP/1.1 {} Status\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        if self.chunked {
            text += "Transfer-Encoding: chunked\r\n";
        } else if self.unframed {
            text += "Connection: close\r\n";
        } else if self.status != 204 && self.status != 304 {
            let _ = write!(text, "Content-Length: {length}\r\n");
        }
        // As behind a load balancer that sets cookies.
        text += "Set-Cookie: session=1\r\n\r\n";
        let mut bytes = text.into_bytes();
        if !head {
            bytes.extend(self.framed());
        }
        bytes
    }

    /// The body with its framing.
    fn framed(&self) -> Vec<u8> {
        if !self.chunked {
            return self.body.clone();
        }
        let mut bytes = format!("{:x}\r\n", self.body.len()).into_bytes();
        bytes.extend(&self.body);
        bytes.extend(b"\r\n0\r\n\r\n");
        bytes
    }

    pub fn body_length(&self, request: &V1Request) -> usize {
        if request.line.starts_with("HEAD ") {
            0
        } else {
            self.framed().len()
        }
    }
}
