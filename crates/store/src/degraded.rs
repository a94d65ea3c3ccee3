//! The warning that the store is degraded, at most once a minute.

use std::error::Error;

use telemetry::{self, LogThrottle};

/// Logs that the store failed to do something: as an error at most once a minute, otherwise at debug level.
/// A failure of the store costs a request upstream, never an answer.
pub fn warn_degraded(failure: &str, error: &(dyn Error + 'static)) {
    static LOGGED: LogThrottle = LogThrottle::new();

    let error = telemetry::chain(error);
    if LOGGED.now() {
        tracing::error!(
            error,
            "the store is degraded: {failure}; content that cannot be stored is passed through"
        );
    } else {
        tracing::debug!(error, "the store is degraded: {failure}");
    }
}
