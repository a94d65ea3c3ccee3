//! Disks that break on request and are repaired.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use testkit::gateway::Gateway;
use testkit::process;
use testkit::real::{Missing, program};
use testkit::until;

/// Mounts a store of 12 MiB in memory, then executes the gateway.
const MEMORY: &str =
    r#"mkdir -p var/store && mount -t tmpfs -o size=12m store var/store && exec "$@""#;

/// Mounts a file system in a file in memory, then executes the gateway.
const LOOP: &str = r#"mkdir -p var/store disk && mount -t tmpfs -o size=40m disk disk \
    && truncate -s 32m disk/image && mkfs.ext2 -q -m 0 disk/image \
    && losetup -f --show disk/image >device && mount -o errors=continue "$(cat device)" var/store \
    && losetup -d "$(cat device)" && rmdir var/store/lost+found && exec "$@""#;

/// A file system in use cannot be made read-only, but a bind mount of it can.
const READ_ONLY: &str = "mount --bind var/store var/store && mount -o remount,bind,ro var/store";

/// Makes a write beyond the limit an error instead of a fatal signal.
const LIMITED: &str = r#"trap '' XFSZ; exec "$@""#;

/// A way to break a store.
pub struct Disk {
    wrapper: Vec<String>,
    kind: Kind,
    /// Whether received bytes can become unreadable.
    pub may_break_off: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Full,
    ReadOnly,
    Failing,
    Thin,
    Limited,
    Misplaced,
}

impl Disk {
    /// Another program fills the file system.
    pub fn full() -> Result<Self, Missing> {
        Self::mounted(Kind::Full, MEMORY)
    }

    /// The file system becomes read-only.
    pub fn read_only() -> Result<Self, Missing> {
        Self::mounted(Kind::ReadOnly, MEMORY)
    }

    /// The device ends after its first 64 KiB.
    pub fn failing() -> Result<Self, Missing> {
        Self::looped(Kind::Failing)
    }

    /// The device promises more space than it has.
    pub fn thin() -> Result<Self, Missing> {
        Self::looped(Kind::Thin)
    }

    /// No file may grow beyond 64 KiB.
    pub fn limited() -> Self {
        Self::new(
            Kind::Limited,
            vec!["sh".into(), "-c".into(), LIMITED.into(), "sh".into()],
        )
    }

    /// Files take the place of the store's folders.
    pub fn misplaced() -> Self {
        Self::new(Kind::Misplaced, Vec::new())
    }

    fn new(kind: Kind, wrapper: Vec<String>) -> Self {
        Self {
            wrapper,
            kind,
            may_break_off: matches!(kind, Kind::Failing),
        }
    }

    fn mounted(kind: Kind, script: &str) -> Result<Self, Missing> {
        let unshare = program("unshare")?;
        program("nsenter")?;
        let mut wrapper = vec![unshare.to_string_lossy().into_owned(), "--mount".into()];
        if !rustix::process::geteuid().is_root() {
            wrapper.extend(["--user".into(), "--map-root-user".into()]);
        }
        let probe = "mount -t tmpfs probe /tmp";
        let mut command = process::command(&wrapper[0]);
        command.args(&wrapper[1..]).args(["sh", "-c", probe]);
        if !succeeds(&mut command) {
            return Err(Missing(
                "the right to mount, for a disk that breaks,".into(),
            ));
        }
        wrapper.extend(["sh".into(), "-c".into(), script.into(), "sh".into()]);
        Ok(Self::new(kind, wrapper))
    }

    fn looped(kind: Kind) -> Result<Self, Missing> {
        program("losetup")?;
        program("mkfs.ext2")?;
        let mut command = process::command("losetup");
        if !rustix::process::geteuid().is_root() || !succeeds(command.arg("-f")) {
            return Err(Missing("a loop device, for a disk that fails,".into()));
        }
        Self::mounted(kind, LOOP)
    }

    /// A gateway with its store on this disk.
    #[track_caller]
    pub fn gateway(&self, yaml: &str) -> Gateway {
        let wrapper: Vec<&str> = self.wrapper.iter().map(String::as_str).collect();
        Gateway::start_under(&wrapper, yaml, &[])
    }

