//! A scripted object store that speaks as much S3 as the gateway does: objects, conditional writes, uploads in
//! parts. It checks no signatures; `real::ObjectStore` does. Faults are switched while it runs.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{matches, sha256};

/// A fault of the object store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ill {
    /// It closes the connection on every request.
    Down,
    /// It never answers.
    Silent,
    /// It delays each response by this long.
    Slow(Duration),
    /// It refuses every write with 507.
    Full,
    /// It refuses every request with this status.
    Refuses(u16),
    /// Bodies of objects over 1 MiB are cut off after this many bytes, and no request is answered afterwards.
    DiesAt(usize),
    /// Bodies of objects over 1 MiB stall after this many bytes.
    StallsAt(usize),
}

/// A running object store. Its bucket is `shared`.
pub struct S3 {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    ill: Option<Ill>,
    /// Method and key of every request.
    seen: Vec<(String, String)>,
    serial: usize,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Request {
    method: String,
    key: String,
    query: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    fn error(status: u16, code: &str) -> Self {
        Self::new(status, format!("<Error><Code>{code}</Code></Error>"))
    }
}

impl S3 {
    /// Listens on a free port of loopback, with every bucket empty.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let shared = serving.clone();
                std::thread::spawn(move || while serve(&shared, &stream).is_some() {});
            }
        });
        Self { shared, address }
    }

    /// The line for `store:` in the configuration.
    pub fn yaml(&self) -> String {
        format!(
            "bucket: {{url: \"s3://shared/tier\", endpoint: \"http://{}\", access_key: AKIDSHARED, secret_key: hunter2hunter2}}",
            self.address
        )
    }

    /// [`S3::yaml`] with more keys of `bucket:`.
    pub fn yaml_with(&self, more: &str) -> String {
        let yaml = self.yaml();
        format!("{}, {more}}}", yaml.trim_end_matches('}'))
    }

    /// Sets the fault.
    pub fn set(&self, ill: impl Into<Option<Ill>>) {
        self.shared.state().ill = ill.into();
    }

    /// The keys below the prefix that match a pattern.
    pub fn keys(&self, pattern: &str) -> Vec<String> {
        let state = self.shared.state();
        let keys = state
            .objects
            .keys()
            .filter_map(|key| key.strip_prefix("tier/"));
        let found = keys.filter(|key| matches(pattern, key));
        found.map(ToOwned::to_owned).collect()
    }

    /// An object's bytes.
    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.shared
            .state()
            .objects
            .get(&format!("tier/{key}"))
            .cloned()
    }

    /// Adds an object.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let objects = &mut self.shared.state().objects;
        objects.insert(format!("tier/{key}"), bytes.to_vec());
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        self.shared.state().objects.remove(&format!("tier/{key}"));
    }

    /// Replaces the bytes of matching objects; returns their number.
    pub fn change(&self, pattern: &str, change: impl Fn(&mut Vec<u8>)) -> usize {
        let mut state = self.shared.state();
        let found = state.objects.iter_mut().filter(|(key, _)| {
            key.strip_prefix("tier/")
                .is_some_and(|key| matches(pattern, key))
        });
        found.map(|(_, bytes)| change(bytes)).count()
    }

    /// The number of requests so far.
    pub fn count(&self, method: &str, pattern: &str) -> usize {
        let state = self.shared.state();
        let seen = state.seen.iter().filter(|(seen, key)| {
            seen == method
                && key
                    .strip_prefix("tier/")
                    .is_some_and(|key| matches(pattern, key))
        });
        seen.count()
    }
}

/// The key of a blob.
pub fn blob_key(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    format!("blobs/{algorithm}/{}/{hex}", &hex[..2])
}

