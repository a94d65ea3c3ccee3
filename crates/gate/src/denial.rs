//! What a gate denies, and by which rule.

use oci::name::RepositoryName;

/// What becomes of a request that a rule denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is denied.
    #[default]
    Enforce,
    /// It is answered, and reported.
    Report,
}

impl Mode {
    /// The word for metrics and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Report => "report",
        }
    }
}

/// A rule of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// `allow`: no pattern matches.
    Allow,
    /// `deny`: a pattern matches.
    Deny,
    /// `min_age`: a tag moved too short a time ago.
    MinAge,
    /// `pins`: the tag is bound to another digest.
    Pins,
    /// `platforms`: the image is for another one.
    Platforms,
    /// `signed_by`: no signature of these keys.
    SignedBy,
}

impl Rule {
    /// The key of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::MinAge => "min_age",
            Self::Pins => "pins",
            Self::Platforms => "platforms",
            Self::SignedBy => "signed_by",
        }
    }
}

/// A denial: the rule, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("denied by the gate rule {}: {reason}", rule.as_str())]
pub struct Denial {
    /// The rule that denies it.
    pub rule: Rule,
    /// The repository.
    pub name: RepositoryName,
    /// The tag or digest; `None`: the repository as a whole.
    pub reference: Option<String>,
    /// Why, and what would allow it.
    pub reason: String,
}

impl Denial {
    /// The `detail` of the error's JSON.
    pub fn detail(&self) -> serde_json::Value {
        serde_json::json!({
            "rule": self.rule.as_str(),
            "registry": self.name.registry.as_str(),
            "repository": self.name.repository.as_str(),
            "reference": self.reference,
        })
    }
}
