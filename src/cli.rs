//! The commands.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};
use crate::{serve, telemetry};

/// `EX_CONFIG` of sysexits.h: the configuration is at fault.
const CONFIGURATION: u8 = 78;
/// Read where `-c` is not given.
const DEFAULT_FILE: &str = "conf/roadstead.yaml";

/// A TLS gateway and pull-through cache for container registries.
#[derive(Debug, Parser)]
#[command(name = "roadstead", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Serve(File),
    /// Print every fault of the configuration with its place, and exit 78 if there is one.
    Check(File),
    /// Not yet: print the figures of a running gateway.
    Stats(File),
    /// Not yet: remove content from a running gateway.
    Purge(File),
    /// Not yet: pull images beforehand.
    Warm(File),
    /// Not yet: rehash what is on disk.
    Verify(File),
}

#[derive(Args, Debug)]
struct File {
    /// The configuration. Without it: conf/roadstead.yaml if it exists, else built-in defaults.
    #[arg(short, env = "ROADSTEAD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    // Before anything speaks TLS: another crate would choose a slower provider, or none.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(file) => run(&file),
        Command::Check(file) => check(&file),
        Command::Stats(_) | Command::Purge(_) | Command::Warm(_) | Command::Verify(_) => {
            eprintln!("not yet: this command is not built");
            ExitCode::from(CONFIGURATION)
        }
    }
}

/// Loads the configuration and prints what is wrong or dubious with it.
fn load(file: &File) -> Option<Config> {
    let default = Path::new(DEFAULT_FILE);
    let path = file
        .config
        .as_deref()
        .or_else(|| default.exists().then_some(default));
    match config::load(path) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            Some(config)
        }
        Err(faults) => {
            eprintln!("{faults}");
            None
        }
    }
}

fn check(file: &File) -> ExitCode {
    match load(file) {
        Some(_) => {
            println!("the configuration is good");
            ExitCode::SUCCESS
        }
        None => ExitCode::from(CONFIGURATION),
    }
}

fn run(file: &File) -> ExitCode {
    let Some(config) = load(file) else {
        return ExitCode::from(CONFIGURATION);
    };
    telemetry::start(config.log.format, config.log.level);
    match serve::serve(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roadstead: {}", telemetry::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}
