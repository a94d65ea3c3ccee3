//! Real object stores: moto, which is broad and accepts bad signatures, and s3s-fs, which verifies them.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::super::process::{self, Process};
use super::super::{private_address, temp_dir, until};
use super::{Missing, program};

/// The account of the bucket.
const ACCESS_KEY: &str = "AKIDSHARED";
const SECRET_KEY: &str = "hunter2hunter2";

/// A running object store with an empty bucket called `shared`.
pub struct ObjectStore {
    /// The program, for messages.
    pub name: &'static str,
    process: Process,
    endpoint: String,
    _dir: TempDir,
}

impl ObjectStore {
    /// `moto[server,s3]`.
    pub fn moto() -> Result<Self, Missing> {
        let program = part("moto_server")?;
        let address = private_address();
        let mut command = process::command(program);
        command.args([
            "-H",
            &address.ip().to_string(),
            "-p",
            &address.port().to_string(),
        ]);
        let store = Self::start("moto", command, &format!("http://{address}"), temp_dir());
        let create = format!("{}/shared", store.endpoint);
        let client = super::super::http::Web::h1(None);
        let fetched = client.fetch("PUT", &create, &[("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDSHARED/20261121/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0")]);
        assert_eq!(fetched.status, 200, "the bucket is made");
        Ok(store)
    }

    /// The crate `s3s-fs`.
    pub fn s3s_fs() -> Result<Self, Missing> {
        let program = part("s3s-fs")?;
        let (address, dir) = (private_address(), memory_dir());
        let root = dir.path().join("objects");
        std::fs::create_dir_all(root.join("shared")).expect("a bucket");
        let mut command = process::command(program);
        command
            .args(["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])
            .args([
                "--host",
                &address.ip().to_string(),
                "--port",
                &address.port().to_string(),
            ])
            .arg(root);
        Ok(Self::start(
            "s3s-fs",
            command,
            &format!("http://{address}"),
            dir,
        ))
    }

    fn start(name: &'static str, mut command: Command, endpoint: &str, dir: TempDir) -> Self {
        let log = dir.path().join("log");
        let mut process = Process::spawn_logged(&mut command, &log).expect("it runs");
        let address = endpoint.trim_start_matches("http://").to_owned();
        until(&format!("{name} listens"), || {
            assert!(
                process.exited().is_none(),
                "{name} ended: {}",
                process.log()
            );
            std::net::TcpStream::connect(&address).is_ok()
        });
        Self {
            name,
            process,
            endpoint: endpoint.to_owned(),
            _dir: dir,
        }
    }

    /// The line for `store:` in the configuration.
    pub fn yaml(&self) -> String {
        self.yaml_with(SECRET_KEY)
    }

    /// [`ObjectStore::yaml`] with a wrong secret.
    pub fn yaml_with(&self, secret: &str) -> String {
        let endpoint = &self.endpoint;
        format!(
            "bucket: {{url: \"s3://shared/tier\", endpoint: \"{endpoint}\", access_key: {ACCESS_KEY}, secret_key: {secret}}}"
        )
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// A temporary folder, in memory where that is possible: gateways wait a second for an object store, and the disk is busy
/// with the other tests.
fn memory_dir() -> TempDir {
    let in_memory = tempfile::Builder::new()
        .prefix("roadstead-")
        .tempdir_in("/dev/shm");
    in_memory.unwrap_or_else(|_| temp_dir())
}

/// A program that `scripts/real-parts.sh` installs below `target`, or that the machine has.
fn part(name: &str) -> Result<PathBuf, Missing> {
    let own = crate::root().join("target/real-parts/bin").join(name);
    if own.is_file() {
        Ok(own)
    } else {
        program(name)
    }
}
