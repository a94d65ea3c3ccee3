//! `roadstead health`: asks the running gateway whether it is ready.

use std::process::ExitCode;

use super::admin_client::{AdminClient, AdminClientError};
use crate::config::Config;

/// Exits 1 unless the gateway is there and ready, as health checks of containers expect, and 78 if the configuration has no
/// address to ask.
pub fn health(config: &Config) -> ExitCode {
    match AdminClient::of_health(config).and_then(|client| client.ready()) {
        Ok(()) => {
            println!("ready");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("roadstead: {}", telemetry::chain(&error));
            match error {
                AdminClientError::Off | AdminClientError::AnyPort => {
                    ExitCode::from(error.exit_code())
                }
                _ => ExitCode::FAILURE,
            }
        }
    }
}
