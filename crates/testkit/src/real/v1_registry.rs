//! docker-registry 0.9.1, the last registry of the v1 API, on the Python 2.7 that `scripts/v1-registry.sh`
//! found; and the scripted registry as its substitute.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Missing, found_perhaps, write};
use crate::http::Raw;
use crate::process::{self, Process};
use crate::v1::V1Registry;
use crate::{eventually, sha256};

/// A registry over files in a temporary directory.
pub struct DockerRegistry {
    process: Option<Process>,
    address: String,
    dir: TempDir,
}

impl DockerRegistry {
    /// Standalone, with search.
    pub fn start() -> Result<Self, Missing> {
        let place = crate::root().join("target/v1-registry");
        if !place.join("ready").is_file() {
            return Err(Missing(
                "docker-registry 0.9.1 (scripts/v1-registry.sh)".into(),
            ));
        }
        let dir = crate::temp_dir();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        let config = dir.path().join("config.yml");
        write(&config, configuration(&data));
        let log = dir.path().join("registry.log");
        write(&log, "");
        let mut command = process::command(place.join("bin/gunicorn"));
        command
            .args(["-k", "gevent", "-w", "1", "-b", "127.0.0.1:0"])
            .args(["--error-logfile", "-", "--access-logfile", "-"])
            .arg("docker_registry.wsgi:application")
            .env("PYTHONPATH", place.join("stubs"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SETTINGS_FLAVOR", "test")
            .env("DOCKER_REGISTRY_CONFIG", &config)
            .current_dir(dir.path());
        let mut process = Process::spawn_logged(&mut command, &log).expect("gunicorn runs");
        let address = eventually("docker-registry 0.9.1 to listen", || {
            assert!(process.exited().is_none(), "docker-registry 0.9.1 ended");
            let log = process.log();
            let (_, rest) = log.split_once("Listening at: http://")?;
            Some(rest.split_whitespace().next()?.to_owned())
        });
        Ok(Self {
            process: Some(process),
            address,
            dir,
        })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its log, with every request.
    pub fn log(&self) -> String {
        crate::process::read_lossy(&self.dir.path().join("registry.log"))
    }

    /// Its storage folder.
    pub fn storage(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Kills it: connections are refused from now on.
    pub fn down(&mut self) {
        self.process = None;
    }

    /// Pushes an image of these JSON documents and layers, root first, with the requests of Docker
    /// 1.x. `id` and `parent` are filled in.
    pub fn push(&self, name: &str, tag: &str, images: &[(Value, &[u8])]) {
        let put = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
            let length = body.len().to_string();
            let mut all = vec![("Content-Length", &*length)];
            all.extend(headers);
            let mut raw = Raw::connect(&self.url(), None);
            raw.request("PUT", path, &all);
            raw.send(body);
            let reply = raw.reply("PUT");
            assert!((200..300).contains(&reply.status()), "{path} {reply:?}");
        };
        let is_json = [("Content-Type", "application/json")];
        let mut parent: Option<String> = None;
        for (description, layer) in images {
            let mut description = description.clone();
            let id = sha256(&[description.to_string().as_bytes(), layer].concat())[7..].to_owned();
            description["id"] = json!(id);
            if let Some(parent) = &parent {
                description["parent"] = json!(parent);
            }
            let text = description.to_string();
            let sum = sha256(&[text.as_bytes(), b"\n", layer].concat());
            put(&format!("/v1/images/{id}/json"), &is_json, text.as_bytes());
            put(&format!("/v1/images/{id}/layer"), &[], layer);
            let sum = [("X-Docker-Checksum-Payload", &*sum)];
            put(&format!("/v1/images/{id}/checksum"), &sum, b"");
            parent = Some(id);
        }
        let top = json!(parent.expect("an image")).to_string();
        let repository = format!("/v1/repositories/{name}");
        put(&format!("{repository}/"), &is_json, b"[]");
        put(
            &format!("{repository}/tags/{tag}"),
            &is_json,
            top.as_bytes(),
        );
        put(&format!("{repository}/images"), &is_json, b"[]");
    }
}

/// docker-registry 0.9.1, or the scripted registry where there is no Python 2.7 for it.
pub enum OldRegistry {
    /// docker-registry 0.9.1.
    Real(DockerRegistry),
    /// The scripted one.
    Scripted(V1Registry),
}

impl OldRegistry {
    /// Starts the real one where it can.
    pub fn start() -> Self {
        found_perhaps(DockerRegistry::start())
            .map_or_else(|| Self::Scripted(V1Registry::start()), Self::Real)
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        match self {
            Self::Real(real) => real.url(),
            Self::Scripted(scripted) => scripted.url(),
        }
    }

    /// Pushes an image, as [`DockerRegistry::push`] does.
    pub fn push(&self, name: &str, tag: &str, images: &[(Value, &[u8])]) {
        match self {
            Self::Real(real) => real.push(name, tag, images),
            Self::Scripted(scripted) => {
                scripted.put_image(name, tag, images);
            }
        }
    }

    /// The number of requests for a layer so far.
    pub fn layers_asked(&self) -> usize {
        match self {
            Self::Real(real) => {
                let log = real.log();
                let asked = log.lines().filter(|line| {
                    line.contains("\"GET /v1/images/") && line.contains("/layer HTTP")
                });
                asked.count()
            }
            Self::Scripted(scripted) => scripted.count("GET", "/layer"),
        }
    }
}

fn configuration(data: &Path) -> String {
    let data = data.display();
    format!(
        "test:
    loglevel: info
    standalone: true
    storage: local
    storage_path: {data}
    search_backend: sqlalchemy
    sqlalchemy_index_database: sqlite:///{data}/search.db
"
    )
}
