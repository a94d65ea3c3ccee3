//! Docker's daemons of 2014 to 2016, request by request as with a private registry: one connection for each, Go's
//! headers, and each version's own use of passwords and tokens.

use std::fmt::Write as _;

use serde_json::{Value, json};
use testkit::basic;
use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};

use super::versions::Version;

/// A running daemon.
pub struct Daemon<'a> {
    pub version: Version,
    gateway: &'a Gateway,
    account: Option<(&'a str, &'a str)>,
    /// Whether the ping reported a standalone registry.
    standalone: bool,
    token: Option<String>,
}

/// The message that the daemon shows its user, and the status behind it.
pub type Told = (&'static str, u16);

impl<'a> Daemon<'a> {
    pub fn new(
        version: Version,
        gateway: &'a Gateway,
        account: Option<(&'a str, &'a str)>,
    ) -> Self {
        Self {
            version,
            gateway,
            account,
            standalone: true,
            token: None,
        }
    }

    /// One request on a connection of its own, over TLS.
    fn ask(&self, agent: &str, line: &str, headers: &[(&str, String)], body: Body<'_>) -> Reply {
        let ca = self.gateway.ca_path();
        let mut connection = Raw::connect(self.gateway.url(0), Some(&ca));
        let host = self.gateway.authority(0);
        let mut text = format!("{line} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {agent}\r\n");
        match body {
            Body::None => {}
            Body::Json(json) => {
                let _ = write!(text, "Content-Length: {}\r\n", json.len());
            }
            Body::Empty => text.push_str("Content-Length: 0\r\n"),
            Body::Chunks(_) => text.push_str("Transfer-Encoding: chunked\r\n"),
        }
        for (name, value) in headers {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("Accept-Encoding: gzip\r\nConnection: close\r\n\r\n");
        connection.send(text);
        match body {
            Body::None | Body::Empty => {}
            Body::Json(json) => {
                let _ = connection.try_send(json);
            }
            Body::Chunks(bytes) => {
                for piece in bytes.chunks(32 << 10) {
                    let chunk =
                        [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
                    if connection.try_send(chunk).is_err() {
                        break;
                    }
                }
                let _ = connection.try_send(b"0\r\n\r\n");
            }
        }
        connection.reply(line.split(' ').next().expect("a method"))
    }

    fn say(&self, line: &str, headers: &[(&str, String)], body: Body<'_>) -> Reply {
        self.ask(self.version.agent, line, headers, body)
    }

    fn basic(&self) -> (&'static str, String) {
        let (user, password) = self.account.unwrap_or_default();
        ("Authorization", basic(user, password))
    }

    /// The default authorization of its requests.
    fn usual(&self) -> (&'static str, String) {
        if self.standalone {
            self.basic()
        } else {
            let token = self.token.as_deref().unwrap_or_default();
            ("Authorization", format!("Token {token}"))
        }
    }

    /// The pings before an operation.
    pub fn ping(&mut self) -> Result<(), Told> {
        let agent = self.version.ping.unwrap_or(self.version.agent);
        if self.version.asks_v2 {
            let v2 = self.ask(agent, "GET /v2/", &[], Body::None);
            let said = v2.header("docker-distribution-api-version");
            let speaks_v2 = matches!(v2.status(), 200 | 401) && said == Some("registry/2.0");
            if self.version.ping.is_some() {
                // It would fail permanently.
                assert_eq!((v2.status(), said), (404, None), "{v2:?}");
            } else {
                assert!(speaks_v2, "{v2:?}");
                // It falls back to v1 with tokens only, since v2 requires a login if there is `access`.
                self.standalone = false;
                return Ok(());
            }
        }
        let v1 = self.ask(agent, "GET /v1/_ping", &[], Body::None);
        if v1.status() != 200 {
            return Err(("ping", v1.status()));
        }
        let said = v1.header("x-docker-registry-standalone");
        self.standalone = said.is_none_or(|said| said.eq_ignore_ascii_case("true") || said == "1");
        Ok(())
    }

    /// `docker login`
    pub fn login(&self) -> Result<(), Told> {
        if self.version.creates_users {
            let (user, password) = self.account.unwrap_or_default();
            let account =
                json!({"username": user, "password": password, "auth": "", "email": "a@b.c"});
            let headers = [("Content-Type", "application/json; charset=utf-8".to_owned())];
            let json = account.to_string();
            let created = self.ask(
                "Go 1.1 package http",
                "POST /v1/users/",
                &headers,
                Body::Json(json.as_bytes()),
            );
            // Any other status would be an error, or an account that was not checked.
            assert_eq!(created.status(), 401, "{created:?}");
        }
        let asked = self.say("GET /v1/users/", &[self.basic()], Body::None);
        ok(&asked, "login").map(drop)
    }

    /// `docker pull`: returns the layers, from top to root.
    pub fn pull(&mut self, name: &str, tag: &str) -> Result<Vec<Vec<u8>>, Told> {
        self.ping()?;
        let mut headers = vec![("X-Docker-Token", "true".to_owned())];
        if self.standalone || self.account.is_some() {
            headers.insert(0, self.basic());
        }
        let list = self.say(
            &format!("GET /v1/repositories/{name}/images"),
            &headers,
            Body::None,
        );
        ok(&list, "images")?;
        self.read(&list);
        let long = if name.contains('/') {
            name.to_owned()
        } else {
            format!("library/{name}")
        };
        let path = format!("GET /v1/repositories/{long}/tags");
        let top = if self.version.asks_tag {
            let top = self.say(&format!("{path}/{tag}"), &[self.usual()], Body::None);
            ok(&top, "tag")?;
            serde_json::from_slice(&top.body).expect("a JSON string")
        } else {
            let tags = self.say(&path, &[self.usual()], Body::None);
            ok(&tags, "tags")?;
            let tags: Value = serde_json::from_slice(&tags.body).expect("JSON");
            tags[tag].as_str().ok_or(("tag", 404))?.to_owned()
        };
        let ancestry = self.say(
            &format!("GET /v1/images/{top}/ancestry"),
            &[self.usual()],
            Body::None,
        );
        ok(&ancestry, "ancestry")?;
        let ids: Vec<String> = serde_json::from_slice(&ancestry.body).expect("ids");
        let mut layers = Vec::new();
        for id in ids.iter().rev() {
            let json = self.say(
                &format!("GET /v1/images/{id}/json"),
                &[self.usual()],
                Body::None,
            );
            ok(&json, "json")?;
            let parsed: Value = serde_json::from_slice(&json.body).expect("JSON");
            assert_eq!(parsed["id"], **id);
            layers.insert(0, self.layer(id)?);
        }
        Ok(layers)
    }

    pub fn layer(&self, id: &str) -> Result<Vec<u8>, Told> {
        let path = format!("/v1/images/{id}/layer");
        let mut length = None;
        if self.version.heads {
            let head = self.say(&format!("HEAD {path}"), &[self.usual()], Body::None);
            ok(&head, "HEAD layer")?;
            length = head.head.length();
        }
        let layer = self.say(&format!("GET {path}"), &[self.usual()], Body::None);
        ok(&layer, "layer")?;
        assert!(layer.is_complete(), "{layer:?}");
        assert_eq!(layer.header("content-encoding"), None);
        assert!(length.is_none_or(|length| length == layer.body.len() as u64));
        Ok(layer.body)
    }

    /// `docker push` of layers from root to top; returns the ids it gave them.
    pub fn push(&mut self, name: &str, tag: &str, layers: &[&[u8]]) -> Result<Vec<String>, Told> {
        self.ping()?;
        let ids: Vec<String> = (0..layers.len())
            .map(|at| {
                testkit::sha256(&[name.as_bytes(), layers[..=at].concat().as_slice()].concat())[7..]
                    .to_owned()
            })
            .collect();
        let mut list: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
        list.last_mut().expect("a layer")["Tag"] = json!(tag);
        let list = json!(list).to_string();
        let json_type = ("Content-type", "application/json".to_owned());
        let headers = [
            self.basic(),
            json_type.clone(),
            ("X-Docker-Token", "true".to_owned()),
        ];
        let begun = self.say(
            &format!("PUT /v1/repositories/{name}/"),
            &headers,
            Body::Json(list.as_bytes()),
        );
        ok(&begun, "begin")?;
        self.read(&begun);
        assert!(self.token.is_some(), "no push without a token: {begun:?}");
        for (at, id) in ids.iter().enumerate() {
            self.push_image(
                id,
                at.checked_sub(1).map(|parent| &*ids[parent]),
                layers[at],
            )?;
        }
        let top = format!("\"{}\"", ids.last().expect("a layer"));
        let tagged = self.say(
            &format!("PUT /v1/repositories/{name}/tags/{tag}"),
            &[self.usual(), json_type.clone()],
            Body::Json(top.as_bytes()),
        );
        ok(&tagged, "tag")?;
        let endpoint = format!("{}/v1/", self.gateway.url(0));
        let headers = [self.basic(), json_type, ("X-Docker-Endpoints", endpoint)];
        let done = self.say(
            &format!("PUT /v1/repositories/{name}/images"),
            &headers,
            Body::Json(b"[]"),
        );
        if done.status() != 204 {
            return Err(("end", done.status()));
        }
        Ok(ids)
    }

    fn push_image(&self, id: &str, parent: Option<&str>, layer: &[u8]) -> Result<(), Told> {
        let known = self.say(
            &format!("GET /v1/images/{id}/json"),
            &[self.usual()],
            Body::None,
        );
        if known.status() == 200 {
            return Ok(());
        }
        let json = match parent {
            Some(parent) => json!({"id": id, "parent": parent, "os": "linux"}),
            None => json!({"id": id, "os": "linux"}),
        };
        let json = json.to_string();
        let json_type = ("Content-type", "application/json".to_owned());
        let put = self.say(
            &format!("PUT /v1/images/{id}/json"),
            &[self.usual(), json_type],
            Body::Json(json.as_bytes()),
        );
        if put.text().contains("Image already exists") {
            return Ok(());
        }
        ok(&put, "json")?;
        let stream = ("Content-Type", "application/octet-stream".to_owned());
        let put = self.say(
            &format!("PUT /v1/images/{id}/layer"),
            &[self.usual(), stream],
            Body::Chunks(layer),
        );
        ok(&put, "layer")?;
        let sum = testkit::sha256(&[json.as_bytes(), b"\n", layer].concat());
        let headers = [self.usual(), ("X-Docker-Checksum-Payload", sum)];
        let put = self.say(
            &format!("PUT /v1/images/{id}/checksum"),
            &headers,
            Body::Empty,
        );
        ok(&put, "checksum").map(drop)
    }

    /// `docker search`: returns the names.
    pub fn search(&self, term: &str) -> Result<Vec<String>, Told> {
        let headers = [("X-Docker-Token", "true".to_owned()), self.basic()];
        let headers = &headers[..if self.account.is_some() { 2 } else { 1 }];
        let found = self.say(&format!("GET /v1/search?q={term}"), headers, Body::None);
        ok(&found, "search")?;
        let found: Value = serde_json::from_slice(&found.body).expect("JSON");
        let results = found["results"].as_array().expect("results").iter();
        Ok(results
            .map(|result| result["name"].as_str().expect("a name").to_owned())
            .collect())
    }

    /// Takes the token, and continues only if its endpoint is this gateway.
    fn read(&mut self, reply: &Reply) {
        assert_eq!(
            reply.header("x-docker-endpoints"),
            Some(self.gateway.authority(0)),
            "{reply:?}"
        );
        self.token = reply.header("x-docker-token").map(str::to_owned);
    }
}

/// A request's body.
#[derive(Clone, Copy)]
enum Body<'a> {
    None,
    Empty,
    Json(&'a [u8]),
    Chunks(&'a [u8]),
}

fn ok<'r>(reply: &'r Reply, step: &'static str) -> Result<&'r Reply, Told> {
    assert_eq!(
        reply.header("docker-distribution-api-version"),
        None,
        "{reply:?}"
    );
    assert_eq!(reply.header("set-cookie"), None, "{reply:?}");
    match reply.status() {
        200 => Ok(reply),
        status => Err((step, status)),
    }
}

/// A puller, an image, and the error if the pull is refused.
pub type Pull<'a> = (Option<(&'a str, &'a str)>, &'a str, Option<Told>);

/// Makes these pulls with this version; layers from top to root.
#[track_caller]
pub fn pulls(version: Version, gateway: &Gateway, tag: &str, whole: &[Vec<u8>], all: &[Pull<'_>]) {
    for (who, name, told) in all {
        let pulled = Daemon::new(version, gateway, *who).pull(name, tag);
        let expected = told.map_or_else(|| Ok(whole.to_vec()), Err);
        assert!(
            pulled == expected,
            "{} {who:?} {name}: {:?}",
            version.agent,
            pulled.err()
        );
    }
}
