//! skopeo: `skopeo copy docker://… dir:…`.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::{Client, Missing, Pulled, emptied, program, run, write};
use crate::{process, sha256};

/// skopeo, copying from one registry over TLS or plain HTTP into a directory.
pub struct Skopeo {
    authority: String,
    options: Vec<String>,
    dir: TempDir,
}

impl Skopeo {
    /// For the registry at `https://…` (trusting `ca`) or `http://…`.
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self, Missing> {
        program("skopeo")?;
        let dir = crate::temp_dir();
        write(&dir.path().join("registries.conf"), "");
        let (_, authority) = url.split_once("://").expect("a URL");
        let trust = ca.map_or("--src-tls-verify=false".to_owned(), |ca| {
            let certificates = super::certificates(dir.path(), ca);
            format!("--src-cert-dir={}", certificates.display())
        });
        let mut skopeo = Self {
            authority: authority.to_owned(),
            options: vec![trust],
            dir,
        };
        skopeo.wipe();
        Ok(skopeo)
    }

    /// Copies every image of an index, not only this machine's.
    pub fn all(mut self) -> Self {
        self.options.push("--all".to_owned());
        self
    }

    /// Logs in.
    pub fn account(mut self, user: &str, password: &str) -> Self {
        self.options.push(format!("--src-creds={user}:{password}"));
        self
    }

    /// The layers of the pulled image, root first.
    pub fn layers(&self) -> Vec<Vec<u8>> {
        let read = |name: &str| {
            let path = self.dir.path().join("copy").join(name);
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let manifest: Value = serde_json::from_slice(&read("manifest.json")).expect("JSON");
        let layers = manifest["layers"].as_array().expect("layers").iter();
        let digests = layers.filter_map(|layer| layer["digest"].as_str());
        digests
            .map(|digest| read(digest.trim_start_matches("sha256:")))
            .collect()
    }
}

impl Client for Skopeo {
    /// `reference` is without the host: `library/small:1` or `library/small@sha256:…`. The content is
    /// every file copied, each checked against the digest that is its name.
    fn pull(&mut self, reference: &str) -> Result<Pulled, String> {
        let copy = self.dir.path().join("copy");
        let mut skopeo = process::command(program("skopeo").map_err(|m| m.to_string())?);
        skopeo
            .env(
                "CONTAINERS_REGISTRIES_CONF",
                self.dir.path().join("registries.conf"),
            )
            .env("HOME", self.dir.path())
            .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"])
            .args(&self.options)
            .arg(format!("docker://{}/{reference}", self.authority))
            .arg(format!("dir:{}", copy.display()));
        run(&mut skopeo)?;
        let mut pulled = Pulled {
            digest: String::new(),
            content: Vec::new(),
        };
        for entry in std::fs::read_dir(&copy).map_err(|error| error.to_string())? {
            let path = entry.map_err(|error| error.to_string())?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name == "version" {
                continue;
            }
            let digest = sha256(&std::fs::read(&path).map_err(|error| error.to_string())?);
            if name == "manifest.json" {
                pulled.digest = digest;
                continue;
            }
            let expected = name.trim_end_matches(".manifest.json");
            if digest.strip_prefix("sha256:") != Some(expected) {
                return Err(format!("{name} has the digest {digest}"));
            }
            pulled.content.push(digest);
        }
        pulled.content.sort();
        Ok(pulled)
    }

    fn wipe(&mut self) {
        emptied(&self.dir.path().join("copy"));
    }
}
