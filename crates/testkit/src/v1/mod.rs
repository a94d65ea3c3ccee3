//! A scripted v1 registry over real sockets. It answers as docker-registry 0.9 does, faults included: ranges are a
//! byte short, `If-Modified-Since` always gets 304, and URLs repeat the request's `Host`. With [`Script::tokens`] it
//! accepts the tokens of an index only, and with [`Script::index`] it is that index.

mod connection;
mod routes;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use serde_json::{Value, json};

/// The faults and settings of a registry.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the faults are independent of one another"
)]
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// The token that requests for tags and images must have.
    pub tokens: Option<String>,
    /// The token that it issues, as an index does.
    pub index: Option<String>,
    /// It closes each connection after a response, without announcing it.
    pub hangs_up: bool,
    /// The URL that requests for layers are redirected to.
    pub storage: Option<String>,
    /// The status of every response.
    pub broken: Option<u16>,
    /// It ignores `Range`.
    pub no_ranges: bool,
    /// The number of layers that it will still cut off in the middle.
    pub cuts: usize,
    /// The checksum that it sends for every layer.
    pub claims: Option<String>,
    /// It sends this many bytes of a layer or image JSON, then closes the connection. Ranges are not cut.
    pub truncate: Option<usize>,
    /// It sends this many bytes of a layer, and the rest when this is reset to `None`.
    pub hold: Option<usize>,
    /// Makes the payload checksum header from the true checksum; `None`: no header.
    pub checksum: Option<fn(&str) -> String>,
    /// It changes the last byte of every layer.
    pub sends_wrong_bytes: bool,
    /// It sends layers chunked, without their length.
    pub chunked: bool,
    /// It ends every response by closing the connection, without its length.
    pub unframed: bool,
    /// It leaves `X-Docker-Size` out.
    pub no_sizes: bool,
    /// Lists and tags get 404: the index has them.
    pub no_tags: bool,
    /// The id of an image that gets 404.
    pub lost: Option<String>,
    /// It accepts requests and does not answer while this is set.
    pub mute: bool,
}

/// A received request.
#[derive(Clone, Debug)]
pub struct V1Request {
    /// The request line: `GET /v1/_ping HTTP/1.1`.
    pub line: String,
    /// In order, with the names as received.
    pub headers: Vec<(String, String)>,
    /// Empty without one.
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl V1Request {
    /// The first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self
            .headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Its contents, script and received requests.
#[derive(Debug, Default)]
struct State {
    script: Script,
    /// `namespace/name` to its image list and tags.
    repositories: BTreeMap<String, (Vec<Value>, BTreeMap<String, String>)>,
    images: BTreeMap<String, StoredImage>,
    requests: Vec<V1Request>,
}

#[derive(Debug, Default)]
struct StoredImage {
    json: Vec<u8>,
    layer: Option<Vec<u8>>,
    complete: bool,
}

/// A running registry.
pub struct V1Registry {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Notified when the script changes.
    changed: Arc<Condvar>,
    ended: Arc<AtomicBool>,
}

impl V1Registry {
    /// Starts it with the default script.
    pub fn start() -> Self {
        Self::with(Script::default())
    }

    /// Starts it with this script.
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
                std::thread::spawn(move || {
                    connection::serve(&stream, &shared, &waker, &stop, number);
                });
            }
        });
        Self {
            address,
            state,
            changed,
            ended,
        }
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:<port>`
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Changes the script.
    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state().script);
        self.changed.notify_all();
    }

    /// Adds an image of these layers, root first; returns the ids, root first.
    pub fn push_image(&self, name: &str, tag: &str, layers: &[&[u8]]) -> Vec<String> {
        let images: Vec<_> = layers.iter().map(|layer| (json!({}), *layer)).collect();
        self.put_image(name, tag, &images)
    }

    /// Adds an image of these JSON documents and layers, root first; `id` and `parent` are filled in. Returns the
    /// ids.
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
            let image = StoredImage {
                json: json.to_string().into_bytes(),
                layer: Some(layer.to_vec()),
                complete: true,
            };
            state.images.insert(id.clone(), image);
            ids.push(id);
        }
        let (list, tags) = state.repositories.entry(name.to_owned()).or_default();
        list.extend(ids.iter().map(|id| json!({"id": id})));
        tags.insert(tag.to_owned(), ids.last().expect("a layer").clone());
        ids
    }

    /// Replaces the JSON of an image.
    pub fn put_json(&self, id: &str, json: &Value) {
        let mut state = self.state();
        state.images.get_mut(id).expect("an image").json = json.to_string().into_bytes();
    }

    /// Replaces the layer of an image.
    pub fn put_layer(&self, id: &str, layer: &[u8]) {
        let mut state = self.state();
        state.images.get_mut(id).expect("an image").layer = Some(layer.to_vec());
    }

    /// Removes an image, even if others have it as their parent.
    pub fn delete_image(&self, id: &str) {
        self.state().images.remove(id).expect("an image");
    }

    /// Sets a tag.
    pub fn put_tag(&self, name: &str, tag: &str, id: &str) {
        let mut state = self.state();
        let (_, tags) = state.repositories.entry(name.to_owned()).or_default();
        tags.insert(tag.to_owned(), id.to_owned());
    }

    /// Removes a tag.
    pub fn delete_tag(&self, name: &str, tag: &str) {
        let mut state = self.state();
        let (_, tags) = state.repositories.get_mut(name).expect("a repository");
        tags.remove(tag).expect("a tag");
    }

    /// The number of requests of a method whose target ends with `end`.
    pub fn count(&self, method: &str, end: &str) -> usize {
        let mut requests = self.requests_to(end);
        requests.retain(|request| request.line.starts_with(&format!("{method} ")));
        requests.len()
    }

    /// The requests whose target ends with `end`.
    pub fn requests_to(&self, end: &str) -> Vec<V1Request> {
        let mut requests = self.requests();
        requests.retain(|request| request.line.ends_with(&format!("{end} HTTP/1.1")));
        requests
    }

    /// Empties a repository's image list: only its tags name images.
    pub fn empty_list(&self, name: &str) {
        self.state()
            .repositories
            .get_mut(name)
            .expect("a repository")
            .0
            .clear();
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<V1Request> {
        self.state().requests.clone()
    }

    /// Clears the recorded requests.
    pub fn clear_requests(&self) {
        self.state().requests.clear();
    }

    /// A layer as it was pushed.
    pub fn layer(&self, id: &str) -> Option<Vec<u8>> {
        self.state().images.get(id)?.layer.clone()
    }

    /// The image id that a tag points at.
    pub fn tag(&self, name: &str, tag: &str) -> Option<String> {
        self.state().repositories.get(name)?.1.get(tag).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics")
    }
}

impl Drop for V1Registry {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        self.changed.notify_all();
        let _ = TcpStream::connect(self.address);
    }
}
