//! A scripted v2 upstream: an HTTP/1.1 server written by hand, over real sockets, in a thread of its own.
//!
//! ```text
//! let origin = Origin::start();
//! let image = origin.push_image("library/app", "latest", &[image::random(1, 1 << 20)]);
//! origin.fault(Fault::TruncateAt(1000).on("GET", "*/blobs/*").times(1));
//! let gateway = Gateway::mirror("docker.io", &origin.url(), "");
//! // …
//! assert_eq!(origin.count("GET", &image.blob_path(0)), 1);
//! ```
//!
//! Patterns of methods and paths take `*` for any characters. Paths are without the query.

mod auth;
mod content;
mod fault;
mod quota;
mod record;
mod respond;
mod serve;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;

pub use auth::{Auth, Bearer, CHALLENGE, User};
pub use content::{Image, MEDIA_CONFIG, MEDIA_INDEX, MEDIA_LAYER, MEDIA_MANIFEST};
pub use fault::{Fault, Latch, Rule, RuleId};
pub use quota::{PullCounter, PullTotals, Quota};
pub use record::Recorded;

use super::tls::Ca;
use content::Content;
use fault::Rules;

/// The upstream. Dropping it cuts every connection.
pub struct Origin {
    shared: Arc<Shared>,
    address: SocketAddr,
    ca: Option<Ca>,
    running: Option<Running>,
    /// Never listens: while the server is down, no other process gets its port.
    _port: TcpSocket,
}

/// The thread that serves.
struct Running {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

/// What tests change and the server reads.
#[derive(Default)]
struct State {
    content: Content,
    rules: Rules,
    auth: Auth,
    quotas: quota::Quotas,
    takes_pushes: bool,
    requests: Vec<Recorded>,
    /// The number of cleared requests; the first of `requests` has this number.
    forgotten: usize,
    connections: usize,
    open: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The TLS configuration of new connections; `None` for plain HTTP.
    tls: Mutex<Option<Arc<rustls::ServerConfig>>>,
    /// `http://…` or `https://…`, known once the socket is bound.
    url: std::sync::OnceLock<String>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record of request `number`, unless it was cleared.
    fn update(&self, number: usize, change: impl FnOnce(&mut Recorded)) {
        let mut state = self.state();
        let index = number.checked_sub(state.forgotten);
        if let Some(request) = index.and_then(|index| state.requests.get_mut(index)) {
            change(request);
        }
    }

    fn url(&self) -> &str {
        self.url.get().map_or("", String::as_str)
    }
}

impl Origin {
    /// Plain HTTP on `127.0.0.1`, on a port that the kernel chooses.
    pub fn start() -> Self {
        Self::launch(Ipv4Addr::LOCALHOST, None)
    }

    /// Plain HTTP on another loopback address, to be another host than `127.0.0.1`.
    pub fn start_on(ip: Ipv4Addr) -> Self {
        Self::launch(ip, None)
    }

    /// HTTPS for `localhost` and `127.0.0.1` with a private CA.
    pub fn start_tls() -> Self {
        Self::launch(Ipv4Addr::LOCALHOST, Some(Ca::new()))
    }

    fn launch(ip: Ipv4Addr, ca: Option<Ca>) -> Self {
        let port = TcpSocket::new_v4().expect("a socket");
        port.set_reuseaddr(true).expect("a socket's option");
        port.bind(SocketAddr::from((ip, 0))).expect("a free port");
        let mut origin = Self {
            shared: Arc::default(),
            address: port.local_addr().expect("a bound socket"),
            ca: None,
            running: None,
            _port: port,
        };
        if let Some(ca) = ca {
            origin.move_to(ca);
        }
        origin.up();
        let scheme = if origin.ca.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", origin.address);
        let _ = origin.shared.url.set(url);
        origin
    }

