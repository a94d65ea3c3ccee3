//! The warning that the store cannot do its work, at most once a minute.

use std::error::Error;

use telemetry::{self, LogThrottle};

/// Logs that the store failed to do something: as an error at most once a minute, otherwise at debug level.
/// What the store cannot do costs a request upstream, never an answer.
pub fn warn_degraded(what: &str, error: &(dyn Error + 'static)) {
    static LOGGED: LogThrottle = LogThrottle::new();

    let error = telemetry::chain(error);
    if LOGGED.now() {
        tracing::error!(
            error,
            "the store is in trouble: {what}; what it cannot keep passes through"
        );
    } else {
        tracing::debug!(error, "the store is in trouble: {what}");
    }
}
