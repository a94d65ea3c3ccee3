//! A virtual machine of namespaces: processes, mounts and a network in which every port is free and every name
//! resolves to itself. For commands of documents, with the paths and ports that a person would use.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Missing, PULL, program, write};
use crate::eventually;
use crate::process::{self, Process};

/// Folders that are the machine's own, empty at first.
const OWN: [&str; 6] = [
    "docker",
    "containers",
    "containerd",
    "buildkit",
    "rancher",
    "roadstead",
];

/// Makes of the namespaces a machine, in the folder that is the working directory.
const BOOT: &str = r#"
mount --bind hosts /etc/hosts && mount -t tmpfs run /run && mount -t tmpfs shm /dev/shm || exit
for name in docker containers containerd buildkit rancher roadstead; do
    mkdir -p "/etc/$name" && mount --bind "etc/$name" "/etc/$name" || exit
done
ip link set lo up && echo up && exec sleep infinity
"#;

/// A machine. Its processes are killed when it is dropped.
pub struct Machine {
    process: Process,
    /// Process 1 of the machine, as it is seen from here.
    init: String,
    path: String,
    dir: TempDir,
}

impl Machine {
    /// A machine that is called all these names. Its `roadstead` is the one that is tested.
    pub fn boot(names: &[&str]) -> Result<Self, Missing> {
        let unshare = program("unshare")?;
        program("nsenter")?;
        program("ip")?;
        if !rustix::process::geteuid().is_root() {
            return Err(Missing("root, for a machine of its own".to_owned()));
        }
        let dir = crate::temp_dir();
        let hosts = format!("127.0.0.1 localhost {}\n", names.join(" "));
        write(&dir.path().join("hosts"), hosts);
        for name in OWN {
            std::fs::create_dir_all(dir.path().join("etc").join(name)).expect("a directory");
        }
        let mut command = process::command(unshare);
        command
            .args(["--mount", "--net", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "sh", "-c", BOOT])
            .current_dir(dir.path());
        let log = dir.path().join("machine.log");
        let mut process = Process::spawn_logged(&mut command, &log).expect("unshare runs");
        eventually("the machine to be up", || {
            assert!(process.exited().is_none(), "the machine is down");
            process.log().lines().any(|line| line == "up").then_some(())
        });
        let pid = process.pid();
        let children = process::read_lossy(Path::new(&format!("/proc/{pid}/task/{pid}/children")));
        let bin = crate::binary().parent();
        let bin = bin.expect("a folder").display();
        let path = std::env::var("PATH").unwrap_or_default();
        Ok(Self {
            process,
            init: children.trim().to_owned(),
            path: format!("{bin}:{path}:/usr/sbin:/sbin"),
            dir,
        })
    }

    /// The folder that everything is run in, which is home.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path, on the host, of a file in `/etc/docker` and the like.
    pub fn file(&self, path: &str) -> PathBuf {
        self.dir.path().join(path.trim_start_matches('/'))
    }

    /// A shell line that runs in the machine.
    pub fn command(&self, line: &str) -> Command {
        let mut command = process::command(program("nsenter").expect("it was there before"));
        command
            .args(["--target", &self.init, "--mount", "--net", "--pid"])
            .arg(format!("--wd={}", self.dir.path().display()))
            .args(["--", "sh", "-c", line])
            .env("PATH", &self.path)
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.dir.path())
            .env("DOCKER_HOST", self.docker())
            .current_dir(self.dir.path());
        command
    }

    /// The socket of its docker daemon.
    pub fn docker(&self) -> String {
        format!("unix://{}/docker.sock", self.dir.path().display())
    }

    /// Runs a line to its end, with this input; returns its output, as an error if it failed.
    pub fn run(&self, line: &str, input: &str) -> Result<String, String> {
        let input_file = self.dir.path().join("input");
        write(&input_file, input);
        let line = format!("{{ {line}\n}} <{} 2>&1", input_file.display());
        let output = process::run(&mut self.command(&line), PULL).map_err(|it| it.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(said)
        } else {
            Err(said)
        }
    }

    /// Starts a service, and waits until it has printed `ready`.
    #[track_caller]
    pub fn start(&self, line: &str, within: Duration, ready: &str) -> Process {
        let name = line.split([' ', '/']).next().unwrap_or("program");
        let log = self
            .dir
            .path()
            .join(format!("{name}-{}.log", fastrand::u32(..)));
        let mut command = self.command(&format!("exec {line}"));
        command.stdin(Stdio::null());
        let mut process = Process::spawn_logged(&mut command, &log).expect("nsenter runs");
        crate::eventually_within(within, line, || {
            assert!(process.exited().is_none(), "{line}: {}", process.log());
            process.log().contains(ready).then_some(())
        });
        process
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.process.kill_children(Duration::from_secs(5));
    }
}
