//! The bytes that Docker 1.0 to 1.12 send: `recorded/*.http` has every request of a login, a search, a push and a pull
//! with the order and spelling of that time's Go client, and after each, behind `<`, the parts of the response that
//! this Docker needs. Only `{…}` is filled in: the host, ids, the token it was given, and values that depend on a
//! layer.

use serde_json::Value;

use crate::v1::{RULES, accounts};
use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Reply};
use testkit::image::random;
use testkit::sha256;
use testkit::v1::V1Registry;

const RECORDED: [(&str, &str); 6] = [
    ("1.0", include_str!("recorded/docker-1.0.http")),
    ("1.3", include_str!("recorded/docker-1.3.http")),
    ("1.5", include_str!("recorded/docker-1.5.http")),
    ("1.6", include_str!("recorded/docker-1.6.http")),
    ("1.9", include_str!("recorded/docker-1.9.http")),
    ("1.12", include_str!("recorded/docker-1.12.http")),
];

/// The backends of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behind {
    /// A v1 and a v2 registry, with accounts.
    Both,
    /// A v1 registry that its own host selects, with accounts.
    Alone,
    /// A v1 registry, without `access`.
    Open,
}

impl Behind {
    fn gateway(self, registry: &V1Registry) -> (Gateway, &'static str) {
        let v1 = registry.url();
        let hosted = match self {
            Self::Both => format!("v1: \"{v1}\", v2: \"http://127.0.0.1:1\", push: true"),
            Self::Alone => format!("v1: \"{v1}\", push: true, hosts: [localhost]"),
            Self::Open => format!("v1: \"{v1}\""),
        };
        let access = match self {
            Self::Open => String::new(),
            _ => format!("access:\n  htpasswd: {}\n{RULES}", accounts().display()),
        };
        let yaml = format!("registries:\n- {{name: hosted, {hosted}}}\n{access}");
        let name = match self {
            Self::Alone => "localhost",
            Self::Both | Self::Open => "127.0.0.1",
        };
        (Gateway::start(&yaml), name)
    }
}

/// One request and the requirements of its response.
struct RecordedRequest<'a> {
    /// From the request line to the empty line.
    head: Vec<&'a str>,
    body: Option<&'a str>,
    needs: Vec<&'a str>,
}

/// The operations of a recording, each with its backends, title and requests.
fn operations(text: &str) -> Vec<(Behind, &str, Vec<RecordedRequest<'_>>)> {
    let sections = text.split("\n## ").skip(1);
    let read = sections.map(|section| {
        let (line, rest) = section.split_once('\n').expect("a title");
        let (behind, title) = line.split_once(": ").expect("what it was made against");
        let behind = match behind {
            "both" => Behind::Both,
            "alone" => Behind::Alone,
            "open" => Behind::Open,
            other => panic!("{other}"),
        };
        (behind, title, requests(rest))
    });
    read.collect()
}

fn requests(text: &str) -> Vec<RecordedRequest<'_>> {
    let mut requests: Vec<RecordedRequest<'_>> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let mut head = vec![line];
        head.extend(lines.by_ref().take_while(|line| !line.is_empty()));
        let body = lines.next_if(|line| !line.starts_with("< "));
        let mut needs = Vec::new();
        while let Some(need) = lines.next_if(|line| line.starts_with("< ")) {
            needs.push(&need[2..]);
        }
        assert!(!needs.is_empty(), "{head:?}");
        requests.push(RecordedRequest { head, body, needs });
    }
    requests
}

