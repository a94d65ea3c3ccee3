//! A scripted registry of the v1 API over real sockets, as docker-registry 0.9 answers, faults included: its
//! ranges are a byte short, `If-Modified-Since` is always 304, and it goes by the Host that it is asked as.
//! With [`Script::tokens`] it believes an index's tokens alone, and with [`Script::index`] it is that index.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

/// What it does beside answering.
#[expect(
    clippy::struct_excessive_bools,
    reason = "its faults have nothing to do with one another"
)]
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Only whoever brings this token is answered about tags and images.
    pub tokens: Option<String>,
    /// The token that it gives, as an index does.
    pub index: Option<String>,
    /// Names of one component are unknown to it.
    pub two_components: bool,
    /// It closes each connection after an answer, without saying so.
    pub hangs_up: bool,
    /// Where layers are, instead of here.
    pub storage: Option<String>,
    /// The status of every answer from now on.
    pub broken: Option<u16>,
    /// It ignores `Range`.
    pub no_ranges: bool,
    /// How many layers from now on it breaks off in the middle.
    pub cuts: usize,
    /// What it says of every layer's checksum.
    pub claims: Option<String>,
    /// So many bytes of a body it sends, and then hangs up; layers and descriptions, a layer's ranges not.
    pub truncate: Option<usize>,
    /// So many bytes of a layer it sends, and the rest when this is taken away.
    pub hold: Option<usize>,
    /// What it says that payloads hash to, made of the true one; nothing where it is absent.
    pub checksum: Option<fn(&str) -> String>,
    /// The last byte of every layer is another one.
    pub sends_wrong_bytes: bool,
    /// It says nothing of a layer's length beside its description, and sends it in chunks.
    pub chunked: bool,
    /// It says of no answer how long it is: it ends with the connection.
    pub unframed: bool,
    /// It leaves `X-Docker-Size` out.
    pub no_sizes: bool,
    /// Lists and tags are unknown to it: its index has them.
    pub no_tags: bool,
    /// An image that it lost.
    pub lost: Option<String>,
    /// It takes requests and answers none of them, for as long as this is so.
    pub mute: bool,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub connection: usize,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What it holds.
#[derive(Debug, Default)]
struct State {
    script: Script,
    /// `namespace/name` to its image list and tags.
    repositories: BTreeMap<String, (Vec<Value>, BTreeMap<String, String>)>,
    images: BTreeMap<String, Held>,
    seen: Vec<Seen>,
}

#[derive(Debug, Default)]
struct Held {
    json: Vec<u8>,
    layer: Option<Vec<u8>>,
    complete: bool,
}

/// A running registry.
pub struct V1Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Its script was changed.
    changed: Arc<Condvar>,
    ended: Arc<AtomicBool>,
}

impl V1Registry {
    pub fn start() -> Self {
        Self::with(Script::default())
    }

