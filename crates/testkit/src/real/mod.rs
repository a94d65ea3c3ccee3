//! Real registries and real clients, as Debian packages them.
//!
//! Every one of them is started from a temporary directory, without the machine's configuration,
//! and in a mount namespace where Docker Hub's names are this machine: a client that falls back from its
//! mirror to the Hub fails at once instead of finding it.
//!
//! A part that is not installed is [`Missing`]; [`found`] decides what that means.

mod containerd;
mod docker;
mod machine;
mod member;
mod objects;
mod podman;
mod registry;
mod skopeo;
mod token;
mod tool;
mod unpacked;
mod v1_clients;
mod v1_registry;
mod wire;

use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

pub use containerd::Containerd;
pub use docker::Docker;
pub use machine::Machine;
pub use member::{Account, Member, RawMember, archive};
pub use objects::ObjectStore;
pub use podman::{Mirror, Podman};
pub use registry::{Count, Counters, Registry};
pub use skopeo::Skopeo;
pub use token::{Asked, TokenServer};
pub use tool::Tool;
pub use unpacked::{Marks, Unpacked, check_same};
pub use v1_clients::{V1Client, V1Found, V1Session};
pub use v1_registry::{DockerRegistry, OldRegistry};
pub use wire::Wire;

use super::process;

/// The timeout of a client for one pull.
const PULL: Duration = Duration::from_secs(90);

/// Names that a client falls back to if its mirror cannot serve.
const HUB: &str = "127.0.0.1 localhost registry-1.docker.io auth.docker.io index.docker.io docker.io \
                   registry.hub.docker.com production.cloudflare.docker.com registry.test\n::1 localhost\n";

/// The name of the gateway for clients, which resolves to this machine.
pub const HOST: &str = "registry.test";

/// Makes `/etc/hosts`, `/run` and `/dev/shm` private, and `/etc/docker` where the client has one, then
/// becomes the client.
const ENTER: &str = r#"mount --bind "$0" /etc/hosts && mount -t tmpfs run /run \
                       && mount -t tmpfs shm /dev/shm \
                       && if [ -d "$HOME/etc-docker" ]; then mkdir -p /etc/docker \
                          && mount --bind "$HOME/etc-docker" /etc/docker; fi \
                       && exec "$@""#;

/// A program or privilege that this machine lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is missing", self.0)
    }
}

/// The real part, or `None` if it is missing: then a line is written to the file that `ROADSTEAD_MISSING`
/// names, and the test returns. With `CI=true` a missing part fails the test.
#[track_caller]
pub fn found<T>(part: Result<T, Missing>) -> Option<T> {
    if let Err(missing) = &part {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "with CI=true nothing may be missing: {missing}"
        );
    }
    found_perhaps(part)
}

/// [`found`] for parts that may be missing even with `CI=true`, since current systems lack them. A
/// scripted part stands in for it.
pub fn found_perhaps<T>(part: Result<T, Missing>) -> Option<T> {
    let missing = match part {
        Ok(part) => return Some(part),
        Err(missing) => missing,
    };
    let thread = std::thread::current();
    let line = format!("{}: {missing}\n", thread.name().unwrap_or("a test"));
    eprint!("NOT TESTED {line}");
    if let Some(path) = std::env::var_os("ROADSTEAD_MISSING") {
        let mut options = std::fs::File::options();
        let file = options.create(true).append(true).open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file of missing parts is written");
    }
    None
}

/// The result of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The digest of the manifest or index that the reference named.
    pub digest: String,
    /// The contents that the client reports: digests of blobs, or its image id and layers.
    pub content: Vec<String>,
}

/// A client that pulls from a fixed mirror or registry.
pub trait Client {
    /// Pulls a reference; the error is the client's own output.
    fn pull(&mut self, reference: &str) -> Result<Pulled, String>;
    /// Empties the client's storage.
    fn wipe(&mut self);
}

/// The path of a program.
pub fn program(name: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .ok_or_else(|| Missing(name.to_owned()))
}

/// A command whose `/etc/hosts` sends Docker Hub's names to this machine, in namespaces of its own: what
/// it mounts and starts ends with it.
fn offline(name: &str, dir: &Path) -> Result<Command, Missing> {
    let program = program(name)?;
    let unshare = self::program("unshare")?;
    if !rustix::process::geteuid().is_root() {
        return Err(Missing(format!("root, for {name}")));
    }
    let hosts = dir.join("hosts");
    std::fs::write(&hosts, HUB).expect("a hosts file");
    let mut command = process::command(unshare);
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", ENTER])
        .arg(hosts)
        .arg(program)
        .env("HOME", dir)
        .env("TMPDIR", dir)
        .env("XDG_RUNTIME_DIR", dir)
        .current_dir(dir);
    Ok(command)
}

/// The library that fakes the clock of a program which loads it (Debian's `libfaketime`).
pub fn fake_clock() -> Result<PathBuf, Missing> {
    let folders = std::fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten();
    let mut files = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = files.find(|file| file.is_file());
    found.ok_or_else(|| Missing("faketime".to_owned()))
}

/// Runs a client's command to its end; returns standard output, or all output as an error.
pub fn run(command: &mut Command) -> Result<String, String> {
    let output = process::run(command, PULL).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        Ok(text)
    } else {
        Err(said(&output))
    }
}

fn said(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    let (out, err) = (String::from_utf8_lossy(out), String::from_utf8_lossy(err));
    format!("{}: {out}{err}", output.status)
}

/// Replaces whatever is at this path with an empty directory.
fn emptied(path: &Path) {
    let _ = std::fs::remove_dir_all(path);
    std::fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Writes a configuration file.
fn write(path: &Path, text: impl AsRef<[u8]>) {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).expect("a directory");
    }
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A directory as containers/image wants it, with `ca` in it as the one to trust.
pub fn certificates(dir: &Path, ca: &Path) -> PathBuf {
    let certificates = dir.join("certs");
    let pem = std::fs::read(ca).unwrap_or_else(|error| panic!("{}: {error}", ca.display()));
    write(&certificates.join("ca.crt"), pem);
    certificates
}

/// The words of a program's output, sorted.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    words.sort();
    words
}

/// A configuration file's path as text.
fn text(path: &(impl AsRef<OsStr> + ?Sized)) -> String {
    path.as_ref().to_string_lossy().into_owned()
}
