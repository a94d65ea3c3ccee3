//! The program: commands, configuration, the admin listeners, the composition root.

mod admin;
mod cli;
mod config;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
