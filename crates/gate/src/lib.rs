//! Gates: which content of a registry is served. Pure; `mirror` does the I/O.
//!
//! A [`Gate`] has the rules of one registry. Rules on names are decided at once ([`Gate::repository`], [`Gate::tag`]).
//! All others judge content: a manifest is served once the gate has admitted it, from the facts that are known of it
//! ([`ManifestFacts`]): the tags and indexes that led to it, its platform, and the keys that signed it. Facts are
//! stored, verdicts are not: a changed configuration applies to content that was admitted before.

#![cfg_attr(
    test,
    expect(
        clippy::too_many_lines,
        reason = "a test is a script or a table, which reads best in one piece"
    )
)]

mod denial;
mod facts;
mod history;
mod pattern;
mod reasons;
mod rules;
mod signature;

pub use denial::{Denial, Mode, Rule};
pub use facts::{BlobFacts, ManifestFacts, Verdict};
pub use history::{Choice, Sighting, TagHistory, observe};
pub use pattern::ImagePattern;
pub use rules::{Gate, Settings, TagPin, TagRule};
pub use signature::{Fingerprint, KeyError, PublicKey, is_signature_of};
