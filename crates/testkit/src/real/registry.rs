//! Debian's docker-registry 2.8.2: the real upstream, and a peer as a pull-through cache.

use std::collections::BTreeMap;
use std::ops::Sub;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Missing, TokenServer, program, run, write};
use crate::image::{Layout, Made};
use crate::process::{self, Process};
use crate::tls::Ca;
use crate::{eventually, http, until};

/// A registry over files in a temporary directory. Its counters come from its access log.
pub struct Registry {
    process: Option<Process>,
    config: Value,
    address: String,
    ca: Option<Ca>,
    account: Option<(String, String)>,
    environment: Vec<(String, PathBuf)>,
    dir: TempDir,
}

/// Counters of a registry: requests and body bytes by method and path, the query included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters(pub BTreeMap<String, Count>);

/// Requests, and the bytes of their bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// The number of requests.
    pub requests: u64,
    /// The bytes of their responses' bodies.
    pub bytes: u64,
}

impl Counters {
    /// The sum over all keys that match, as in `GET */blobs/*`.
    pub fn of(&self, pattern: &str) -> Count {
        let matching = self
            .0
            .iter()
            .filter(|(key, _)| crate::matches(pattern, key));
        matching.fold(Count::default(), |sum, (_, count)| Count {
            requests: sum.requests + count.requests,
            bytes: sum.bytes + count.bytes,
        })
    }
}

/// The difference: `after - before` of the same registry.
impl Sub for &Counters {
    type Output = Counters;

    fn sub(self, before: &Counters) -> Counters {
        let changed = self.0.iter().filter_map(|(key, count)| {
            let old = before.0.get(key).copied().unwrap_or_default();
            let count = Count {
                requests: count.requests - old.requests,
                bytes: count.bytes - old.bytes,
            };
            (count.requests > 0).then(|| (key.clone(), count))
        });
        Counters(changed.collect())
    }
}

impl Registry {
    /// Hosting, plain HTTP, open to all.
    pub fn start() -> Result<Self, Missing> {
        Self::launch(None, None, json!({}))
    }

    /// Hosting over TLS, with a private CA ([`Registry::ca_path`]), for `localhost` and `127.0.0.1`.
    pub fn start_tls() -> Result<Self, Missing> {
        Self::launch(Some(Ca::new()), None, json!({}))
    }

    /// Hosting, plain HTTP, for one account.
    pub fn start_with_account(user: &str, password: &str) -> Result<Self, Missing> {
        let account = (user.to_owned(), password.to_owned());
        Self::launch(None, Some(account), json!({}))
    }

    /// A pull-through cache of another registry, over TLS or plain.
    pub fn mirror_of(url: &str, tls: bool) -> Result<Self, Missing> {
        let more = json!({"proxy": {"remoteurl": url}});
        Self::launch(tls.then(Ca::new), None, more)
    }

    /// Hosting, plain HTTP, for clients with a token of this server.
    pub fn start_with_tokens(server: &TokenServer) -> Result<Self, Missing> {
        Self::launch(None, server.account(), json!({"auth": server.config()}))
    }

    /// Hosting with more configuration: `{"compatibility": {"schema1": …}}`.
    pub fn start_with(more: Value) -> Result<Self, Missing> {
        Self::launch(None, None, more)
    }

