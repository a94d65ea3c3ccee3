//! The program: the command line, the configuration, the admin API, the composition root.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod admin;
mod announce;
mod certificates;
mod cli;
mod client_url;
mod config;
mod serve;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
