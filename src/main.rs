//! The command line: parse, call one function, map its error to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    roadstead::cli::main()
}
