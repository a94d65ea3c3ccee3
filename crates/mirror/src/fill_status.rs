//! The fills in progress, for operators.

use std::time::{Duration, SystemTime};

use super::Mirror;
use super::progress::Phase;
use super::source::FillKey;
use super::waiting::WaitingClient;
use oci::name::{Registry, Repository};

/// A download in progress.
#[derive(Clone, Debug)]
pub struct FillStatus {
    /// What is downloaded.
    pub key: FillKey,
    /// The registry of its first source.
    pub registry: Registry,
    /// The repository that it was first asked for, if it is known.
    pub repository: Option<Repository>,
    /// How far it is.
    pub phase: FillPhase,
    /// The whole length in bytes, where announced.
    pub total: Option<u64>,
    /// Bytes in the staged file.
    pub written: u64,
    /// When it was first asked for.
    pub started: SystemTime,
    /// How many requests follow it.
    pub followers: usize,
    /// The clients among them, each once, as far as they are remembered.
    pub clients: Vec<WaitingClient>,
}

/// The phase of a download.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillPhase {
    /// It waits for a slot, or for the headers of the source.
    Waiting,
    /// Bytes arrive.
    Streaming {
        /// For so long.
        since: Duration,
        /// The bytes that were there before.
        resumed: u64,
    },
    /// All bytes are there and are being verified.
    Verifying,
}

impl FillPhase {
    fn of(phase: &Phase, is_whole: bool) -> Option<Self> {
        match phase {
            Phase::Waiting => Some(Self::Waiting),
            Phase::Streaming { .. } if is_whole => Some(Self::Verifying),
            Phase::Streaming { since, resumed, .. } => Some(Self::Streaming {
                since: since.elapsed(),
                resumed: *resumed,
            }),
            Phase::Done { .. } | Phase::Failed(_) => None,
        }
    }
}

impl Mirror {
    /// The downloads in progress, in no order.
    pub fn fills(&self) -> Vec<FillStatus> {
        let fills = self.state.contents.fills.running();
        let status = fills.into_iter().filter_map(|fill| {
            let source = fill.first_source()?;
            let (progress, followers) = fill.observed();
            let is_whole = progress.total == Some(progress.written);
            Some(FillStatus {
                key: fill.key,
                registry: source.registry().clone(),
                repository: source.repository().cloned(),
                phase: FillPhase::of(&progress.phase, is_whole)?,
                total: progress.total,
                written: progress.written,
                started: fill.started,
                followers,
                clients: fill.waiting.all(),
            })
        });
        status.collect()
    }
}