/// Answers one request; `None` at the end of the connection.
fn serve(shared: &Shared, stream: &TcpStream) -> Option<()> {
    let request = read(stream)?;
    let ill = {
        let mut state = shared.state();
        state
            .seen
            .push((request.method.clone(), request.key.clone()));
        state.ill.clone()
    };
    let hang_up = || {
        let _ = stream.shutdown(Shutdown::Both);
        None
    };
    let writes = request.method != "GET" && request.method != "HEAD";
    let answer = match ill {
        Some(Ill::Down) => return hang_up(),
        Some(Ill::Silent) => {
            // Until the peer closes the connection.
            let _ = (&mut &*stream).read(&mut [0]);
            return hang_up();
        }
        Some(Ill::Slow(delay)) => {
            std::thread::sleep(delay);
            answer(shared, &request)
        }
        Some(Ill::Full) if writes => Answer::error(507, "InsufficientStorage"),
        Some(Ill::Refuses(status)) => Answer::error(status, "AccessDenied AKIDSHARED"),
        _ => answer(shared, &request),
    };
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nLast-Modified: Sat, 21 Nov 2026 08:00:00 GMT\r\n",
        answer.status,
        answer.body.len()
    );
    for (name, value) in &answer.headers {
        head.extend([name, ": ", value.as_str(), "\r\n"]);
    }
    let body: &[u8] = if request.method == "HEAD" {
        &[]
    } else {
        &answer.body
    };
    let stop = match ill {
        Some(Ill::DiesAt(at) | Ill::StallsAt(at)) if body.len() > 1 << 20 => Some(at),
        _ => None,
    };
    let mut out = stream;
    out.write_all(head.as_bytes()).ok()?;
    out.write_all(b"\r\n").ok()?;
    out.write_all(&body[..stop.unwrap_or(body.len()).min(body.len())])
        .ok()?;
    match ill {
        Some(Ill::DiesAt(_)) if stop.is_some() => {
            shared.state().ill = Some(Ill::Down);
            hang_up()
        }
        Some(Ill::StallsAt(_)) if stop.is_some() => {
            let _ = out.read(&mut [0]);
            hang_up()
        }
        _ => Some(()),
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    // Requests are not pipelined, so nothing of a next one is lost with the buffer.
    let mut input = BufReader::new(stream);
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.strip_prefix("/shared/").unwrap_or(path).to_owned();
    let mut request = Request {
        method,
        key,
        query: query.to_owned(),
        headers,
        body: Vec::new(),
    };
    let length = request
        .header("content-length")
        .and_then(|length| length.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    input.read_exact(&mut request.body).ok()?;
    Some(request)
}

fn answer(shared: &Shared, request: &Request) -> Answer {
    let mut state = shared.state();
    match (request.method.as_str(), request.parameter("uploadId")) {
        ("POST", _) | ("PUT" | "DELETE", Some(_)) => multipart(&mut state, request),
        _ => object(&mut state, request),
    }
}

/// Reads, writes or deletes an object.
fn object(state: &mut State, request: &Request) -> Answer {
    let key = request.key.clone();
    match request.method.as_str() {
        "GET" | "HEAD" => {
            let Some(bytes) = state.objects.get(&key) else {
                return Answer::error(404, "NoSuchKey");
            };
            let mut answer = Answer::new(200, bytes.clone());
            answer.headers.push(("ETag", etag(bytes)));
            answer
        }
        "DELETE" => {
            state.objects.remove(&key);
            Answer::new(204, "")
        }
        "PUT" => {
            let there = state.objects.get(&key).map(|bytes| etag(bytes));
            let absent = request.header("if-none-match") == Some("*");
            let wanted = request.header("if-match");
            if (absent && there.is_some())
                || wanted.is_some_and(|wanted| there.as_deref() != Some(wanted))
            {
                return Answer::error(412, "PreconditionFailed");
            }
            let mut answer = Answer::new(200, "");
            answer.headers.push(("ETag", etag(&request.body)));
            state.objects.insert(key, request.body.clone());
            answer
        }
        _ => Answer::error(400, "BadRequest"),
    }
}

/// Begins, continues, completes or aborts a multipart upload.
fn multipart(state: &mut State, request: &Request) -> Answer {
    let Some(id) = request.parameter("uploadId").map(ToOwned::to_owned) else {
        state.serial += 1;
        let id = format!("upload-{}", state.serial);
        state.uploads.insert(id.clone(), BTreeMap::new());
        return Answer::new(
            200,
            format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            ),
        );
    };
    match request.method.as_str() {
        "PUT" => {
            let number = request
                .parameter("partNumber")
                .and_then(|number| number.parse().ok());
            let (Some(parts), Some(number)) = (state.uploads.get_mut(&id), number) else {
                return Answer::error(404, "NoSuchUpload");
            };
            let mut answer = Answer::new(200, "");
            answer.headers.push(("ETag", etag(&request.body)));
            parts.insert(number, request.body.clone());
            answer
        }
        "POST" => {
            let Some(parts) = state.uploads.remove(&id) else {
                return Answer::error(404, "NoSuchUpload");
            };
            let bytes: Vec<u8> = parts.into_values().flatten().collect();
            let etag = etag(&bytes);
            state.objects.insert(request.key.clone(), bytes);
            Answer::new(
                200,
                format!(
                    "<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
                ),
            )
        }
        _ => {
            state.uploads.remove(&id);
            Answer::new(204, "")
        }
    }
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &sha256(bytes)[7..39])
}
