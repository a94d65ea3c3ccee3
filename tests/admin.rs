//! The admin address of the real binary, and the commands that use it: metrics, health, purges, verification.

mod access;
mod commands;
mod contract;
mod events;
mod explain;
mod health;
mod many;
mod metrics;
mod monitoring;
mod operators;
mod pins;
mod purge;
#[cfg(feature = "v1")]
mod purge_v1;
mod reads;
mod schema;
mod verify;
mod waiting;
mod warm;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use testkit::gateway::Gateway;
use testkit::http::{Connect, Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Image, Origin};
use testkit::{process, until};

/// The admin address on a port that the kernel chooses.
const ANYWHERE: &str = "admin: {address: \"127.0.0.1:0\"}\n";
/// An admin address that the commands find, since they read the same configuration.
const SOCKET: &str = "admin: {address: \"unix:admin.sock\"}\n";

/// An upstream with an image of one layer, and a gateway in front of it.
fn scene(layer: usize, more: &str) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, layer)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), more);
    (origin, image, gateway)
}

/// A GET of the data plane.
#[track_caller]
fn fetch(gateway: &Gateway, path: &str) -> Reply {
    get(gateway.url(1), None, path)
}

/// Pulls an image as a client does: the tag, the configuration, the layer.
#[track_caller]
fn pull(gateway: &Gateway, image: &Image) {
    let manifest = fetch(gateway, &image.tag_path());
    assert!(manifest.body == image.manifest, "{manifest:?}");
    for path in [image.blob_path(0), image.layer_path(0)] {
        assert_eq!(fetch(gateway, &path).status(), 200, "{path}");
    }
}

/// The `Cache-Status` of a response: `hit`, `fwd=uri-miss; …`.
#[track_caller]
fn fate(gateway: &Gateway, path: &str) -> String {
    let reply = fetch(gateway, path);
    assert!(reply.is_complete() && reply.status() == 200, "{reply:?}");
    let status = reply.header("cache-status").expect("a status");
    status.trim_start_matches("roadstead; ").to_owned()
}

/// A GET of the admin address.
#[track_caller]
fn ask(gateway: &Gateway, path: &str) -> Reply {
    get(gateway.operators("admin.address"), None, path)
}

/// The JSON of a GET of the admin address, which must succeed.
#[track_caller]
fn read(gateway: &Gateway, path: &str) -> Value {
    let reply = ask(gateway, path);
    assert_eq!(reply.status(), 200, "{path}: {reply:?}");
    serde_json::from_slice(&reply.body).expect("JSON")
}

/// The members of the items of a page.
#[track_caller]
fn members(page: &Value, name: &str) -> Vec<String> {
    let items = page["items"].as_array().expect("items").iter();
    items
        .map(|item| item[name].as_str().expect("a text").to_owned())
        .collect()
}

/// Sends a POST to the admin address.
#[track_caller]
fn act(gateway: &Gateway, path: &str, json: &str) -> Reply {
    let mut raw = Raw::connect(gateway.operators("admin.address"), None);
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Roadstead-Request: 1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        json.len()
    );
    raw.send(head + json);
    raw.reply("POST")
}

/// Runs a command of the binary with the gateway's own configuration.
fn command(gateway: &Gateway, arguments: &[&str]) -> Output {
    command_in(gateway.dir(), arguments)
}

fn command_in(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = process::command(testkit::binary());
    command
        .current_dir(dir)
        .args(arguments)
        .args(["-c", "roadstead.yaml"]);
    process::run(&mut command, Duration::from_secs(30)).expect("it runs to its end")
}

/// Removes the damaged files of state with this name that were moved aside; returns what was in them.
fn take_aside(gateway: &Gateway, name: &str) -> Vec<Vec<u8>> {
    let start = format!("{name}.damaged-");
    let files = std::fs::read_dir(gateway.store().join("state")).expect("a folder");
    let files = files.map(|file| file.expect("an entry"));
    let aside = files.filter(|file| file.file_name().to_string_lossy().starts_with(&start));
    let taken = aside.map(|file| {
        let bytes = std::fs::read(file.path()).expect("readable");
        std::fs::remove_file(file.path()).expect("writable");
        bytes
    });
    taken.collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A size as the commands write it: `12.3 KiB`.
fn kib(bytes: usize) -> String {
    let bytes = u32::try_from(bytes).expect("a small size");
    format!("{:.1} KiB", f64::from(bytes) / 1024.0)
}

/// The samples of `/metrics`, keyed by series with labels as written.
#[derive(Debug)]
struct Metrics {
    text: String,
    values: BTreeMap<String, f64>,
}

impl Metrics {
    #[track_caller]
    fn of(gateway: &Gateway) -> Self {
        let reply = ask(gateway, "/metrics");
        let kind = reply.header("content-type");
        assert_eq!(
            (reply.status(), kind),
            (200, Some("text/plain; version=0.0.4")),
            "{reply:?}"
        );
        Self::parse(reply.text())
    }

    /// Parses the text format strictly: each family is described before its samples, in one piece, and no series
    /// repeats.
    #[track_caller]
    fn parse(text: String) -> Self {
        let (mut values, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut family, mut kind) = (String::new(), String::new());
        assert!(text.ends_with('\n'), "the last line ends");
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, words) = help.split_once(' ').expect("a name and words");
                assert!(families.insert(name.to_owned()), "{name} twice");
                assert!(!words.is_empty(), "{line}");
                (family, kind) = (name.to_owned(), String::new());
            } else if let Some(described) = line.strip_prefix("# TYPE ") {
                let (name, told) = described.split_once(' ').expect("a name and a type");
                assert!(name == family && kind.is_empty(), "{line}");
                assert!(["counter", "gauge", "histogram"].contains(&told), "{line}");
                assert_eq!(told == "counter", name.ends_with("_total"), "{line}");
                told.clone_into(&mut kind);
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let name = series.split('{').next().expect("a name");
                let of = match kind.as_str() {
                    "histogram" => ["_bucket", "_sum", "_count"]
                        .iter()
                        .any(|end| name.strip_suffix(end) == Some(&family)),
                    _ => name == family,
                };
                assert!(of && !kind.is_empty(), "{line} below {family}");
                let value: f64 = value.parse().unwrap_or_else(|_| panic!("{line}"));
                assert!(value.is_finite() && value >= 0.0, "{line}");
                assert!(
                    values.insert(series.to_owned(), value).is_none(),
                    "{series} twice"
                );
            }
        }
        Self { text, values }
    }

    /// The value of a series; 0 if it is absent.
    fn get(&self, series: &str) -> u64 {
        let value = self.values.get(series).copied().unwrap_or(0.0);
        let whole = format!("{value}").parse();
        whole.unwrap_or_else(|_| panic!("{series} is {value}"))
    }

    #[track_caller]
    fn assert(&self, expected: &[(&str, u64)]) {
        for &(series, value) in expected {
            assert_eq!(self.get(series), value, "{series} in\n{}", self.text);
        }
    }
}

/// The metrics once `requests` GETs of this kind are counted, which happens shortly after the client has the whole
/// response.
#[track_caller]
fn metrics_after(gateway: &Gateway, handler: &str, requests: u64) -> Metrics {
    let series = format!(
        "registry_http_requests_total{{code=\"200\",handler=\"{handler}\",method=\"get\"}}"
    );
    testkit::eventually(&format!("{requests} GETs of a {handler}"), || {
        let metrics = Metrics::of(gateway);
        // A fill ends after its readers.
        let ended = metrics.get("roadstead_fills_in_flight") == 0;
        (ended && metrics.get(&series) >= requests).then_some(metrics)
    })
}
