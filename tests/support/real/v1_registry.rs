//! docker-registry 0.9.1, the last registry of the v1 API, on the Python 2.7 that `scripts/v1-registry.sh`
//! found.

use std::path::Path;

use tempfile::TempDir;

use super::{Missing, write};
use crate::support::eventually;
use crate::support::process::{self, Process};

/// A registry over files in a temporary directory.
pub struct DockerRegistry {
    process: Process,
    address: String,
    _dir: TempDir,
}

impl DockerRegistry {
    /// Standing alone, with a search.
    pub fn start() -> Result<Self, Missing> {
        let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/v1-registry");
        if !place.join("ready").is_file() {
            return Err(Missing(
                "docker-registry 0.9.1 (scripts/v1-registry.sh)".into(),
            ));
        }
        let dir = crate::support::temp_dir();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        let config = dir.path().join("config.yml");
        write(&config, configuration(&data));
        let log = dir.path().join("registry.log");
        write(&log, "");
        let mut command = process::command(place.join("bin/gunicorn"));
        command
            .args(["-k", "gevent", "-w", "1", "-b", "127.0.0.1:0"])
            .args(["--error-logfile", "-", "docker_registry.wsgi:application"])
            .env("PYTHONPATH", place.join("stubs"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("SETTINGS_FLAVOR", "test")
            .env("DOCKER_REGISTRY_CONFIG", &config)
            .current_dir(dir.path());
        let mut process = Process::spawn_logged(&mut command, &log).expect("gunicorn runs");
        let address = eventually("docker-registry 0.9.1 to listen", || {
            assert!(process.exited().is_none(), "docker-registry 0.9.1 ended");
            let log = process.log();
            let (_, rest) = log.split_once("Listening at: http://")?;
            Some(rest.split_whitespace().next()?.to_owned())
        });
        Ok(Self {
            process,
            address,
            _dir: dir,
        })
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it says of itself, while it runs.
    pub fn log(&self) -> String {
        self.process.log()
    }
}

fn configuration(data: &Path) -> String {
    let data = data.display();
    format!(
        "test:
    loglevel: info
    standalone: true
    storage: local
    storage_path: {data}
    search_backend: sqlalchemy
    sqlalchemy_index_database: sqlite:///{data}/search.db
"
    )
}