    pub fn with(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State {
            script,
            ..State::default()
        }));
        let ended = Arc::new(AtomicBool::new(false));
        let changed = Arc::new(Condvar::new());
        let (shared, stop, waker) = (state.clone(), ended.clone(), changed.clone());
        std::thread::spawn(move || {
            let count = AtomicUsize::new(0);
            for stream in listener.incoming().map_while(Result::ok) {
                if stop.load(Ordering::SeqCst) {
                    break;
                }
                let (shared, number) = (shared.clone(), count.fetch_add(1, Ordering::SeqCst));
                let (stop, waker) = (stop.clone(), waker.clone());
                std::thread::spawn(move || serve(&stream, &shared, &waker, &stop, number));
            }
        });
        Self {
            address,
            state,
            changed,
            ended,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Changes what it does from now on.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state().script);
        self.changed.notify_all();
    }

    /// Puts an image of these layers there, the first of which is the root; ids from root to top.
    pub fn push_image(&self, name: &str, tag: &str, layers: &[&[u8]]) -> Vec<String> {
        let images: Vec<_> = layers.iter().map(|layer| (json!({}), *layer)).collect();
        self.put_image(name, tag, &images)
    }

    /// Puts an image there of what is said about each, root first, and its layer. `id` and `parent` are added;
    /// the ids.
    pub fn put_image(&self, name: &str, tag: &str, images: &[(Value, &[u8])]) -> Vec<String> {
        let mut state = self.state();
        let mut ids: Vec<String> = Vec::new();
        for (description, layer) in images {
            let mut json = description.clone();
            let seed = format!("{name}{:?}{json}", ids.last());
            let id = super::sha256(&[seed.as_bytes(), layer].concat())[7..].to_owned();
            json["id"] = json!(id);
            if let Some(parent) = ids.last() {
                json["parent"] = json!(parent);
            }
            let held = Held {
                json: json.to_string().into_bytes(),
                layer: Some(layer.to_vec()),
                complete: true,
            };
            state.images.insert(id.clone(), held);
            ids.push(id);
        }
        let (list, tags) = state.repositories.entry(name.to_owned()).or_default();
        list.extend(ids.iter().map(|id| json!({"id": id})));
        tags.insert(tag.to_owned(), ids.last().expect("a layer").clone());
        ids
    }

    /// Says something else of an image.
    pub fn put_json(&self, id: &str, json: &Value) {
        let mut state = self.state();
        state.images.get_mut(id).expect("an image").json = json.to_string().into_bytes();
    }

    /// Gives an image another layer.
    pub fn put_layer(&self, id: &str, layer: &[u8]) {
        let mut state = self.state();
        state.images.get_mut(id).expect("an image").layer = Some(layer.to_vec());
    }

    /// Takes an image away, whatever stands on it.
    pub fn delete_image(&self, id: &str) {
        self.state().images.remove(id).expect("an image");
    }

    /// Puts a tag there, or another image under it.
    pub fn put_tag(&self, name: &str, tag: &str, id: &str) {
        let mut state = self.state();
        let (_, tags) = state.repositories.entry(name.to_owned()).or_default();
        tags.insert(tag.to_owned(), id.to_owned());
    }

    /// Takes a tag away.
    pub fn delete_tag(&self, name: &str, tag: &str) {
        let mut state = self.state();
        let (_, tags) = state.repositories.get_mut(name).expect("a repository");
        tags.remove(tag).expect("a tag");
    }

    /// How often it was asked so: `GET`, and what the path ends with.
    pub fn count(&self, method: &str, end: &str) -> usize {
        let mut asked = self.asked(end);
        asked.retain(|seen| seen.line.starts_with(&format!("{method} ")));
        asked.len()
    }

    /// What was asked so far whose path ends like this.
    pub fn asked(&self, end: &str) -> Vec<Seen> {
        let mut seen = self.seen();
        seen.retain(|seen| seen.line.ends_with(&format!("{end} HTTP/1.1")));
        seen
    }

    /// Leaves a repository's image list empty: only its tags name images.
    pub fn empty_list(&self, name: &str) {
        self.state()
            .repositories
            .get_mut(name)
            .expect("a repository")
            .0
            .clear();
    }

    /// Everything that was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().seen.clone()
    }

    /// Forgets what was asked.
    pub fn forget(&self) {
        self.state().seen.clear();
    }

    /// A layer as it was pushed.
    pub fn layer(&self, id: &str) -> Option<Vec<u8>> {
        self.state().images.get(id)?.layer.clone()
    }

    pub fn tag(&self, name: &str, tag: &str) -> Option<String> {
        self.state().repositories.get(name)?.1.get(tag).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread of it panics")
    }
}