    /// Listens again on its port, unless it is listening already.
    pub fn up(&mut self) {
        if self.running.is_some() {
            return;
        }
        let (stop, stopped) = oneshot::channel();
        let (listens, listening) = std::sync::mpsc::channel();
        let server = serve::Server {
            shared: Arc::clone(&self.shared),
            address: self.address,
        };
        let thread = std::thread::spawn(move || server.run(&listens, stopped));
        listening
            .recv_timeout(super::SOON)
            .expect("the origin listens");
        self.running = Some(Running { stop, thread });
    }

    /// Stops listening and cuts every connection: connecting is refused until [`Origin::up`].
    pub fn down(&mut self) {
        if let Some(Running { stop, thread }) = self.running.take() {
            let _ = stop.send(());
            let _ = thread.join();
            self.shared.state().open = 0;
        }
    }

    /// `http://127.0.0.1:PORT` or `https://…`.
    pub fn url(&self) -> String {
        self.shared.url().to_owned()
    }

    /// `127.0.0.1:PORT`.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    /// The CA of an origin with TLS.
    #[track_caller]
    pub fn ca_path(&self) -> PathBuf {
        self.ca.as_ref().expect("an origin with TLS").path()
    }

    /// Uses a certificate of another CA for new connections. Returns the former CA.
    pub fn move_to(&mut self, ca: Ca) -> Option<Ca> {
        let leaf = ca.issue(&["localhost", &self.address.ip().to_string()]);
        let config = super::tls::server_config(&leaf);
        *self
            .shared
            .tls
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(config);
        self.ca.replace(ca)
    }

    // ---- contents ----

    /// Adds a blob to a repository; returns its digest.
    pub fn push_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> String {
        self.shared
            .state()
            .content
            .push_blob(repository, bytes.into())
    }

    /// Adds a blob under any digest, right or wrong.
    pub fn push_blob_as(&self, repository: &str, digest: &str, bytes: impl Into<Bytes>) {
        let mut state = self.shared.state();
        state.content.push_blob_as(repository, digest, bytes.into());
    }

    /// Adds a manifest to a repository, and optionally a tag; returns its digest.
    pub fn push_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) -> String {
        let mut state = self.shared.state();
        state
            .content
            .push_manifest(repository, tag, media_type, bytes.into())
    }

    /// Adds an OCI image of these layers.
    pub fn push_image(&self, repository: &str, tag: &str, layers: &[Vec<u8>]) -> Image {
        self.shared
            .state()
            .content
            .push_image(repository, tag, layers)
    }

    /// Adds an OCI index of images of the same repository.
    pub fn push_index(&self, repository: &str, tag: &str, images: &[&Image]) -> Image {
        self.shared
            .state()
            .content
            .push_index(repository, tag, images)
    }

    /// Adds an artifact that refers to `subject` and appears in its referrers.
    pub fn push_referrer(&self, subject: &Image, artifact_type: &str, content: &[u8]) -> Image {
        let mut state = self.shared.state();
        state.content.push_referrer(subject, artifact_type, content)
    }

    /// Points a tag at a manifest, as a push by somebody else would.
    pub fn tag(&self, repository: &str, tag: &str, digest: &str) {
        self.shared.state().content.tag(repository, tag, digest);
    }

    /// Sets the manifest of a tag for clients that accept schema 1 only. It is served by its tag only, as registries
    /// generate it; `digest` is its name.
    pub fn convert(
        &self,
        repository: &str,
        tag: &str,
        digest: &str,
        media_type: &str,
        bytes: impl Into<Bytes>,
    ) {
        let (media_type, bytes) = (media_type.to_owned(), bytes.into());
        let manifest = content::Manifest { media_type, bytes };
        let mut state = self.shared.state();
        state.content.convert(repository, tag, digest, manifest);
    }

    /// Removes a tag; its manifest stays.
    pub fn delete_tag(&self, repository: &str, tag: &str) {
        self.shared.state().content.delete_tag(repository, tag);
    }

    /// Removes a manifest, and the tags that point at it.
    pub fn delete_manifest(&self, repository: &str, digest: &str) {
        let mut state = self.shared.state();
        state.content.delete_manifest(repository, digest);
    }

    /// Removes a blob from one repository.
    pub fn delete_blob(&self, repository: &str, digest: &str) {
        self.shared.state().content.delete_blob(repository, digest);
    }

