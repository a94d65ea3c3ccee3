//! Child processes that cannot outlive a test: each leads a process group that is killed on drop, and by
//! a watchdog when the test process itself is killed. Output goes to files, the end of which is shown
//! when the test panics.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// How much of a log a panic shows.
const SHOWN: usize = 8 << 10;

/// Reads `+ GROUP` and `- GROUP`, and kills what is left when its input ends.
const WATCHDOG: &str = r#"
while read -r sign group; do
    case $sign in
        +) groups="$groups $group" ;;
        -) rest=; for one in $groups; do [ "$one" = "$group" ] || rest="$rest $one"; done; groups=$rest ;;
    esac
done
for one in $groups; do kill -s KILL -- "-$one"; done
"#;

/// A running program and its process group.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    exited: Option<ExitStatus>,
    /// The process of its group that has taken its place.
    successor: Option<u32>,
}

impl Process {
    /// Starts `command` with standard error appended to `log`. Standard output goes there too unless
    /// the command already has a place for it.
    pub fn spawn(command: &mut Command, log: &Path) -> io::Result<Self> {
        let name = program(command);
        let child = command
            .stdin(Stdio::null())
            .stderr(append(log)?)
            .process_group(0)
            .spawn()?;
        watch('+', child.id());
        Ok(Self {
            name,
            child,
            log: log.to_owned(),
            exited: None,
            successor: None,
        })
    }

    /// From now on it is another process of its group, whose exit status counts as success.
    pub fn succeeded_by(&mut self, pid: u32) {
        self.successor = Some(pid);
    }

    /// Whether the process that it was started as has ended.
    pub fn first_has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// [`Process::spawn`] with standard output in the same log.
    pub fn spawn_logged(command: &mut Command, log: &Path) -> io::Result<Self> {
        command.stdout(append(log)?);
        Self::spawn(command, log)
    }

    /// The process itself, for its pipes and its exit status.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// The process id. That of the process which was started is its group's as well.
    pub fn pid(&self) -> u32 {
        self.successor.unwrap_or_else(|| self.child.id())
    }

    /// Everything written to the log so far.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// The exit status, if it has ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = match self.successor {
                None => self.child.try_wait().ok().flatten(),
                Some(pid) => {
                    let stat = read_lossy(Path::new(&format!("/proc/{pid}/stat")));
                    let is_running = !stat.is_empty() && !stat.contains(") Z ");
                    (!is_running).then(ExitStatus::default)
                }
            };
            if self.exited.is_some() {
                self.sweep();
            }
        }
        self.exited
    }

    /// Sends a signal to the program alone, not to its group.
    pub fn signal(&mut self, signal: Signal) {
        if self.exited().is_none() {
            let process = self
                .successor
                .and_then(|pid| Pid::from_raw(pid.cast_signed()));
            let _ = kill_process(process.unwrap_or_else(|| self.as_pid()), signal);
        }
    }

    /// Waits for the end; `None` when `within` has passed first.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        while self.exited().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.exited
    }

    /// SIGTERM, then the exit status; what takes longer than `within` is a failed test.
    #[track_caller]
    pub fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let Some(status) = self.wait(within) else {
            panic!("{} did not end within {within:?} of SIGTERM", self.name);
        };
        status
    }

    /// SIGKILL to its children, which it then reaps before it ends: for `unshare`, whose orphans no process
    /// else might reap.
    pub fn kill_children(&mut self, within: Duration) {
        let pid = self.pid();
        let children = read_lossy(Path::new(&format!("/proc/{pid}/task/{pid}/children")));
        for child in children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok())
        {
            if let Some(child) = Pid::from_raw(child) {
                let _ = kill_process(child, Signal::KILL);
            }
        }
        self.wait(within);
    }

    /// SIGKILL to the whole group.
    pub fn kill(&mut self) {
        if self.exited().is_none() {
            self.sweep();
            self.exited = self.child.wait().ok();
        }
    }

    /// Kills the group, once: later its number may be another's.
    fn sweep(&self) {
        let _ = kill_process_group(self.as_pid(), Signal::KILL);
        watch('-', self.child.id());
    }

    fn as_pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name, tail(&self.log()));
        }
    }
}

/// Runs a program to its end, within a deadline, with its whole output. Whatever it started is killed.
pub fn run(command: &mut Command, within: Duration) -> io::Result<Output> {
    let name = program(command);
    let dir = crate::temp_dir();
    let (out, err) = (dir.path().join("stdout"), dir.path().join("stderr"));
    command.stdout(File::create(&out)?);
    let mut process = Process::spawn(command, &err)?;
    let status = process.wait(within);
    process.kill();
    let (stdout, stderr) = (std::fs::read(&out)?, std::fs::read(&err)?);
    let Some(status) = status else {
        return Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "{name} still ran after {within:?}:\n{}{}",
                String::from_utf8_lossy(&stdout),
                String::from_utf8_lossy(&stderr)
            ),
        ));
    };
    Ok(Output {
        status,
        stdout,
        stderr,
    })
}

/// A command without the proxy and certificate settings of the environment.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    for name in [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "AWS_CA_BUNDLE",
        "ROADSTEAD_CONFIG",
        "DOCKER_HOST",
        "REGISTRY_AUTH_FILE",
    ] {
        command.env_remove(name);
    }
    command
}

/// The whole file as text, empty when it cannot be read.
pub fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The end of a long text, cut at a line.
pub fn tail(text: &str) -> &str {
    let Some(cut) = text.len().checked_sub(SHOWN) else {
        return text;
    };
    let start = text.as_bytes()[cut..]
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(0, |newline| cut + newline + 1);
    &text[start..]
}

/// Tells the watchdog about a group. It is started with the first one, and ends with this process.
fn watch(sign: char, group: u32) {
    static DOG: OnceLock<Mutex<Child>> = OnceLock::new();
    let dog = DOG.get_or_init(|| {
        let mut sh = Command::new("sh");
        sh.args(["-c", WATCHDOG]).stdin(Stdio::piped());
        sh.stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Mutex::new(sh.spawn().expect("sh runs"))
    });
    let mut dog = dog.lock().unwrap_or_else(PoisonError::into_inner);
    let input = dog.stdin.as_mut().expect("a piped input");
    writeln!(input, "{sign} {group}").expect("the watchdog listens");
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