/// The values to fill in.
struct Replay<'a> {
    gateway: &'a Gateway,
    host: String,
    token: Option<String>,
    /// `root` and `top`.
    images: [(&'static str, String, Vec<u8>); 2],
    /// The bodies of `PUT …/json`, which the checksums begin with.
    described: Vec<(String, String)>,
}

impl Replay<'_> {
    fn image(&self, name: &str) -> &(&'static str, String, Vec<u8>) {
        let found = self.images.iter().find(|(known, ..)| *known == name);
        found.unwrap_or_else(|| panic!("no image {name}"))
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.replace("{host}", &self.host);
        if text.contains("{token}") {
            text = text.replace("{token}", self.token.as_deref().expect("a token"));
        }
        for (name, id, layer) in &self.images {
            text = text.replace(&format!("{{{name}}}"), id);
            text = text.replace(&format!("{{size {name}}}"), &layer.len().to_string());
            let marked = format!("{{payload {name}}}");
            if text.contains(&marked) {
                let (_, json) = self
                    .described
                    .iter()
                    .find(|(known, _)| known == id)
                    .expect("put");
                let sum = sha256(&[json.as_bytes(), b"\n", layer].concat());
                text = text.replace(&marked, &sum[7..]);
            }
        }
        text
    }

    /// Sends one request on a connection of its own, as all versions did.
    fn send(&mut self, request: &RecordedRequest<'_>) -> Reply {
        let head = self.fill(&request.head.join("\r\n"));
        let chunked = request
            .body
            .and_then(|body| body.strip_prefix("{chunks ")?.strip_suffix('}'));
        let body = match (chunked, request.body) {
            (Some(name), _) => chunks(&self.image(name).2),
            (None, Some(body)) => self.fill(body).into_bytes(),
            (None, None) => Vec::new(),
        };
        if chunked.is_none() && head.starts_with("PUT ") {
            // Otherwise the recording would be wrong.
            let length = format!("\r\nContent-Length: {}\r\n", body.len());
            assert!(head.contains(&length), "{head}");
        }
        if let Some(path) = head.strip_prefix("PUT /v1/images/")
            && let Some((id, "json")) = path.split(' ').next().and_then(|path| path.split_once('/'))
        {
            let json = String::from_utf8(body.clone()).expect("text");
            self.described.push((id.to_owned(), json));
        }
        let mut connection = Raw::connect(self.gateway.url(0), Some(&self.gateway.ca_path()));
        connection.send(format!("{head}\r\n\r\n"));
        if !body.is_empty() {
            connection.send(body);
        }
        connection.reply(head.split(' ').next().expect("a method"))
    }

    /// Checks a requirement of a response.
    fn check(&mut self, need: &str, reply: &Reply) -> Result<(), String> {
        let need = self.fill(need);
        let same = |is: bool, found: &str| {
            if is {
                Ok(())
            } else {
                Err(format!("needs {need:?}, found {found}"))
            }
        };
        if let Ok(status) = need.parse::<u16>() {
            return same(reply.status() == status, &reply.status().to_string());
        }
        if let Some((name, value)) = need.split_once(": ")
            && !name.contains(' ')
        {
            let found = reply.header(name).unwrap_or("none");
            return same(found.eq_ignore_ascii_case(value), found);
        }
        let (word, rest) = need.split_once(' ').unwrap_or((&need, ""));
        match word {
            "without" => same(reply.header(rest).is_none(), rest),
            "token" => {
                self.token = reply.header("x-docker-token").map(str::to_owned);
                same(self.token.is_some(), "none")
            }
            "endpoints" => {
                let found = reply.header("x-docker-endpoints").unwrap_or("none");
                same(found == self.host, found)
            }
            "json" => {
                let wanted: Value = serde_json::from_str(rest).expect("JSON");
                let found: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                same(found == wanted, &found.to_string())
            }
            "names" => {
                let found: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                let results = found["results"].as_array().cloned().unwrap_or_default();
                let names: Vec<&str> = results
                    .iter()
                    .filter_map(|it| it["name"].as_str())
                    .collect();
                let count = found["num_results"] == names.len();
                same(count && names.join(" ") == rest, &found.to_string())
            }
            "image" => {
                let (_, id, layer) = self.image(rest);
                let found: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                let size = layer.len().to_string();
                let told = reply.header("x-docker-size") == Some(&*size);
                same(found["id"] == **id && told, &format!("{reply:?}"))
            }
            "length" => {
                let length = self.image(rest).2.len() as u64;
                same(reply.head.length() == Some(length), &format!("{reply:?}"))
            }
            "layer" => same(
                reply.body == self.image(rest).2
                    && reply.header("content-encoding").is_none()
                    && reply.end == End::Complete,
                &format!("{reply:?}"),
            ),
            "part" => {
                let (name, first) = rest.split_once(' ').expect("a place");
                let first: usize = first.parse().expect("a number");
                same(
                    reply.body == self.image(name).2[first..],
                    &format!("{reply:?}"),
                )
            }
            _ => panic!("what is needed by {need:?}?"),
        }
    }
}

/// A chunked body as Go writes it from `io.Copy`.
fn chunks(bytes: &[u8]) -> Vec<u8> {
    let pieces = bytes
        .chunks(32 << 10)
        .flat_map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    pieces.chain(*b"0\r\n\r\n").collect()
}

/// Replays the operations of one version with these backends. Pulls are of existing images, pushes of new ones.
fn replay(version: &str, behind: Behind, operations: &[(Behind, &str, Vec<RecordedRequest<'_>>)]) {
    let registry = V1Registry::start();
    let layers = [random(1, 90_000), random(2, 2_500)];
    let there = ["open/app", "team/app", "secret/app"].map(|name| {
        (
            name,
            registry.push_image(name, "1", &[&layers[0], &layers[1]]),
        )
    });
    let new = ["root", "top"].map(|name| sha256(name.as_bytes())[7..].to_owned());
    let (gateway, name) = behind.gateway(&registry);
    let (_, port) = gateway.authority(0).rsplit_once(':').expect("a port");
    for (_, title, requests) in operations.iter().filter(|(of, ..)| *of == behind) {
        let pulled = there.iter().find(|(name, _)| title.contains(name));
        let ids = pulled.map_or(&new[..], |(_, ids)| ids);
        let image = |name, at: usize| (name, ids[at].clone(), layers[at].clone());
        let mut replay = Replay {
            host: format!("{name}:{port}"),
            gateway: &gateway,
            token: None,
            images: [image("root", 0), image("top", 1)],
            described: Vec::new(),
        };
        for request in requests {
            let answer = replay.send(request);
            for need in &request.needs {
                if let Err(fault) = replay.check(need, &answer) {
                    let line = request.head[0];
                    panic!("Docker {version}, {behind:?}: {title}: {line}: {fault}\n{answer:?}");
                }
            }
        }
        if *title == "push" {
            assert_eq!(registry.tag("team/new", "1").as_ref(), Some(&ids[1]));
            for (name, id, layer) in &replay.images {
                assert!(
                    registry.layer(id).as_ref() == Some(layer),
                    "{version} {name}"
                );
            }
        }
    }
    let passwords = registry
        .requests()
        .iter()
        .filter(|seen| seen.header("authorization").is_some())
        .count();
    assert_eq!(passwords, 0, "{version}: a password went on");
}

#[test]
fn recorded_requests_of_every_docker_generation() {
    for (version, text) in RECORDED {
        let operations = operations(text);
        let pushes = operations.iter().filter(|(_, title, _)| *title == "push");
        assert_eq!(pushes.count(), 1, "{version}");
        for behind in [Behind::Both, Behind::Alone, Behind::Open] {
            if operations.iter().any(|(of, ..)| *of == behind) {
                replay(version, behind, &operations);
            }
        }
    }
}
