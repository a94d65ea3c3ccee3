//! npm's and Python's `docker-registry-client`, installed by `scripts/v1-clients.sh`: the v1 clients that are still
//! available.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{Missing, program, run, text, write};
use crate::process;

/// One of the two clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1Client {
    /// It lists images first, and continues with the token of that response.
    Npm,
    /// It supports no tokens: Basic, or nothing.
    Python,
}

/// A session of a client.
#[derive(Clone, Copy, Debug)]
pub struct V1Session<'a> {
    /// `https://…`, with a name that it does not treat as plain HTTP: neither localhost nor 127.0.0.1.
    pub url: &'a str,
    /// A PEM file that it trusts.
    pub ca: &'a Path,
    /// `namespace/name`
    pub repository: &'a str,
    /// The tag to pull or push.
    pub tag: &'a str,
    /// User name and password; `None`: it does not log in.
    pub account: Option<(&'a str, &'a str)>,
    /// A tag that Python's client sets and removes.
    pub add: Option<&'a str>,
}

/// The result of a session.
#[derive(Debug)]
pub struct V1Found {
    /// As returned by its methods, and `refused` with a step and a status if one failed.
    pub said: Value,
    dir: TempDir,
}

impl V1Found {
    /// The bytes of a pulled layer.
    pub fn layer(&self, id: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(id)).ok()
    }

    /// All layers of a whole pull, root first.
    #[track_caller]
    pub fn layers(&self) -> Vec<Vec<u8>> {
        assert_eq!(self.said.get("refused"), None, "{}", self.said);
        let ids = self.said["ancestry"].as_array().expect("an ancestry");
        let ids = ids.iter().rev().filter_map(Value::as_str);
        ids.map(|id| self.layer(id).expect("a layer")).collect()
    }
}

impl V1Client {
    /// Runs a whole session.
    pub fn run(self, session: V1Session<'_>) -> Result<V1Found, Missing> {
        let dir = crate::temp_dir();
        let place = self.place()?;
        let V1Session {
            url,
            ca,
            repository,
            tag,
            account,
            add,
        } = session;
        let (user, password) = account.unwrap_or_default();
        let folder = text(dir.path());
        let mut client = match self {
            Self::Npm => {
                // A copy for each session: another could read a file that is being written.
                let script = dir.path().join("session.js");
                write(&script, include_str!("v1_client.js"));
                let (_, authority) = url.split_once("://").expect("a URL");
                let mut node = process::command(program("node")?);
                node.arg(script)
                    .arg(format!("{authority}/{repository}"))
                    .args([user, password, tag, &folder])
                    .env("NODE_PATH", place.join("node_modules"))
                    .env("NODE_EXTRA_CA_CERTS", ca)
                    .env("NODE_NO_WARNINGS", "1");
                node
            }
            Self::Python => {
                let mut python = process::command(program("python3")?);
                python
                    .args(["-c", include_str!("v1_client.py"), url, &text(ca)])
                    .args([repository, user, password, tag, &folder])
                    .arg(add.unwrap_or_default())
                    .env("PYTHONPATH", place)
                    .env("PYTHONDONTWRITEBYTECODE", "1");
                python
            }
        };
        let said = run(client.env("HOME", dir.path()).current_dir(dir.path()));
        let said = said.unwrap_or_else(|said| panic!("{self:?}: {said}"));
        let said = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
        Ok(V1Found { said, dir })
    }

    fn place(self) -> Result<PathBuf, Missing> {
        let (folder, name) = match self {
            Self::Npm => ("npm", "npm's docker-registry-client"),
            Self::Python => ("python", "PyPI's docker-registry-client"),
        };
        let place = crate::root().join("target/v1-clients");
        let place = place.join(folder);
        if place.join("ready").is_file() {
            Ok(place)
        } else {
            Err(Missing(format!("{name} (scripts/v1-clients.sh)")))
        }
    }
}
