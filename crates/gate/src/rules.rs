//! The rules of one registry, and their verdicts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::denial::{Denial, Mode, Rule};
use super::facts::{ManifestFacts, Verdict};
use super::pattern::ImagePattern;
use super::signature::PublicKey;
use oci::content::ContentKind;
use oci::digest::Digest;
use oci::name::{Repository, RepositoryName, Tag};
use oci::platform::Platform;

/// The rules as configured.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What becomes of a request that a rule denies.
    pub mode: Mode,
    /// `None`: everything is allowed.
    pub allow: Option<Vec<ImagePattern>>,
    /// What is denied in spite of `allow`.
    pub deny: Vec<ImagePattern>,
    /// How long a tag must have stayed at its target.
    pub min_age: Option<Duration>,
    /// The tags that are bound to a digest.
    pub pins: Vec<TagPin>,
    /// The platforms of images; `None`: all.
    pub platforms: Option<Vec<Platform>>,
    /// The keys of which one must have signed an image; empty: none needs to.
    pub signed_by: Vec<PublicKey>,
}

/// A tag that is bound to a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagPin {
    /// The repository.
    pub repository: Repository,
    /// Its tag.
    pub tag: Tag,
    /// What the tag answers.
    pub digest: Digest,
}

/// The gate of a registry.
#[derive(Clone, Debug)]
pub struct Gate {
    pub(super) settings: Settings,
    pins: BTreeMap<Repository, BTreeMap<Tag, Digest>>,
}

/// What the rules say of a tag, before it is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRule {
    /// It is bound to this digest.
    Pinned(Digest),
    /// Its target may be served.
    Allowed,
    /// It may only lead to what belongs to this digest: a signature, or the list of its referrers.
    CompanionOf(Digest),
}

impl Gate {
    /// The gate with these rules.
    pub fn new(settings: Settings) -> Self {
        let mut pins: BTreeMap<Repository, BTreeMap<Tag, Digest>> = BTreeMap::new();
        for TagPin {
            repository,
            tag,
            digest,
        } in &settings.pins
        {
            let tags = pins.entry(repository.clone()).or_default();
            tags.insert(tag.clone(), *digest);
        }
        Self { settings, pins }
    }

    /// What becomes of a request that a rule denies.
    pub fn mode(&self) -> Mode {
        self.settings.mode
    }

    /// How long a tag must have stayed at its target.
    pub fn min_age(&self) -> Option<Duration> {
        self.settings.min_age
    }

    /// The keys of which one must have signed an image.
    pub fn keys(&self) -> &[PublicKey] {
        &self.settings.signed_by
    }