    pub fn break_it(&mut self, gateway: &Gateway) {
        match self.kind {
            Kind::Full => fill(&inside(gateway, "var/store/filler")),
            Kind::ReadOnly => enter(gateway, READ_ONLY),
            Kind::Failing => enter(
                gateway,
                "sync && cp --sparse=always disk/image disk/backup && truncate -s 64k disk/image \
                 && losetup -c \"$(cat device)\"",
            ),
            Kind::Thin => fill(&inside(gateway, "disk/filler")),
            Kind::Limited => limit(gateway, Some(64 << 10)),
            Kind::Misplaced => {
                for folder in ["blobs", "partials", "repositories"] {
                    let folder = gateway.store().join(folder);
                    std::fs::rename(&folder, folder.with_extension("away")).expect("movable");
                    File::create(&folder).expect("a file");
                }
            }
        }
    }

    /// Breaks what recovered by itself.
    pub fn break_further(&mut self, gateway: &Gateway) {
        match self.kind {
            Kind::Full | Kind::Thin => {
                until("the space of the download is free", || {
                    let partials = inside(gateway, "var/store/partials");
                    let mut partials = std::fs::read_dir(partials).expect("a folder");
                    partials.next().is_none() && gateway.open_deleted_files() == 0
                });
                self.break_it(gateway);
            }
            Kind::ReadOnly | Kind::Failing | Kind::Limited | Kind::Misplaced => {}
        }
    }

    pub fn repair(&mut self, gateway: &Gateway) {
        match self.kind {
            Kind::Full => empty(&inside(gateway, "var/store/filler")),
            Kind::ReadOnly => enter(gateway, "umount var/store"),
            Kind::Failing => enter(
                gateway,
                "dd if=disk/backup of=disk/image bs=1M conv=notrunc status=none && losetup -c \"$(cat device)\"",
            ),
            Kind::Thin => empty(&inside(gateway, "disk/filler")),
            Kind::Limited => limit(gateway, None),
            Kind::Misplaced => {
                for folder in ["blobs", "partials", "repositories"] {
                    let folder = gateway.store().join(folder);
                    std::fs::remove_file(&folder).expect("removable");
                    std::fs::rename(folder.with_extension("away"), &folder).expect("movable");
                }
            }
        }
    }
}

/// A path in the gateway's mount namespace.
fn inside(gateway: &Gateway, path: &str) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", gateway.pid()));
    let dir = gateway.dir().strip_prefix("/").expect("an absolute path");
    root.join(dir).join(path)
}

/// Runs a script in the gateway's mount namespace.
#[track_caller]
fn enter(gateway: &Gateway, script: &str) {
    let mut command = process::command("nsenter");
    command.args(["--target", &gateway.pid().to_string(), "--mount"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    let script = format!("cd \"$0\" && {script}");
    command.args(["sh", "-c", &script]).arg(gateway.dir());
    let output = process::run(&mut command, Duration::from_secs(20)).expect("nsenter runs");
    assert!(output.status.success(), "{script}: {output:?}");
}

fn succeeds(command: &mut Command) -> bool {
    process::run(command, Duration::from_secs(10)).is_ok_and(|output| output.status.success())
}

/// Writes until no space is left.
fn fill(path: &Path) {
    let mut options = File::options();
    let mut file = options
        .create(true)
        .append(true)
        .open(path)
        .expect("a file that fills");
    let mut piece = vec![7; 64 << 10];
    while !piece.is_empty() {
        match file.write_all(&piece) {
            Ok(()) => {}
            // Fills the rest in smaller pieces.
            Err(_) => piece.truncate(piece.len() / 2),
        }
    }
}

fn empty(path: &Path) {
    std::fs::remove_file(path).expect("what filled the disk");
}

fn limit(gateway: &Gateway, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).expect("a pid"));
    prlimit(pid, Resource::Fsize, limit).expect("the gateway is ours");
}
