//! dockerd with `--registry-mirror`, and the docker command for it.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::{
    Account, Client, Member, Missing, Pulled, archive, emptied, offline, program, run, words, write,
};
use crate::eventually_within;
use crate::process::{self, Process};

/// How long dockerd may take to start, with containerd below it.
const START: Duration = Duration::from_secs(45);

/// A docker daemon of its own.
pub struct Docker {
    process: Option<Process>,
    mirror: Option<String>,
    /// The registry that it is a [`Member`] of.
    authority: String,
    dir: TempDir,
}

impl Docker {
    /// With a mirror of docker.io, a plain URL of this machine: `http://127.0.0.1:PORT`.
    pub fn with_mirror(url: &str) -> Result<Self, Missing> {
        Self::launch(Some(url.to_owned()), None)
    }

    /// For the registry at `authority`, whose CA is in `/etc/docker/certs.d`, with a mirror of docker.io.
    pub fn member(authority: &str, ca: &Path, mirror: &str) -> Result<Self, Missing> {
        Self::launch(Some(mirror.to_owned()), Some((authority, ca)))
    }

    /// Without a mirror, for registries named in references; those on 127.0.0.0/8 count as insecure.
    pub fn start() -> Result<Self, Missing> {
        Self::launch(None, None)
    }

    fn launch(mirror: Option<String>, trusts: Option<(&str, &Path)>) -> Result<Self, Missing> {
        let dir = crate::temp_dir();
        // Its own keys go there too.
        std::fs::create_dir(dir.path().join("etc-docker")).expect("a directory");
        if let Some((authority, ca)) = trusts {
            let place = dir.path().join("etc-docker/certs.d").join(authority);
            write(&place.join("ca.crt"), std::fs::read(ca).expect("a CA"));
        }
        write(&dir.path().join("daemon.json"), "{}");
        program("docker")?;
        program("containerd")?;
        offline("dockerd", dir.path())?;
        let mut docker = Self {
            process: None,
            mirror,
            authority: trusts.map_or(String::new(), |(authority, _)| authority.to_owned()),
            dir,
        };
        docker.wipe();
        Ok(docker)
    }

    /// The docker command for this daemon: `docker(&["login", …])`.
    pub fn docker(&self, arguments: &[&str]) -> Result<String, String> {
        let mut docker = process::command(program("docker").map_err(|m| m.to_string())?);
        docker
            .arg(format!(
                "--host=unix://{}/socket",
                self.dir.path().display()
            ))
            .env("DOCKER_CONFIG", self.dir.path().join("config"))
            .args(arguments);
        run(&mut docker)
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        self.process.as_ref().map_or(String::new(), Process::log)
    }

    fn down(&mut self) {
        if let Some(mut unshare) = self.process.take() {
            unshare.kill_children(Duration::from_secs(5));
        }
    }

    fn up(&mut self) {
        let dir = self.dir.path();
        let at = |name: &str| dir.join(name).display().to_string();
        let mut dockerd = offline("dockerd", dir).expect("it was there before");
        dockerd
            .arg(format!("--config-file={}", at("daemon.json")))
            .arg(format!("--data-root={}", at("state/data")))
            .arg(format!("--exec-root={}", at("state/exec")))
            .arg(format!("--pidfile={}", at("state/pid")))
            .arg(format!("--host=unix://{}", at("socket")))
            .args(["--storage-driver=vfs", "--bridge=none"])
            .args(["--iptables=false", "--ip6tables=false"]);
        if let Some(url) = &self.mirror {
            dockerd.arg(format!("--registry-mirror={url}"));
        }
        let log = dir.join("dockerd.log");
        let process = Process::spawn_logged(&mut dockerd, &log).expect("unshare runs");
        let process = self.process.insert(process);
        eventually_within(START, "dockerd to listen", || {
            assert!(process.exited().is_none(), "dockerd ended");
            let log = process.log();
            log.contains("API listen on").then_some(())
        });
    }
}

impl Client for Docker {
    /// `reference` as a user types it: `library/small:1`, or with a host.
    fn pull(&mut self, reference: &str) -> Result<Pulled, String> {
        let said = self.docker(&["pull", reference])?;
        let digest = said.lines().find_map(|line| line.strip_prefix("Digest: "));
        let format = "--format={{.Id}} {{range .RootFS.Layers}}{{.}} {{end}}";
        Ok(Pulled {
            digest: digest.ok_or_else(|| said.clone())?.trim().to_owned(),
            content: words(&self.docker(&["image", "inspect", format, reference])?),
        })
    }

    fn wipe(&mut self) {
        self.down();
        emptied(&self.dir.path().join("state"));
        let _ = std::fs::remove_file(self.dir.path().join("socket"));
        let _ = std::fs::remove_file(self.dir.path().join("dockerd.log"));
        self.up();
    }
}

impl Member for Docker {
    fn log_in(&mut self, account: Account<'_>) -> Option<Result<(), String>> {
        let Account { user, password } = account;
        let login = ["login", "-u", user, "-p", password, &self.authority];
        Some(self.docker(&login).map(|_| ()))
    }

    fn be(&mut self, account: Option<Account<'_>>) {
        let file = Account::file(account, &self.authority);
        write(&self.dir.path().join("config/config.json"), file);
    }

    fn pull(&mut self, name: &str) -> Result<String, String> {
        let reference = format!("{}/{name}", self.authority);
        let _ = self.docker(&["rmi", "--force", &reference]);
        Client::pull(self, &reference).map(|pulled| pulled.digest)
    }

    fn push(&mut self, image: &str, name: &str) -> Result<String, String> {
        let reference = format!("{}/{name}", self.authority);
        let file = archive(image, "docker-archive", self.dir.path(), &reference)?;
        self.docker(&["load", "--quiet", "--input", &file])?;
        let said = self.docker(&["push", &reference])?;
        let digest = said
            .split_whitespace()
            .find(|word| word.starts_with("sha256:"));
        digest.map(str::to_owned).ok_or(said)
    }

    fn delete(&mut self, _: &str) -> Option<Result<(), String>> {
        None
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.down();
    }
}