    /// The rules that are configured.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        let settings = &self.settings;
        let rules = [
            (settings.allow.is_some(), Rule::Allow),
            (!settings.deny.is_empty(), Rule::Deny),
            (settings.min_age.is_some(), Rule::MinAge),
            (!settings.pins.is_empty(), Rule::Pins),
            (settings.platforms.is_some(), Rule::Platforms),
            (!settings.signed_by.is_empty(), Rule::SignedBy),
        ];
        let set = rules.into_iter().filter(|(is_set, _)| *is_set);
        set.map(|(_, rule)| rule)
    }

    /// Whether anything of a repository is served.
    ///
    /// # Errors
    /// The [`Denial`] of the whole repository.
    pub fn repository(&self, name: &RepositoryName) -> Result<(), Denial> {
        let repository = &name.repository;
        let mut deny = self.settings.deny.iter();
        if let Some(pattern) = deny.find(|pattern| pattern.matches_all_of(repository)) {
            let reason = format!("{name} matches {:?}", pattern.to_string());
            return Err(denial(Rule::Deny, name, None, reason));
        }
        if self.allows_some(repository) || self.pins.contains_key(repository) {
            return Ok(());
        }
        let reason = format!("no pattern matches {name}");
        Err(denial(Rule::Allow, name, None, reason))
    }

    /// What the rules say of a tag of a repository that is served.
    ///
    /// # Errors
    /// The tag's [`Denial`], whatever it leads to.
    pub fn tag(&self, name: &RepositoryName, tag: &Tag) -> Result<TagRule, Denial> {
        let repository = &name.repository;
        if let Some(pattern) = self.denied_tag(repository, tag) {
            let reason = format!("{name}:{tag} matches {:?}", pattern.to_string());
            return Err(denial(Rule::Deny, name, Some(tag.to_string()), reason));
        }
        if let Some(digest) = self.pin(repository, tag) {
            return Ok(TagRule::Pinned(digest));
        }
        if self.allows_tag(repository, tag) {
            return Ok(TagRule::Allowed);
        }
        match tag.companion_of() {
            Some(subject) if self.allows_some(repository) || self.pins.contains_key(repository) => {
                Ok(TagRule::CompanionOf(subject))
            }
            _ => {
                let reason = format!("no pattern matches {name}:{tag}");
                Err(denial(Rule::Allow, name, Some(tag.to_string()), reason))
            }
        }
    }

    /// Whether a list of tags shows this one: unless a pattern denies it, or none allows it.
    pub fn lists(&self, name: &RepositoryName, tag: &Tag) -> bool {
        let rule = self.tag(name, tag);
        matches!(rule, Ok(TagRule::Pinned(_) | TagRule::Allowed))
    }

    /// Whether content of a repository is judged, beyond its names.
    pub fn judges_content(&self, repository: &Repository) -> bool {
        self.content_rule(repository).is_some()
    }

    /// The first rule that judges the content of a repository.
    pub(super) fn content_rule(&self, repository: &Repository) -> Option<Rule> {
        let Settings {
            platforms,
            signed_by,
            ..
        } = &self.settings;
        let platforms = platforms.as_ref().map(|_| Rule::Platforms);
        let signed = (!signed_by.is_empty()).then_some(Rule::SignedBy);
        self.tag_rule(repository).or(signed).or(platforms)
    }

    /// The rule by which content of a repository is served only where a tag led to it.
    fn tag_rule(&self, repository: &Repository) -> Option<Rule> {
        let Settings {
            allow,
            deny,
            min_age,
            ..
        } = &self.settings;
        let all_of = |patterns: &[ImagePattern]| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| pattern.matches_all_of(repository))
        };
        if deny.iter().any(|pattern| pattern.matches(repository)) {
            return Some(Rule::Deny);
        }
        if allow.as_ref().is_some_and(|patterns| !all_of(patterns)) {
            return Some(Rule::Allow);
        }
        if min_age.is_some() {
            return Some(Rule::MinAge);
        }
        self.pins.contains_key(repository).then_some(Rule::Pins)
    }

    /// The verdict on a manifest by itself: a tag led to it, or it was requested by its digest.
    pub fn on_root(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        facts: &ManifestFacts,
    ) -> Verdict {
        let repository = &name.repository;
        if self.is_pinned(repository, digest) {
            return Verdict::Served;
        }
        if let Some(rule) = self.tag_rule(repository) {
            let is_served = |tag: &Tag| self.tag(name, tag) == Ok(TagRule::Allowed);
            if !facts.tags.iter().any(is_served) {
                return Verdict::Denied(rule);
            }
        }
        match self.on_platform(facts) {
            Verdict::Served
                if facts.content == Some(ContentKind::Unknown) && self.has_platforms() =>
            {
                Verdict::Denied(Rule::Platforms)
            }
            Verdict::Served => self.on_signature(facts),
            verdict => verdict,
        }
    }

    /// The verdict on a manifest that an index names which is served; `now` is in seconds since 1970.
    pub fn on_child(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        facts: &ManifestFacts,
        now: u64,
    ) -> Verdict {
        if self.is_pinned(&name.repository, digest) {
            return Verdict::Served;
        }
        // A tag moved to it: the index of another tag does not make it older.
        let young = self.settings.min_age.zip(facts.moved_at);
        let is_young = young.is_some_and(|(min_age, moved_at)| {
            let age = Duration::from_secs(now.saturating_sub(moved_at));
            facts.tags.is_empty() && age < min_age
        });
        if is_young {
            return Verdict::Denied(Rule::MinAge);
        }
        self.on_platform(facts)
    }

    fn has_platforms(&self) -> bool {
        self.settings.platforms.is_some()
    }

    fn on_platform(&self, facts: &ManifestFacts) -> Verdict {
        match (&self.settings.platforms, &facts.content) {
            (None, _) => Verdict::Served,
            (Some(_), None) => Verdict::Examine,
            (Some(served), Some(ContentKind::Image(platform))) => {
                if served.iter().any(|served| served.accepts(platform)) {
                    Verdict::Served
                } else {
                    Verdict::Denied(Rule::Platforms)
                }
            }
            // Neither an index nor an artifact runs anywhere; attestations in an index name no platform.
            (Some(_), Some(ContentKind::Index | ContentKind::Artifact | ContentKind::Unknown)) => {
                Verdict::Served
            }
        }
    }

    /// Whether a manifest needs a signature that has not been verified yet.
    pub fn lacks_signature(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        facts: &ManifestFacts,
    ) -> bool {
        let is_pinned = self.is_pinned(&name.repository, digest);
        !is_pinned && self.on_signature(facts) == Verdict::Verify
    }

    fn on_signature(&self, facts: &ManifestFacts) -> Verdict {
        let keys = &self.settings.signed_by;
        let signed = |key: &PublicKey| facts.signed_by.contains(&key.fingerprint());
        if keys.is_empty() || keys.iter().any(signed) {
            Verdict::Served
        } else {
            Verdict::Verify
        }
    }

    fn is_pinned(&self, repository: &Repository, digest: &Digest) -> bool {
        let tags = self.pins.get(repository).into_iter().flatten();
        let mut of_digest = tags.filter(|(_, pinned)| *pinned == digest);
        of_digest.any(|(tag, _)| self.denied_tag(repository, tag).is_none())
    }

    fn pin(&self, repository: &Repository, tag: &Tag) -> Option<Digest> {
        self.pins.get(repository)?.get(tag).copied()
    }

    fn denied_tag(&self, repository: &Repository, tag: &Tag) -> Option<&ImagePattern> {
        let mut deny = self.settings.deny.iter();
        deny.find(|pattern| pattern.matches_tag(repository, tag))
    }

    fn allows_tag(&self, repository: &Repository, tag: &Tag) -> bool {
        let allow = self.settings.allow.as_ref();
        allow.is_none_or(|patterns| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| pattern.matches_tag(repository, tag))
        })
    }

    fn allows_some(&self, repository: &Repository) -> bool {
        let allow = self.settings.allow.as_ref();
        allow.is_none_or(|patterns| patterns.iter().any(|pattern| pattern.matches(repository)))
    }
}

fn denial(rule: Rule, name: &RepositoryName, reference: Option<String>, reason: String) -> Denial {
    Denial {
        rule,
        name: name.clone(),
        reference,
        reason,
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
