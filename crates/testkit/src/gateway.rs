//! The real binary, started as a user would start it, in a directory of its own.
//!
//! Relative paths of the configuration are resolved against that directory, so the default `var/keys` and
//! `var/store` are private to the test. Keys that the YAML leaves out and that tests would share are filled
//! in: no admin listener, and two listeners on ports the kernel chooses, TLS (`url(0)`) and
//! plain (`url(1)`).

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{self, Process};

/// The timeout for `ready`.
const START: Duration = Duration::from_secs(30);
/// The timeout for draining and exiting.
const END: Duration = Duration::from_secs(45);

const LISTEN: &str =
    "listen:\n- {address: \"127.0.0.1:0\"}\n- {address: \"127.0.0.1:0\", tls: off}\n";
const ADMIN: &str = "admin: {address: off}\n";
const STORE: &str = "store: {min_free: 1MiB}\n";

/// A running gateway. Dropping it kills it and removes its directory.
pub struct Gateway {
    process: Option<Process>,
    listeners: Vec<String>,
    operators: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    /// The program that starts the binary; empty: the binary itself.
    wrapper: Vec<String>,
    dir: TempDir,
}

impl Gateway {
    /// Starts `roadstead serve -c FILE` and waits for `ready`.
    #[track_caller]
    pub fn start(yaml: &str) -> Self {
        Self::start_with(yaml, &[])
    }

    /// [`Gateway::start`] with more environment, for example `SSL_CERT_FILE`.
    #[track_caller]
    pub fn start_with(yaml: &str, environment: &[(&str, &str)]) -> Self {
        Self::start_under(&[], yaml, environment)
    }

    /// [`Gateway::start_with`] by a program that gets the binary and its arguments and executes it.
    #[track_caller]
    pub fn start_under(wrapper: &[&str], yaml: &str, environment: &[(&str, &str)]) -> Self {
        let mut gateway = Self {
            wrapper: wrapper.iter().map(|&word| word.to_owned()).collect(),
            process: None,
            listeners: Vec::new(),
            operators: Vec::new(),
            environment: environment
                .iter()
                .map(|&(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            dir: crate::temp_dir(),
        };
        gateway.configure(yaml);
        gateway.launch();
        gateway
    }

    /// A mirror of one registry, with default listeners: `registries: [{name, v2}]` and `more` YAML.
    #[track_caller]
    pub fn mirror(name: &str, v2: &str, more: &str) -> Self {
        Self::start(&format!(
            "registries: [{{name: {name}, v2: \"{v2}\"}}]\n{more}"
        ))
    }

    /// Runs the binary to its end with these arguments, in a temporary directory.
    pub fn run(arguments: &[impl AsRef<OsStr>]) -> Output {
        let dir = crate::temp_dir();
        run_in(dir.path(), arguments)
    }

    /// Runs `roadstead check` on this YAML as it is, in a file called `roadstead.yaml`.
    pub fn check(yaml: &str) -> Output {
        run_on(yaml, "check")
    }

    /// Runs `roadstead serve` on a YAML that must be refused; returns the output.
    pub fn refused(yaml: &str) -> Output {
        run_on(yaml, "serve")
    }

    /// Runs another command with the same configuration.
    pub fn roadstead(&self, arguments: &[&str]) -> Output {
        let mut command = binary(self.dir.path());
        command.args(arguments).args(["-c", "roadstead.yaml"]);
        process::run(&mut command, START).expect("the binary runs to its end")
    }

    /// The URL of listener `index` of the `listen` list: `https://127.0.0.1:PORT`, `http://…` or
    /// `unix:PATH`.
    #[track_caller]
    pub fn url(&self, index: usize) -> &str {
        &self.listeners[index]
    }

    /// The URL of `admin.address` or `admin.metrics`, unless it is off.
    #[track_caller]
    pub fn operators(&self, key: &str) -> &str {
        let found = self.operators.iter().find(|(known, _)| known == key);
        &found.unwrap_or_else(|| panic!("no {key}")).1
    }

    /// `127.0.0.1:PORT` of listener `index`.
    #[track_caller]
    pub fn authority(&self, index: usize) -> &str {
        let url = self.url(index);
        url.split_once("://")
            .map_or(url, |(_, authority)| authority)
    }

    /// The certificate clients must trust.
    pub fn ca_path(&self) -> PathBuf {
        self.dir.path().join("var/keys/ca.pem")
    }

    /// The directory it was started in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The default store.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("var/store")
    }

    /// The log of all starts in this directory.
    pub fn log(&self) -> String {
        process::read_lossy(&self.log_path())
    }

    /// The process id, while it runs.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Resident memory now, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS")
    }

    /// The highest resident memory since the start or [`Gateway::reset_peak`], in KiB.
    pub fn peak_rss_kib(&self) -> u64 {
        self.status_kib("VmHWM")
    }

    /// Resident memory that maps files, in KiB: mostly its own code, of which an unoptimised binary
    /// has several times as much.
    pub fn file_rss_kib(&self) -> u64 {
        self.status_kib("RssFile")
    }

