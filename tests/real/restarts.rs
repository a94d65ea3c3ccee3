//! docker-registry with token authentication, killed and started again while clients pull from it.
//!
//! A kill comes when a client has the first bytes of a layer that is being fetched. The registry is restarted when the
//! gateway has logged that it is gone; the first time only when the layer's download has failed. These are moments of
//! progress, not of time.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Web, at_once, block_on};
use testkit::image::Layout;
use testkit::real::{Missing, Registry, TokenServer, found};
use testkit::{eventually_within, http, sha256};

const USER: &str = "mirror";
const PASSWORD: &str = "s3cret: of the tokens";
const REPOSITORY: &str = "library/load";
/// Images to pull, each with one large layer, and as many kills: one for each such layer.
const IMAGES: usize = 4;
/// Bytes in a large layer: more than a kernel buffers of a connection whose sender was killed.
const PAYLOAD: usize = 16 << 20;
/// Half of them speak h1, half h2.
const CLIENTS: usize = 4;
/// The time for which a client retries one blob.
const PERSISTENCE: Duration = Duration::from_secs(90);

/// A blob to pull.
struct Blob {
    path: String,
    bytes: Vec<u8>,
    /// Whether the registry was killed over it.
    struck: AtomicBool,
}

impl Blob {
    fn is_large(&self) -> bool {
        self.bytes.len() > PAYLOAD
    }

