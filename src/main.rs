//! The program: the command line, the configuration, the admin API, the composition root.

mod admin;
mod announce;
mod cli;
mod config;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