impl Drop for V1Registry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    stream: &TcpStream,
    state: &Mutex<State>,
    changed: &Condvar,
    ended: &AtomicBool,
    connection: usize,
) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = request(&mut reader, connection) {
        if ended.load(Ordering::SeqCst) {
            return;
        }
        let (answer, hangs_up) = {
            let Ok(mut state) = state.lock() else { return };
            state.seen.push(request.clone());
            while state.script.mute && !ended.load(Ordering::SeqCst) {
                let Ok(woken) = changed.wait(state) else {
                    return;
                };
                state = woken;
            }
            let mut answer = answer(&mut state, &request);
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

fn request(reader: &mut BufReader<&TcpStream>, connection: usize) -> Option<Seen> {
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
    let mut seen = Seen {
        line: first,
        headers,
        body: Vec::new(),
        connection,
    };
    if seen.header("transfer-encoding") == Some("chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; size + 2];
            reader.read_exact(&mut chunk).ok()?;
            seen.body.extend(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = seen.header("content-length") {
        seen.body = vec![0; length.parse().ok()?];
        reader.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    /// Announced, where it is not what follows.
    length: Option<usize>,
    body: Vec<u8>,
    chunked: bool,
    unframed: bool,
}

impl Answer {
    fn json(status: u16, body: &Value) -> Self {
        Self {
            status,
            headers: vec![("Content-Type".into(), "application/json".into())],
            length: None,
            body: body.to_string().into_bytes(),
            chunked: false,
            unframed: false,
        }
    }

    fn error(status: u16, text: &str) -> Self {
        Self::json(status, &json!({"error": text}))
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    fn cacheable(self) -> Self {
        self.with("Cache-Control", "public, max-age=31536000")
            .with("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")
            .with("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT")
    }

    fn bytes(&self, head: bool) -> Vec<u8> {
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
        // It stands behind something that sets cookies, and calls itself what v2 must not be called twice.
        text += "Set-Cookie: session=1\r\n\r\n";
        let mut bytes = text.into_bytes();
        if !head {
            bytes.extend(self.framed());
        }
        bytes
    }

    /// The body as it goes over the line.
    fn framed(&self) -> Vec<u8> {
        if !self.chunked {
            return self.body.clone();
        }
        let mut bytes = format!("{:x}\r\n", self.body.len()).into_bytes();
        bytes.extend(&self.body);
        bytes.extend(b"\r\n0\r\n\r\n");
        bytes
    }

    fn body_length(&self, request: &Seen) -> usize {
        if request.line.starts_with("HEAD ") {
            0
        } else {
            self.framed().len()
        }
    }
}

fn answer(state: &mut State, request: &Seen) -> Answer {
    let mut words = request.line.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = if method == "HEAD" { "GET" } else { method };
    if let Some(status) = state.script.broken {
        return Answer::error(status, "broken");
    }
    let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match segments.as_slice() {
        ["v1", "search"] => search(state, query),
        ["v1", "images", id, part] => {
            if let Some(refused) = refused(state, request) {
                return refused;
            }
            image(state, request, method, id, part)
        }
        ["v1", "repositories", namespace, name, rest @ ..] => {
            if state.script.no_tags && matches!(rest, ["tags", ..]) {
                return Answer::error(404, "Repository not found");
            }
            let of_index = matches!(rest, ["" | "images" | "auth"]);
            if !of_index && let Some(refused) = refused(state, request) {
                return refused;
            }
            repository(state, request, method, &format!("{namespace}/{name}"), rest)
        }
        _ => Answer::error(404, "no such route"),
    }
}

fn refused(state: &State, request: &Seen) -> Option<Answer> {
    let token = state.script.tokens.as_ref()?;
    let sent = request.header("authorization").unwrap_or_default();
    let good = sent == format!("Token {token}");
    (!good).then(|| Answer::error(401, "Requires authorization").with("WWW-Authenticate", "Token"))
}

fn search(state: &State, query: &str) -> Answer {
    let results: Vec<Value> = state
        .repositories
        .keys()
        .map(|name| json!({"name": name, "description": ""}))
        .collect();
    Answer::json(
        200,
        &json!({"num_results": results.len(), "query": query, "results": results}),
    )
}

fn repository(
    state: &mut State,
    request: &Seen,
    method: &str,
    name: &str,
    rest: &[&str],
) -> Answer {
    let host = request.header("host").unwrap_or_default().to_owned();
    let given = state.script.index.clone();
    let endpoints = move |answer: Answer| {
        let answer = answer.with("X-Docker-Endpoints", host.clone());
        match &given {
            Some(token) => answer.with("X-Docker-Token", token.clone()),
            None => answer.with("X-Docker-Token", "Token signature=THEIRS,access=all"),
        }
    };
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    match (method, rest) {
        ("PUT", ["" | "images"]) => {
            let (list, _) = state.repositories.entry(name.to_owned()).or_default();
            let new = body.as_array().cloned().unwrap_or_default();
            list.extend(
                new.into_iter()
                    .filter(|item| !list.contains(item))
                    .collect::<Vec<_>>(),
            );
            let ends = rest == ["images"];
            endpoints(Answer::json(if ends { 204 } else { 200 }, &json!("")))
        }
        ("GET", ["images"]) => match state.repositories.get(name) {
            Some((list, _)) => endpoints(Answer::json(200, &json!(list))),
            None => Answer::error(404, "images not found"),
        },
        ("GET", ["tags"]) => match state.repositories.get(name) {
            Some((_, tags)) => Answer::json(200, &json!(tags)),
            None => Answer::error(404, "Repository not found"),
        },
        ("GET", ["json"]) => Answer::json(200, &json!({"arch": "amd64", "os": "linux"})),
        ("GET", ["tags", tag]) => {
            let known = state.repositories.get(name);
            match known.and_then(|(_, tags)| tags.get(*tag)) {
                Some(id) => Answer::json(200, &json!(id)),
                None => Answer::error(404, "Tag not found"),
            }
        }
        ("PUT", ["tags", tag]) => {
            let id = body.as_str().unwrap_or_default().to_owned();
            if !state.images.contains_key(&id) {
                return Answer::error(404, "Image not found");
            }
            let (_, tags) = state.repositories.entry(name.to_owned()).or_default();
            tags.insert((*tag).to_owned(), id);
            Answer::json(200, &json!(true))
        }
        // The slash is missing.
        ("DELETE", []) => {
            let location = format!(
                "http://{}/v1/repositories/{name}/",
                request.header("host").unwrap_or_default()
            );
            Answer::error(301, "moved").with("Location", location)
        }
        ("DELETE", ["" | "tags"]) => match state.repositories.remove(name) {
            Some(_) => Answer::json(200, &json!(true)),
            None => Answer::error(404, "Repository not found"),
        },
        _ => Answer::error(404, "no such route"),
    }
}

fn image(state: &mut State, request: &Seen, method: &str, id: &str, part: &str) -> Answer {
    if method == "GET" && request.header("if-modified-since").is_some() {
        return Answer::error(304, "");
    }
    let lost = state.script.lost.as_deref() == Some(id);
    let Some(held) = state.images.get(id).filter(|_| !lost) else {
        return match (method, part) {
            ("PUT", "json") => {
                let held = Held {
                    json: request.body.clone(),
                    ..Held::default()
                };
                state.images.insert(id.to_owned(), held);
                Answer::json(200, &json!(true))
            }
            _ => Answer::error(404, "Image not found"),
        };
    };
    if method == "GET" && !held.complete {
        return Answer::error(400, "Image is being uploaded, retry later");
    }
    match (method, part) {
        ("GET", "json") => {
            let bytes = held.layer.as_deref().unwrap_or_default();
            let mut answer = Answer::error(200, "");
            if !state.script.no_sizes {
                answer = answer.with("X-Docker-Size", bytes.len().to_string());
            }
            if let Some(write) = state.script.checksum {
                let payload = super::sha256(&[&held.json, &b"\n"[..], bytes].concat());
                answer = answer.with("X-Docker-Checksum-Payload", write(&payload));
            }
            answer.body.clone_from(&held.json);
            if let Some(sum) = &state.script.claims {
                answer = answer.with("X-Docker-Checksum-Payload", sum.clone());
            }
            answer.cacheable()
        }
        ("GET", "ancestry") => {
            let mut ids = vec![id.to_owned()];
            while let Some(parent) = state.images.get(ids.last().expect("one")).and_then(|held| {
                let json: Value = serde_json::from_slice(&held.json).ok()?;
                Some(json["parent"].as_str()?.to_owned())
            }) {
                ids.push(parent);
            }
            Answer::json(200, &json!(ids)).cacheable()
        }
        ("GET", "layer") => {
            if let Some(storage) = &state.script.storage {
                return Answer::error(302, "").with("Location", storage.clone());
            }
            let range = request.header("range").filter(|_| !state.script.no_ranges);
            let mut bytes = held.layer.clone().unwrap_or_default();
            if let Some(last) = bytes.last_mut().filter(|_| state.script.sends_wrong_bytes) {
                *last ^= 1;
            }
            let mut answer = layer(&bytes, range);
            answer.chunked = state.script.chunked && answer.status == 200;
            answer
        }
        ("PUT", "json") if held.complete => Answer::error(409, "Image already exists"),
        ("PUT", "json" | "layer") => {
            let held = state.images.get_mut(id).expect("it is there");
            if part == "json" {
                held.json.clone_from(&request.body);
            } else {
                held.layer = Some(request.body.clone());
            }
            Answer::json(200, &json!(true))
        }
        ("PUT", "checksum") => {
            let held = state.images.get_mut(id).expect("it is there");
            let sum = request.header("x-docker-checksum-payload");
            if sum.is_none() {
                return Answer::error(412, "Missing Image's checksum");
            }
            held.complete = true;
            Answer::json(200, &json!(true))
        }
        _ => Answer::error(405, "no such method"),
    }
}

/// A layer with the faults of docker-registry's ranges.
fn layer(bytes: &[u8], range: Option<&str>) -> Answer {
    let mut answer = Answer {
        status: 200,
        headers: vec![
            ("Content-Type".into(), "application/octet-stream".into()),
            ("Content-Encoding".into(), "gzip".into()),
        ],
        length: None,
        body: bytes.to_vec(),
        chunked: false,
        unframed: false,
    };
    let size = bytes.len();
    let Some((first, last)) = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'))
    else {
        return answer.with("Accept-Ranges", "bytes").cacheable();
    };
    let (Ok(first), last) = (
        first.parse::<usize>(),
        last.parse::<usize>().unwrap_or(size),
    ) else {
        return answer.cacheable();
    };
    // Nor is a single byte a range to it.
    if first >= size || last <= first {
        answer = Answer::error(416, "");
        answer.body.clear();
        return answer;
    }
    let end = (last + 1).min(size);
    answer.status = 206;
    answer.length = Some(last + 1 - first).map(|length| length.min(size + 1 - first));
    if last >= size {
        // One byte more is announced than there is.
        answer.length = Some(size + 1 - first);
    }
    answer.body = bytes[first..end].to_vec();
    answer.with("Content-Range", format!("{first}-{last}/{size}"))
}
