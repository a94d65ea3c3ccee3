//! containerd, and `ctr images pull --hosts-dir`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::{
    Account, Client, Member, Missing, Pulled, archive, emptied, offline, program, run, words, write,
};
use crate::eventually_within;
use crate::process::{self, Process};

/// How long containerd may take to start.
const START: Duration = Duration::from_secs(30);

/// A containerd of its own, without its Kubernetes side.
pub struct Containerd {
    process: Option<Process>,
    options: Vec<String>,
    /// The registry that it is a [`Member`] of, and `--user`.
    authority: String,
    account: Option<String>,
    dir: TempDir,
}

impl Containerd {
    /// With `hosts.toml` for `registry` (as in `docker.io`) that names `url` as its mirror; containerd
    /// then asks there with `?ns=registry`. `ca` is what to trust when `url` is https.
    pub fn with_hosts(registry: &str, url: &str, ca: Option<&Path>) -> Result<Self, Missing> {
        let dir = crate::temp_dir();
        program("containerd")?;
        offline("ctr", dir.path())?;
        let server = match registry {
            "docker.io" => "registry-1.docker.io",
            other => other,
        };
        let ca = ca.map_or(String::new(), |ca| format!("ca = \"{}\"\n", ca.display()));
        let capabilities = "capabilities = [\"pull\", \"resolve\", \"push\"]";
        let hosts =
            format!("server = \"https://{server}\"\n[host.\"{url}\"]\n{capabilities}\n{ca}");
        let hosts_dir = dir.path().join("hosts.d");
        write(&hosts_dir.join(registry).join("hosts.toml"), hosts);
        let at = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{}\"\n",
            at("state/root"),
            at("state/state"),
            at("socket"),
        );
        write(&dir.path().join("config.toml"), config);
        let mut containerd = Self {
            process: None,
            options: vec![format!("--hosts-dir={}", hosts_dir.display())],
            authority: registry.to_owned(),
            account: None,
            dir,
        };
        containerd.wipe();
        Ok(containerd)
    }

    /// For the registry at `authority` itself.
    pub fn member(authority: &str, ca: &Path) -> Result<Self, Missing> {
        Self::with_hosts(authority, &format!("https://{authority}"), Some(ca))
    }

    /// Pulls every platform of an index, not only this machine's.
    pub fn all_platforms(mut self) -> Self {
        self.options.push("--all-platforms".to_owned());
        self
    }

    /// The ctr command for this containerd.
    pub fn ctr(&self, arguments: &[&str]) -> Result<String, String> {
        let mut ctr = offline("ctr", self.dir.path()).map_err(|m| m.to_string())?;
        ctr.arg("--address").arg(self.dir.path().join("socket"));
        run(ctr.args(arguments))
    }

    /// Where it unpacked the image that it pulled, the only one that it has.
    pub fn unpacked(&self) -> PathBuf {
        let state = self.dir.path().join("state/root");
        let snapshots = state.join("io.containerd.snapshotter.v1.native/snapshots");
        let folders = std::fs::read_dir(&snapshots).expect("it unpacked something");
        // Each is numbered, and holds what is below it as well.
        let number = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.expect("readable").file_name();
            name.to_string_lossy().parse::<u64>().expect("a number")
        };
        let top = folders.map(number).max().expect("a layer");
        snapshots.join(top.to_string())
    }

    /// The digest of an image that it has.
    fn digest(&self, reference: &str) -> Result<String, String> {
        let list = self.ctr(&["images", "list"])?;
        let line = list.lines().find(|line| line.starts_with(reference));
        let digest =
            line.and_then(|line| line.split_whitespace().find(|w| w.starts_with("sha256:")));
        Ok(digest.ok_or_else(|| list.clone())?.to_owned())
    }

    fn up(&mut self) {
        let dir = self.dir.path();
        let mut containerd = process::command(program("containerd").expect("it was there before"));
        containerd.arg("--config").arg(dir.join("config.toml"));
        let log = dir.join("containerd.log");
        let process = Process::spawn_logged(&mut containerd, &log).expect("containerd runs");
        let process = self.process.insert(process);
        eventually_within(START, "containerd to listen", || {
            assert!(process.exited().is_none(), "containerd ended");
            let log = process.log();
            log.contains("containerd successfully booted").then_some(())
        });
    }
}

impl Client for Containerd {
    /// `reference` is the whole name: `docker.io/library/small:1`. The content is every blob and
    /// manifest in containerd's store.
    fn pull(&mut self, reference: &str) -> Result<Pulled, String> {
        let mut pull = vec!["images", "pull", "--snapshotter=native"];
        pull.extend(self.options.iter().map(String::as_str));
        pull.push(reference);
        self.ctr(&pull)?;
        Ok(Pulled {
            digest: self.digest(reference)?,
            content: words(&self.ctr(&["content", "list", "--quiet"])?),
        })
    }

    fn wipe(&mut self) {
        self.process = None;
        emptied(&self.dir.path().join("state"));
        let _ = std::fs::remove_file(self.dir.path().join("containerd.log"));
        self.up();
    }
}

/// `ctr` has no login: it is given the account each time.
impl Member for Containerd {
    fn log_in(&mut self, _: Account<'_>) -> Option<Result<(), String>> {
        None
    }

    fn be(&mut self, account: Option<Account<'_>>) {
        self.options.retain(|option| !option.starts_with("--user="));
        self.account = account.map(|it| format!("--user={}:{}", it.user, it.password));
        self.options.extend(self.account.clone());
    }

    fn pull(&mut self, name: &str) -> Result<String, String> {
        let reference = format!("{}/{name}", self.authority);
        let _ = self.ctr(&["images", "remove", "--sync", &reference]);
        Client::pull(self, &reference).map(|pulled| pulled.digest)
    }

    fn push(&mut self, image: &str, name: &str) -> Result<String, String> {
        let reference = format!("{}/{name}", self.authority);
        let _ = self.ctr(&["images", "remove", "--sync", &reference]);
        let (base, tag) = reference.rsplit_once(':').expect("a tag");
        let file = archive(image, "oci-archive", self.dir.path(), tag)?;
        let import = ["images", "import", "--snapshotter=native", "--base-name"];
        self.ctr(&[&import[..], &[base, &file]].concat())?;
        let mut push = vec!["images", "push"];
        push.extend(self.options.iter().map(String::as_str));
        push.push(&reference);
        self.ctr(&push)?;
        self.digest(&reference)
    }

    fn delete(&mut self, _: &str) -> Option<Result<(), String>> {
        None
    }
}
