//! Patterns of images: repositories of one registry, or some of their tags.

use std::fmt;

use oci::glob::{Pattern, TagPattern};
use oci::name::{Repository, Tag};

/// A pattern of repositories, or of tags of theirs: `library/**`, `library/alpine:3.*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImagePattern {
    repositories: Pattern,
    /// `None`: every tag, and every digest.
    tags: Option<TagPattern>,
}

impl ImagePattern {
    /// # Errors
    /// What is wrong and what to write instead, as the predicate of a sentence whose subject is the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("names a digest; write a repository or repository:tag, or pins".to_owned());
        }
        let (repositories, tags) = match text.split_once(':') {
            Some((repositories, tags)) => (repositories, Some(TagPattern::parse(tags)?)),
            None => (text, None),
        };
        Ok(Self {
            repositories: Pattern::parse(repositories)?,
            tags,
        })
    }

    /// The part that repositories match.
    pub fn repositories(&self) -> &str {
        self.repositories.as_str()
    }

    /// Whether it matches some tags of a repository only.
    pub fn has_tags(&self) -> bool {
        self.tags.is_some()
    }

    /// Whether it matches the repository, by all of its tags or by some.
    pub fn matches(&self, repository: &Repository) -> bool {
        self.repositories.matches(repository.as_str())
    }

    /// Whether it matches the whole repository.
    pub fn matches_all_of(&self, repository: &Repository) -> bool {
        self.tags.is_none() && self.matches(repository)
    }

    /// Whether it matches a tag.
    pub fn matches_tag(&self, repository: &Repository, tag: &Tag) -> bool {
        let tags = self.tags.as_ref();
        tags.is_none_or(|tags| tags.matches(tag.as_str())) && self.matches(repository)
    }
}

impl fmt::Display for ImagePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repositories.fmt(f)?;
        match &self.tags {
            Some(tags) => write!(f, ":{tags}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_images() {
        for (pattern, repository, tag, is_matched) in [
            ("library/**", "library/app", "1", true),
            ("library/**", "team/app", "1", false),
            ("library/app:1.*", "library/app", "1.2", true),
            ("library/app:1.*", "library/app", "2.1", false),
            ("library/app:1.*", "library/apps", "1.2", false),
            ("**:latest", "a/b/c", "latest", true),
        ] {
            let parsed = ImagePattern::parse(pattern).expect("a pattern");
            let (repository, tag) = (repository.parse().expect("a name"), tag.parse());
            let matched = parsed.matches_tag(&repository, &tag.expect("a tag"));
            assert_eq!(matched, is_matched, "{pattern} {repository}");
            assert_eq!(parsed.to_string(), pattern);
        }
        for bad in [
            "",
            ":",
            "a:",
            ":1",
            "a:b:c",
            "a@sha256:00",
            "A",
            "a//b",
            "a:b/c",
        ] {
            assert!(ImagePattern::parse(bad).is_err(), "{bad}");
        }
    }
}
