//! The denials of content: why, and what would allow it.

use std::time::Duration;

use super::denial::{Denial, Rule};
use super::facts::ManifestFacts;
use super::rules::Gate;
use oci::content::ContentKind;
use oci::digest::Digest;
use oci::name::{RepositoryName, Tag};

impl Gate {
    /// The denial of a manifest by a rule.
    pub fn manifest_denial(
        &self,
        rule: Rule,
        name: &RepositoryName,
        digest: &Digest,
        facts: &ManifestFacts,
    ) -> Denial {
        let reason = match rule {
            Rule::Allow | Rule::Deny | Rule::Pins => format!(
                "no allowed tag of {name} has led to {digest} here; pull it by its tag, or add it to the pins"
            ),
            Rule::MinAge => format!(
                "no tag of {name} that is old enough ({}) has led to {digest} here; pull it by its tag, or add it to \
                 the pins",
                self.age()
            ),
            Rule::Platforms => format!("{name}@{digest} is {}", self.platform_of(facts)),
            Rule::SignedBy => {
                format!("{name}@{digest} has no valid signature of a key of signed_by")
            }
        };
        denial(rule, name, digest.to_string(), reason)
    }

    /// The denial of a blob that no served manifest names.
    pub fn blob_denial(&self, name: &RepositoryName, digest: &Digest) -> Denial {
        let rule = self.content_rule(&name.repository).unwrap_or(Rule::Allow);
        let reason = format!(
            "no manifest of {name} that was served here names the blob {digest}; pull the manifest first"
        );
        denial(rule, name, digest.to_string(), reason)
    }

    /// The denial of a tag whose target is too young, without an older one.
    pub fn young_tag_denial(&self, name: &RepositoryName, tag: &Tag, target: &Digest) -> Denial {
        let age = self.age();
        let reason = format!(
            "{name}:{tag} leads to {target} for less than {age}, and no older target is known"
        );
        denial(Rule::MinAge, name, tag.to_string(), reason)
    }

    /// The denial of a tag whose target is too young, and whose older one is gone.
    pub fn gone_previous_denial(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        previous: &Digest,
    ) -> Denial {
        let age = self.age();
        let reason = format!(
            "{name}:{tag} moved less than {age} ago, and the registry no longer has its target of before, {previous}"
        );
        denial(Rule::MinAge, name, tag.to_string(), reason)
    }

    /// The denial of a tag that leads to something else than what belongs to its digest.
    pub fn companion_denial(&self, name: &RepositoryName, tag: &Tag) -> Denial {
        let reason = format!(
            "no pattern matches {name}:{tag}, and it does not lead to a signature or a list of referrers of a \
             manifest that was served here"
        );
        denial(Rule::Allow, name, tag.to_string(), reason)
    }

    /// A tag that a gate in report mode would answer with another digest.
    pub fn other_target(
        &self,
        rule: Rule,
        name: &RepositoryName,
        tag: &Tag,
        other: &Digest,
    ) -> Denial {
        let reason = format!("{name}:{tag} would answer {other}");
        denial(rule, name, tag.to_string(), reason)
    }

    /// Tells a client that a tag answers its target of before.
    pub fn held_back(&self, name: &RepositoryName, tag: &Tag, target: &Digest) -> String {
        let age = self.age();
        format!("{name}:{tag} moved to {target} less than {age} ago; this is its target of before")
    }

    fn age(&self) -> String {
        self.settings.min_age.map(span).unwrap_or_default()
    }

    fn platform_of(&self, facts: &ManifestFacts) -> String {
        let served: Vec<String> = self
            .settings
            .platforms
            .iter()
            .flatten()
            .map(ToString::to_string)
            .collect();
        let served = served.join(", ");
        match &facts.content {
            Some(ContentKind::Image(platform)) => format!("for {platform}; served are {served}"),
            _ => format!("an image without a platform; served are {served}"),
        }
    }
}

fn denial(rule: Rule, name: &RepositoryName, reference: String, reason: String) -> Denial {
    Denial {
        rule,
        name: name.clone(),
        reference: Some(reference),
        reason,
    }
}

/// A duration in the largest unit that has no remainder.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    let unit = units
        .into_iter()
        .find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    unit.map_or_else(
        || format!("{duration:?}"),
        |(unit, name)| format!("{}{name}", seconds / unit),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (seconds, text) in [(259_200, "3d"), (7200, "2h"), (90, "90s"), (5400, "90m")] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