    /// Resets the peak.
    pub fn reset_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("clear_refs");
    }

    /// File descriptors open now.
    pub fn open_fds(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("a running process")
            .count()
    }

    /// Files that it deleted and still has open.
    pub fn open_deleted_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("a running process")
            .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
            .filter(|file| file.to_string_lossy().ends_with(" (deleted)"))
            .count()
    }

    /// Sends SIGTERM and waits for the drain; returns the exit status.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running gateway");
        process.terminate(END)
    }

    /// Sends SIGTERM and returns at once; [`Gateway::wait`] gives the status.
    #[track_caller]
    pub fn begin_termination(&mut self) {
        self.running_mut().signal(rustix::process::Signal::TERM);
    }

    /// Sends SIGHUP.
    #[track_caller]
    pub fn hang_up(&mut self) {
        self.running_mut().signal(rustix::process::Signal::HUP);
    }

    /// Writes another configuration, which is not applied yet.
    pub fn write_config(&self, yaml: &str) {
        self.configure(yaml);
    }

    /// `roadstead reload` with another configuration.
    pub fn reload(&self, yaml: &str) -> Output {
        self.configure(yaml);
        self.roadstead(&["reload"])
    }

    /// `roadstead upgrade`, whose output says which process serves from now on.
    #[track_caller]
    pub fn upgrade(&mut self) {
        let output = self.roadstead(&["upgrade"]);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{out}{err}");
        let pid = out.strip_prefix("upgraded: process ");
        let pid = pid.and_then(|rest| rest.split(' ').next()?.parse().ok());
        let pid = pid.unwrap_or_else(|| panic!("{out}"));
        self.running_mut().succeeded_by(pid);
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: rustix::process::Signal) {
        self.running_mut().signal(signal);
    }

    /// The process, to watch it.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.running_mut()
    }

    /// Waits for the exit of a process that was terminated or is expected to fail.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("a running gateway");
        process.wait(END).expect("the gateway ends")
    }

    /// SIGKILL, as a power cut would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Whether the process is running.
    pub fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.exited().is_none())
    }

    /// Stops it with SIGTERM if it runs, then starts it in the same directory. Ports the kernel chose
    /// change: a listener that must stay needs a fixed address in the YAML.
    #[track_caller]
    pub fn restart(&mut self) {
        if self.is_running() {
            self.terminate();
        }
        self.launch();
    }

    /// [`Gateway::restart`] with another configuration.
    #[track_caller]
    pub fn restart_with(&mut self, yaml: &str) {
        self.configure(yaml);
        self.restart();
    }

    fn configure(&self, yaml: &str) {
        let mut whole = yaml.to_owned();
        // Tests of a full disk set it themselves; this machine's disk may be fuller.
        if !yaml.contains("min_free") {
            whole = whole.replace("\nstore: {", "\nstore: {min_free: 1MiB, ");
            if let Some(rest) = whole.strip_prefix("store: {") {
                whole = format!("store: {{min_free: 1MiB, {rest}");
            }
        }
        if !whole.is_empty() && !whole.ends_with('\n') {
            whole.push('\n');
        }
        for (key, default) in [("listen:", LISTEN), ("admin:", ADMIN), ("store:", STORE)] {
            if !yaml.lines().any(|line| line.starts_with(key)) {
                whole.push_str(default);
            }
        }
        std::fs::write(self.config_path(), whole).expect("the configuration is written");
    }

    #[track_caller]
    fn launch(&mut self) {
        let mut command = match self.wrapper.split_first() {
            None => binary(self.dir.path()),
            Some((program, arguments)) => {
                let mut command = process::command(program);
                command.args(arguments).arg(crate::binary());
                command.current_dir(self.dir.path());
                command
            }
        };
        command.args(["serve", "-c"]).arg(self.config_path());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command.stdout(Stdio::piped());
        let mut process = Process::spawn(&mut command, &self.log_path()).expect("the binary runs");
        let lines = follow(&mut process);
        self.listeners.clear();
        self.operators.clear();
        let deadline = Instant::now() + START;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) if line == "ready" => break,
                Ok(line) => {
                    if let Some(listener) = line.strip_prefix("listening on ") {
                        // What follows says which addresses these are.
                        let url = listener.split(" (").next().unwrap_or(listener);
                        self.listeners.push(self.absolute(url));
                    }
                    if let Some((key, url)) = line.split_once(" on ")
                        && key.starts_with("admin.")
                    {
                        self.operators.push((key.to_owned(), self.absolute(url)));
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("not ready within {START:?}"),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let status = process.wait(Duration::from_secs(5));
                    panic!("the gateway ended before it was ready: {status:?}");
                }
            }
        }
        self.process = Some(process);
    }

    /// A socket's path is relative to the directory of the start.
    fn absolute(&self, listener: &str) -> String {
        match listener.strip_prefix("unix:") {
            Some(path) => format!("unix:{}", self.dir.path().join(path).display()),
            None => listener.to_owned(),
        }
    }

    #[track_caller]
    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running gateway")
    }

    #[track_caller]
    fn running_mut(&mut self) -> &mut Process {
        self.process.as_mut().expect("a running gateway")
    }

    fn status_kib(&self, key: &str) -> u64 {
        let status = process::read_lossy(Path::new(&format!("/proc/{}/status", self.pid())));
        status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .and_then(|value| value.trim().strip_suffix(" kB"))
            .and_then(|kib| kib.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {key} in {status}"))
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("roadstead.yaml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("gateway.log")
    }
}

/// Passes on the lines of standard output, and keeps reading so that the pipe never fills.
fn follow(process: &mut Process) -> mpsc::Receiver<String> {
    let stdout = process.child().stdout.take().expect("a piped stdout");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

fn run_on(yaml: &str, verb: &str) -> Output {
    let dir = crate::temp_dir();
    std::fs::write(dir.path().join("roadstead.yaml"), yaml).expect("the configuration is written");
    run_in(dir.path(), &[verb, "-c", "roadstead.yaml"])
}

fn run_in(dir: &Path, arguments: &[impl AsRef<OsStr>]) -> Output {
    process::run(binary(dir).args(arguments), START).expect("the binary runs to its end")
}

fn binary(dir: &Path) -> std::process::Command {
    let mut command = process::command(crate::binary());
    command.current_dir(dir);
    command
}
