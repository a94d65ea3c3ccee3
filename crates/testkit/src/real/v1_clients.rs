//! npm's and Python's `docker-registry-client`, in the folder that `scripts/v1-clients.sh` installs them into: the
//! clients of the v1 API that are still to be had.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{Missing, program, run, text, write};
use crate::process;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V1Client {
    /// It lists images first, and goes on with the token that comes with them.
    Npm,
    /// It knows no tokens: Basic, or nothing.
    Python,
}

/// What a client is to do.
#[derive(Clone, Copy, Debug)]
pub struct V1Session<'a> {
    /// `https://…`, by a name that is not taken for plain HTTP: neither localhost nor 127.0.0.1.
    pub url: &'a str,
    pub ca: &'a Path,
    /// `namespace/name`
    pub repository: &'a str,
    pub tag: &'a str,
    pub account: Option<(&'a str, &'a str)>,
    /// A tag that Python's puts and takes away again.
    pub add: Option<&'a str>,
}

/// What it found.
#[derive(Debug)]
pub struct V1Found {
    /// As its methods gave it, and `refused` with a step and a status where one failed.
    pub said: Value,
    dir: TempDir,
}

impl V1Found {
    /// The bytes of a layer that it has.
    pub fn layer(&self, id: &str) -> Option<Vec<u8>> {
        std::fs::read(self.dir.path().join(id)).ok()
    }

    /// All layers of a whole pull, the root first.
    #[track_caller]
    pub fn layers(&self) -> Vec<Vec<u8>> {
        assert_eq!(self.said.get("refused"), None, "{}", self.said);
        let ids = self.said["ancestry"].as_array().expect("an ancestry");
        let ids = ids.iter().rev().filter_map(Value::as_str);
        ids.map(|id| self.layer(id).expect("a layer")).collect()
    }
}

impl V1Client {
    /// Everything it can do there, in one go.
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
                // Each its own: one that is being written would be read half by another.
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
