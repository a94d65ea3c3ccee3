//! The limits on requests to one upstream, whatever account they are sent with: its circuit; and what was observed of it.

use super::circuit::Circuit;
use super::observations::Observations;

/// The limits of one upstream.
#[derive(Debug, Default)]
pub(super) struct Limits {
    pub circuit: Circuit,
    pub observations: Observations,
}