    /// Accepts pushes and deletes from now on; a blob is sent in the final PUT of its upload.
    pub fn take_pushes(&self) {
        self.shared.state().takes_pushes = true;
    }

    // ---- faults and access control ----

    /// Adds a fault: `Fault::Gzip` everywhere, or `Fault::Gzip.on("GET", "*/blobs/*").times(1)`. Faults
    /// of different kinds add up; of the same kind the newest that applies wins.
    pub fn fault(&self, rule: impl Into<Rule>) -> RuleId {
        self.shared.state().rules.add(rule.into())
    }

    /// Removes one fault. Running requests keep theirs.
    pub fn heal(&self, id: RuleId) {
        self.shared.state().rules.remove(id);
    }

    /// Removes all faults.
    pub fn heal_all(&self) {
        self.shared.state().rules = Rules::default();
    }

    /// How often a fault has been applied.
    pub fn applied(&self, id: RuleId) -> usize {
        self.shared.state().rules.applied(id)
    }

    /// Sets the access control; [`Auth::None`] at first.
    pub fn require(&self, auth: Auth) {
        self.shared.state().auth = auth;
    }

    /// Changes the bearer rules while tokens are valid.
    #[track_caller]
    pub fn change_bearer(&self, change: impl FnOnce(&mut Bearer)) {
        match &mut self.shared.state().auth {
            Auth::Bearer(bearer) => change(bearer),
            _ => panic!("no bearer rules are set"),
        }
    }

    /// Revokes all tokens.
    pub fn revoke_tokens(&self) {
        self.change_bearer(Bearer::revoke);
    }

    // ---- limits ----

    /// Limits pulls from now on, each account by itself.
    pub fn limit_pulls(&self, quota: Quota) {
        self.shared.state().quotas.set(Some(quota));
    }

    /// Lets the windows of all accounts pass.
    pub fn renew_pulls(&self) {
        self.shared.state().quotas.renew();
    }

    /// How many pulls an account has left; `anonymous` without one.
    #[track_caller]
    pub fn pulls_left(&self, account: &str) -> usize {
        let left = self.shared.state().quotas.left(account);
        left.expect("a limit of pulls")
    }

    /// The pulls of all accounts.
    pub fn pull_totals(&self) -> PullTotals {
        self.shared.state().quotas.totals()
    }

    // ---- recorded requests ----

    /// The number of requests for a method and path (patterns).
    pub fn count(&self, method: &str, path: &str) -> usize {
        let state = self.shared.state();
        let matching = state.requests.iter().filter(|r| r.matches(method, path));
        matching.count()
    }

    /// Every request so far, in order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().requests.clone()
    }

    /// The requests for a method and path (patterns).
    pub fn requests_for(&self, method: &str, path: &str) -> Vec<Recorded> {
        let mut requests = self.requests();
        requests.retain(|request| request.matches(method, path));
        requests
    }

    /// Body bytes handed to the kernel for paths that match.
    pub fn bytes_sent(&self, path: &str) -> u64 {
        let state = self.shared.state();
        let matching = state.requests.iter().filter(|r| r.matches("*", path));
        matching.map(|request| request.sent).sum()
    }

    /// Clears the recorded requests; counting restarts.
    pub fn clear_requests(&self) {
        let mut state = self.shared.state();
        state.forgotten += state.requests.len();
        state.requests.clear();
    }

    /// Waits for `n` requests for a method and path (patterns).
    #[track_caller]
    pub fn wait_for(&self, method: &str, path: &str, n: usize) {
        super::until(&format!("{n} × {method} {path} upstream"), || {
            self.count(method, path) >= n
        });
    }

    /// Connections open now.
    pub fn open_connections(&self) -> usize {
        self.shared.state().open
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- requests of {} ---", self.url());
            for request in &self.requests() {
                let Recorded {
                    method,
                    path,
                    query,
                    status,
                    sent,
                    ..
                } = request;
                eprintln!("{method} {path} ?{query} -> {status}, {sent} bytes");
            }
        }
        self.down();
    }
}
