//! podman with a storage of its own and a mirror in registries.conf.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Client, Missing, Pulled, emptied, offline, run, words, write};

/// The mirror of a registry.
#[derive(Clone, Copy)]
pub struct Mirror<'a> {
    /// The prefix, as in `docker.io`.
    pub prefix: &'a str,
    /// Its location: `127.0.0.1:5000/docker.io`. Textual: a path may follow the authority.
    pub location: &'a str,
    /// The CA to trust; `None` is plain HTTP.
    pub ca: Option<&'a Path>,
}

/// podman, vfs storage.
pub struct Podman {
    certificates: Option<PathBuf>,
    dir: TempDir,
}

impl Podman {
    /// Uses the mirror for all pulls, in a storage of its own.
    pub fn new(mirror: Mirror<'_>) -> Result<Self, Missing> {
        let dir = crate::temp_dir();
        offline("podman", dir.path())?;
        let Mirror {
            prefix,
            location,
            ca,
        } = mirror;
        let insecure = ca.is_none();
        let registries = format!(
            "unqualified-search-registries = []\n\
             [[registry]]\nprefix = \"{prefix}\"\nlocation = \"{prefix}\"\n\
             [[registry.mirror]]\nlocation = \"{location}\"\ninsecure = {insecure}\n"
        );
        write(&dir.path().join("registries.conf"), registries);
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        write(&dir.path().join("policy.json"), policy);
        let mut podman = Self {
            certificates: ca.map(|ca| super::certificates(dir.path(), ca)),
            dir,
        };
        podman.wipe();
        Ok(podman)
    }

    /// The podman command for this storage: `podman(&["search", …])`.
    pub fn podman(&self, arguments: &[&str]) -> Result<String, String> {
        let dir = self.dir.path();
        let mut podman = offline("podman", dir).map_err(|missing| missing.to_string())?;
        podman
            .env("CONTAINERS_REGISTRIES_CONF", dir.join("registries.conf"))
            .arg("--root")
            .arg(dir.join("storage/root"))
            .arg("--runroot")
            .arg(dir.join("storage/run"))
            .arg("--tmpdir")
            .arg(dir.join("storage/tmp"))
            .args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"])
            .args(["--events-backend=file", "--log-level=info"])
            .args(arguments);
        run(&mut podman)
    }
}

impl Client for Podman {
    /// `reference` is the whole name: `docker.io/library/small:1`.
    fn pull(&mut self, reference: &str) -> Result<Pulled, String> {
        let policy = self.dir.path().join("policy.json");
        let policy = format!("--signature-policy={}", policy.display());
        let mut pull = vec!["pull", "--quiet", &policy];
        let certificates = self.certificates.as_ref().map(super::text);
        if let Some(dir) = &certificates {
            pull.extend(["--cert-dir", dir]);
        }
        pull.push(reference);
        self.podman(&pull)?;
        let format = "--format={{.Digest}} {{.Id}} {{range .RootFS.Layers}}{{.}} {{end}}";
        let text = self.podman(&["image", "inspect", format, reference])?;
        let (digest, rest) = text.split_once(' ').ok_or_else(|| text.clone())?;
        Ok(Pulled {
            digest: digest.to_owned(),
            content: words(rest),
        })
    }

    fn wipe(&mut self) {
        emptied(&self.dir.path().join("storage"));
    }
}
