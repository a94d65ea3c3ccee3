//! A broken disk is said once a minute, whatever it breaks.

use std::error::Error;

use telemetry::{self, LogThrottle};

/// Says that the store could not do `what`: in the log for everybody at most once a minute, and each time on
/// the level of debugging. What the store cannot do costs a question upstream, never an answer.
pub fn trouble(what: &str, error: &(dyn Error + 'static)) {
    static SAID: LogThrottle = LogThrottle::new();

    let error = telemetry::chain(error);
    if SAID.now() {
        tracing::error!(
            error,
            "the store is in trouble: {what}; what it cannot keep passes through"
        );
    } else {
        tracing::debug!(error, "the store is in trouble: {what}");
    }
}