    fn launch(
        ca: Option<Ca>,
        account: Option<(String, String)>,
        more: Value,
    ) -> Result<Self, Missing> {
        let dir = crate::temp_dir();
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "info", "accesslog": {"disabled": false}},
            "storage": {
                "filesystem": {"rootdirectory": dir.path().join("data")},
                "delete": {"enabled": true},
                "maintenance": {"uploadpurging": {"enabled": false}},
            },
            "http": {"secret": "shared", "addr": "127.0.0.1:0"},
        });
        if let Some(ca) = &ca {
            let leaf = ca.issue(&["localhost", "127.0.0.1"]);
            config["http"]["tls"] = json!({"certificate": leaf.certificate, "key": leaf.key});
        }
        if let (Some((user, password)), None) = (&account, more.get("auth")) {
            let path = dir.path().join("htpasswd");
            let mut htpasswd = process::command(program("htpasswd")?);
            let line = run(htpasswd.args(["-Bbn", user, password])).expect("htpasswd works");
            write(&path, line);
            config["auth"] = json!({"htpasswd": {"realm": "upstream", "path": path}});
        }
        if let Value::Object(more) = more {
            for (key, value) in more {
                config[key] = value;
            }
        }
        let mut registry = Self {
            process: None,
            config,
            address: String::new(),
            ca,
            account,
            environment: Vec::new(),
            dir,
        };
        registry.up()?;
        Ok(registry)
    }

    /// Starts it again after [`Registry::down`], on the port it had.
    pub fn up(&mut self) -> Result<(), Missing> {
        if self.process.is_some() {
            return Ok(());
        }
        let config = self.dir.path().join("config.yml");
        write(&config, self.config.to_string());
        let access = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.access_log())
            .expect("an access log");
        let log = self.dir.path().join("registry.log");
        write(&log, "");
        let mut command = process::command(program("docker-registry")?);
        command.arg("serve").arg(config).stdout(Stdio::from(access));
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        let mut process = Process::spawn(&mut command, &log).expect("docker-registry runs");
        self.address = eventually("docker-registry to listen", || {
            assert!(process.exited().is_none(), "docker-registry ended");
            let log = process.log();
            let (_, rest) = log.split_once("msg=\"listening on ")?;
            let end = rest.find([',', '"'])?;
            Some(rest[..end].to_owned())
        });
        self.config["http"]["addr"] = json!(self.address);
        self.process = Some(process);
        Ok(())
    }

    /// Kills it: connections are refused from now on.
    pub fn down(&mut self) {
        self.process = None;
    }

    /// Makes it trust this CA only, from its next start on: for a pull-through cache of a TLS registry.
    pub fn trust(&mut self, ca: PathBuf) {
        self.environment = vec![("SSL_CERT_FILE".to_owned(), ca)];
    }

    /// Its storage folder.
    pub fn storage(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// `http://127.0.0.1:PORT` or `https://…`.
    pub fn url(&self) -> String {
        let scheme = if self.ca.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn authority(&self) -> &str {
        &self.address
    }

    /// The CA to trust, of a registry that speaks TLS.
    #[track_caller]
    pub fn ca_path(&self) -> PathBuf {
        self.ca.as_ref().expect("a registry with TLS").path()
    }

    /// Pushes an image, or a whole index, as `name` (`library/small:1`), byte for byte.
    pub fn push(&self, layout: &Layout, made: &Made, name: &str) -> Result<(), Missing> {
        self.copy(layout, made, name, &["--all", "--preserve-digests"])
    }

    /// Pushes an image as Docker's own kind (schema 2) instead of OCI's; its manifest gets another digest.
    pub fn push_as_docker(&self, layout: &Layout, made: &Made, name: &str) -> Result<(), Missing> {
        self.copy(layout, made, name, &["--format=v2s2"])
    }

    fn copy(&self, layout: &Layout, made: &Made, name: &str, how: &[&str]) -> Result<(), Missing> {
        let mut skopeo = process::command(program("skopeo")?);
        skopeo.args(["--insecure-policy", "copy", "--quiet"]);
        skopeo.args(how);
        match &self.ca {
            None => skopeo.arg("--dest-tls-verify=false"),
            Some(ca) => skopeo.arg(format!(
                "--dest-cert-dir={}",
                super::certificates(self.dir.path(), &ca.path()).display()
            )),
        };
        if let Some((user, password)) = &self.account {
            skopeo.arg(format!("--dest-creds={user}:{password}"));
        }
        skopeo.arg(layout.reference(&made.tag));
        skopeo.arg(format!("docker://{}/{name}", self.address));
        if let Err(said) = run(&mut skopeo) {
            panic!("skopeo copy to the registry: {said}");
        }
        Ok(())
    }

    /// The counters so far. Waits until running requests are in the log.
    #[track_caller]
    pub fn counters(&self) -> Counters {
        static MARKS: AtomicUsize = AtomicUsize::new(0);
        eventually("the registry's log to stand still", || {
            let before = self.read_counters();
            let mark = format!("/v2/?mark={}", MARKS.fetch_add(1, Ordering::Relaxed));
            let ca = self.ca.as_ref().map(Ca::path);
            http::get(&self.url(), ca.as_deref(), &mark);
            let line = format!(" {mark} ");
            until("the mark in the registry's log", || {
                process::read_lossy(&self.access_log()).contains(&line)
            });
            std::thread::sleep(Duration::from_millis(20));
            Some(self.read_counters()).filter(|after| *after == before)
        })
    }

    /// Parses lines like `127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`.
    fn read_counters(&self) -> Counters {
        let mut counters = Counters::default();
        for line in process::read_lossy(&self.access_log()).lines() {
            let mut parts = line.split('"').skip(1);
            let (Some(request), Some(result)) = (parts.next(), parts.next()) else {
                continue;
            };
            let Some((key, _)) = request.rsplit_once(' ') else {
                continue;
            };
            if key.contains("?mark=") {
                continue;
            }
            let bytes = result.split_whitespace().nth(1);
            let count = counters.0.entry(key.to_owned()).or_default();
            count.requests += 1;
            count.bytes += bytes.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        }
        counters
    }

    fn access_log(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }
}