    fn digest(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// The state that all clients share.
struct Load {
    blobs: Vec<Blob>,
    gateway: Gateway,
    url: String,
    ca: PathBuf,
    registry: Mutex<Registry>,
    kills: AtomicUsize,
    broken: AtomicUsize,
    refused: AtomicUsize,
}

/// A client's view of a response.
struct Got {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Whether the client takes the body for complete.
    whole: bool,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// A client of one version of HTTP.
enum Client {
    H1,
    H2(Web),
}

impl Client {
    fn new(number: usize, load: &Load) -> Self {
        if number.is_multiple_of(2) {
            Self::H1
        } else {
            Self::H2(Web::h2(Some(&load.ca)))
        }
    }

    /// Requests a blob from byte `from` on; calls `begun` with the first bytes of a 2xx.
    fn ask(&self, load: &Load, path: &str, from: usize, begun: impl Fn(&Got)) -> Got {
        let range = format!("bytes={from}-");
        let headers: &[(&str, &str)] = match from {
            0 => &[],
            _ => &[("Range", &range)],
        };
        match self {
            Self::H1 => by_h1(load, path, headers, begun),
            Self::H2(web) => by_h2(web, &format!("{}{path}", load.url), headers, begun),
        }
    }
}

fn by_h1(load: &Load, path: &str, headers: &[(&str, &str)], begun: impl Fn(&Got)) -> Got {
    let mut raw = Raw::connect(&load.url, Some(&load.ca));
    raw.request("GET", path, headers);
    let head = raw.read_head().expect("an answer");
    let length = head.length().expect("a length");
    let mut got = Got {
        status: head.status,
        headers: head.headers.clone(),
        body: Vec::new(),
        whole: false,
    };
    loop {
        let left = length - got.body.len() as u64;
        if left == 0 {
            got.whole = true;
            return got;
        }
        let most = usize::try_from(left).expect("in memory").min(64 << 10);
        let Ok(some) = raw.read_some(most) else {
            return got;
        };
        let first = got.body.is_empty();
        got.body.extend(some);
        if first && got.status < 300 {
            begun(&got);
        }
    }
}

fn by_h2(web: &Web, url: &str, headers: &[(&str, &str)], begun: impl Fn(&Got)) -> Got {
    let mut request = web.client().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = block_on(async { request.send().await }).expect("an answer");
    assert_eq!(answer.version(), ::http::Version::HTTP_2);
    let text = |value: &::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let mut got = Got {
        status: answer.status().as_u16(),
        headers: answer
            .headers()
            .iter()
            .map(|(name, value)| (name.to_string(), text(value)))
            .collect(),
        body: Vec::new(),
        whole: false,
    };
    loop {
        match block_on(async { answer.chunk().await }) {
            Ok(Some(bytes)) => {
                let first = got.body.is_empty();
                got.body.extend(bytes);
                if first && got.status < 300 {
                    begun(&got);
                }
            }
            Ok(None) => {
                got.whole = true;
                return got;
            }
            Err(_) => return got,
        }
    }
}

impl Load {
    fn filled(tokens: &TokenServer) -> Result<(Vec<Blob>, Registry), Missing> {
        let registry = Registry::start_with_tokens(tokens)?;
        let mut layout = Layout::new();
        let mut blobs = Vec::new();
        for seed in 0..IMAGES {
            let tag = seed.to_string();
            let made = layout.add_image(&tag, seed as u64, PAYLOAD);
            registry.push(&layout, &made, &format!("{REPOSITORY}:{tag}"))?;
            blobs.extend(made.content.iter().map(|digest| {
                let file = layout.path().join("blobs").join(digest.replace(':', "/"));
                Blob {
                    path: format!("/v2/{REPOSITORY}/blobs/{digest}"),
                    bytes: std::fs::read(file).expect("a blob of the layout"),
                    struck: AtomicBool::new(false),
                }
            }));
        }
        Ok((blobs, registry))
    }

    /// Kills the registry over a blob, waits until the gateway has detected it, and restarts it.
    fn strike(&self, blob: &Blob) {
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let number = self.kills.fetch_add(1, Ordering::Relaxed);
        registry.down();
        let path = format!("/v2/{REPOSITORY}/manifests/absent-{number}");
        let refused = http::get(&self.url, Some(&self.ca), &path);
        assert_eq!(refused.status(), 503, "{refused:?}");
        assert_eq!(refused.error_code().as_deref(), Some("UNAVAILABLE"));
        if number == 0 {
            let given_up = format!("failed digest={} ", blob.digest());
            eventually_within(PERSISTENCE, "the download to give up", || {
                self.gateway.log().contains(&given_up).then_some(())
            });
        }
        registry.up().expect("it was there before");
    }

    /// Requests the missing bytes of a blob once; returns whether `have` is complete then.
    fn pull(&self, client: &Client, blob: &Blob, have: &mut Vec<u8>) -> bool {
        let got = client.ask(self, &blob.path, have.len(), |begun| {
            let cold = begun
                .header("cache-status")
                .is_some_and(|status| status.contains("fwd=uri-miss"));
            if cold && blob.is_large() && !blob.struck.swap(true, Ordering::Relaxed) {
                self.strike(blob);
            }
        });
        match got.status {
            200 => have.clear(),
            206 => {
                let (first, size) = (have.len(), blob.bytes.len());
                let range = format!("bytes {first}-{}/{size}", size - 1);
                assert_eq!(got.header("content-range"), Some(range.as_str()));
            }
            _ => {
                self.check_refusal(&blob.path, &got);
                return false;
            }
        }
        have.extend(&got.body);
        assert!(
            blob.bytes.starts_with(have),
            "{}: other bytes than the blob's, {} of {}",
            blob.path,
            have.len(),
            blob.bytes.len()
        );
        let complete = have.len() == blob.bytes.len();
        assert_eq!(got.whole, complete, "{}: {} bytes", blob.path, have.len());
        if !complete {
            self.broken.fetch_add(1, Ordering::Relaxed);
        }
        complete
    }

    /// A refusal is complete, and its status and code say that it is temporary.
    fn check_refusal(&self, path: &str, got: &Got) {
        let body: serde_json::Value = serde_json::from_slice(&got.body).unwrap_or_default();
        let code = body["errors"][0]["code"].as_str();
        let known = matches!(
            (got.status, code),
            (503, Some("UNAVAILABLE")) | (429, Some("TOOMANYREQUESTS")) | (502, Some("UNKNOWN"))
        );
        assert!(known && got.whole, "{path}: {} {body}", got.status);
        assert!(got.status == 502 || got.header("retry-after").is_some());
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn registry_killed_repeatedly_under_load() {
    let tokens = TokenServer::start(Some((USER, PASSWORD)));
    let Some((blobs, registry)) = found(Load::filled(&tokens)) else {
        return;
    };
    let yaml = format!(
        "registries:\n\
         - name: docker.io\n  v2: \"{}\"\n  \
           credentials: {{username: {USER}, password: \"{PASSWORD}\"}}\n\
         access:\n  rules:\n  \
         - {{users: [anonymous], repositories: [\"docker.io/**\"], actions: [pull]}}\n",
        registry.url()
    );
    let gateway = Gateway::start(&yaml);
    let load = Load {
        blobs,
        url: gateway.url(0).to_owned(),
        ca: gateway.ca_path(),
        gateway,
        registry: Mutex::new(registry),
        kills: AtomicUsize::new(0),
        broken: AtomicUsize::new(0),
        refused: AtomicUsize::new(0),
    };
    for tag in 0..IMAGES {
        let path = format!("/v2/{REPOSITORY}/manifests/{tag}");
        let manifest = http::get(&load.url, Some(&load.ca), &path);
        let digest = sha256(&manifest.body);
        assert_eq!(manifest.status(), 200, "{manifest:?}");
        assert_eq!(manifest.header("docker-content-digest"), Some(&*digest));
    }

    at_once(CLIENTS, |number| {
        let client = Client::new(number, &load);
        // Each begins with another image.
        let start = number * load.blobs.len() / CLIENTS;
        for turn in 0..load.blobs.len() {
            let blob = &load.blobs[(start + turn) % load.blobs.len()];
            let mut have = Vec::new();
            eventually_within(PERSISTENCE, &blob.path, || {
                load.pull(&client, blob, &mut have).then_some(())
            });
        }
    });

    let [kills, broken, refused] =
        [&load.kills, &load.broken, &load.refused].map(|it| it.load(Ordering::Relaxed));
    println!("{kills} kills, {broken} broken bodies, {refused} refusals");
    // Each kill broke a download, which was resumed; the first outage lasted longer than a body can wait.
    assert_eq!(kills, IMAGES);
    assert!(broken > 0);
    let log = load.gateway.log();
    for blob in load.blobs.iter().filter(|blob| blob.is_large()) {
        assert!(resumed(&log, blob.digest()) > 0, "{}", blob.path);
    }
    // The final content was stored: a new client costs nothing, and there was no further login.
    let registry = load.registry.lock().expect("no client panicked");
    let before = registry.counters();
    let newcomer = Client::new(1, &load);
    for blob in &load.blobs {
        let got = newcomer.ask(&load, &blob.path, 0, |_| ());
        assert!(got.whole && got.status == 200 && got.body == blob.bytes);
        assert_eq!(got.header("cache-status"), Some("roadstead; hit"));
    }
    assert_eq!(registry.counters(), before);
    let asked = tokens.asked();
    let ours: Vec<_> = asked
        .iter()
        .filter(|asked| asked.user_agent.starts_with("roadstead/"))
        .collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert_eq!(ours[0].scopes, [format!("repository:{REPOSITORY}:pull")]);
    assert!(ours[0].granted);
    assert!(!log.contains(PASSWORD));
}

/// How often the download of a committed blob was resumed.
fn resumed(log: &str, digest: &str) -> u32 {
    let committed = format!("committed digest={digest} ");
    let line = log.lines().find(|line| line.contains(&committed));
    line.and_then(|line| {
        line.split_once("resumed=")?
            .1
            .split(' ')
            .next()?
            .parse()
            .ok()
    })
    .unwrap_or_else(|| panic!("{digest} was never committed"))
}
