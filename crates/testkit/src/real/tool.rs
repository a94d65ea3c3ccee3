//! skopeo, podman and buildah as registry users: one library, three commands.

use std::path::Path;

use tempfile::TempDir;

use super::{Account, Member, Missing, archive, offline, run, text, write};
use crate::sha256;

/// One of the three, with its own storage, logins and trust.
pub struct Tool {
    kind: Kind,
    authority: String,
    dir: TempDir,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Skopeo,
    Podman,
    Buildah,
}

impl Tool {
    /// skopeo, which trusts this CA and names its images below `authority`.
    pub fn skopeo(authority: &str, ca: &Path) -> Result<Self, Missing> {
        Self::new(Kind::Skopeo, authority, ca)
    }

    /// podman, the same way.
    pub fn podman(authority: &str, ca: &Path) -> Result<Self, Missing> {
        Self::new(Kind::Podman, authority, ca)
    }

    /// buildah, the same way.
    pub fn buildah(authority: &str, ca: &Path) -> Result<Self, Missing> {
        Self::new(Kind::Buildah, authority, ca)
    }

    fn new(kind: Kind, authority: &str, ca: &Path) -> Result<Self, Missing> {
        let dir = crate::temp_dir();
        offline(kind.program(), dir.path())?;
        super::certificates(dir.path(), ca);
        write(
            &dir.path().join("registries.conf"),
            "unqualified-search-registries = []\n",
        );
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        write(&dir.path().join("policy.json"), policy);
        Ok(Self {
            kind,
            authority: authority.to_owned(),
            dir,
        })
    }

    fn at(&self, name: &str) -> String {
        text(&self.dir.path().join(name))
    }

    /// Runs it with the options that stand before its command.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let program = self.kind.program();
        let mut tool = offline(program, self.dir.path()).map_err(|missing| missing.to_string())?;
        tool.env("CONTAINERS_REGISTRIES_CONF", self.at("registries.conf"));
        let storage = [
            format!("--root={}", self.at("storage/root")),
            format!("--runroot={}", self.at("storage/run")),
            "--storage-driver=vfs".to_owned(),
        ];
        match self.kind {
            Kind::Skopeo => tool.arg(format!("--policy={}", self.at("policy.json"))),
            Kind::Buildah => tool.args(storage),
            Kind::Podman => tool
                .args(storage)
                .arg(format!("--tmpdir={}", self.at("storage/tmp")))
                .args(["--cgroup-manager=cgroupfs", "--events-backend=file"]),
        };
        run(tool.args(arguments))
    }

    /// Runs one of its commands that speak to the registry; `side` is `src-`, `dest-` or nothing.
    fn ask(&self, command: &[&str], side: &str, rest: &[&str]) -> Result<String, String> {
        let mut options = vec![
            format!("--authfile={}", self.at("auth.json")),
            format!("--{side}cert-dir={}", self.at("certs")),
        ];
        if self.kind != Kind::Skopeo && command != ["login"] {
            options.push(format!("--signature-policy={}", self.at("policy.json")));
        }
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        self.run(&[command, &options, rest].concat())
    }
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Skopeo => "skopeo",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
        }
    }
}

impl Member for Tool {
    fn log_in(&mut self, account: Account<'_>) -> Option<Result<(), String>> {
        let user = format!("--username={}", account.user);
        let password = format!("--password={}", account.password);
        let rest = [user.as_str(), &password, &self.authority];
        Some(self.ask(&["login"], "", &rest).map(|_| ()))
    }

    fn be(&mut self, account: Option<Account<'_>>) {
        let file = Account::file(account, &self.authority);
        write(&self.dir.path().join("auth.json"), file);
    }

    fn pull(&mut self, name: &str) -> Result<String, String> {
        let reference = format!("{}/{name}", self.authority);
        let remote = format!("docker://{reference}");
        match self.kind {
            Kind::Skopeo => {
                let copy = self.dir.path().join("copy");
                super::emptied(&copy);
                let to = format!("dir:{}", copy.display());
                self.ask(&["copy"], "src-", &["--quiet", &remote, &to])?;
                let manifest = std::fs::read(copy.join("manifest.json"));
                Ok(sha256(&manifest.map_err(|error| error.to_string())?))
            }
            Kind::Podman => {
                let _ = self.run(&["rmi", "--all", "--force"]);
                self.ask(&["pull"], "", &["--quiet", &remote])?;
                let inspect = ["image", "inspect", "--format={{.Digest}}", &reference];
                Ok(self.run(&inspect)?.trim().to_owned())
            }
            Kind::Buildah => {
                let _ = self.run(&["rmi", "--all", "--force"]);
                self.ask(&["pull"], "", &["--quiet", "--policy=always", &remote])?;
                let format = "--format={{.FromImageDigest}}";
                let inspect = ["inspect", "--type=image", format, &reference];
                Ok(self.run(&inspect)?.trim().to_owned())
            }
        }
    }

    fn push(&mut self, image: &str, name: &str) -> Result<String, String> {
        let remote = format!("docker://{}/{name}", self.authority);
        let digest = self.at("digest");
        let digest_file = format!("--digestfile={digest}");
        match self.kind {
            Kind::Skopeo => {
                let rest = ["--quiet", &digest_file, image, &remote];
                self.ask(&["copy"], "dest-", &rest)?;
            }
            Kind::Podman | Kind::Buildah => {
                let file = archive(image, "docker-archive", self.dir.path(), "local/image:1")?;
                let policy = format!("--signature-policy={}", self.at("policy.json"));
                let local = format!("docker-archive:{file}");
                let id = self.run(&["pull", "--quiet", &policy, &local])?;
                self.ask(
                    &["push"],
                    "",
                    &["--quiet", &digest_file, id.trim(), &remote],
                )?;
            }
        }
        std::fs::read_to_string(digest).map_err(|error| error.to_string())
    }

    fn delete(&mut self, name: &str) -> Option<Result<(), String>> {
        let remote = format!("docker://{}/{name}", self.authority);
        let skopeo = self.kind == Kind::Skopeo;
        skopeo.then(|| self.ask(&["delete"], "", &[&remote]).map(|_| ()))
    }
}
