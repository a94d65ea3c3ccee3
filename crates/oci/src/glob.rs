//! Patterns of repository names, as `owns` and `rules` write them, and of tags.

use std::fmt;

/// The longest pattern, in bytes, as for repository names.
const MAX_LENGTH: usize = 255;

/// A pattern of repository names: `*` stands for any run of characters within one component, `**`
/// for any number of whole components, none included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pattern {
    text: String,
    components: Vec<Piece<Component>>,
}

/// The part between two slashes.
type Component = Vec<Piece<u8>>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece<T> {
    /// `*` among characters, `**` among components.
    AnyRun,
    One(T),
}

impl Pattern {
    /// # Errors
    /// What is wrong and what to write instead, as the predicate of a sentence whose subject is the text:
    /// `"a//b" is not …`.
    pub fn parse(text: &str) -> Result<Self, String> {
        const LETTERS: &str = "write a-z, 0-9, `.`, `_`, `-` and `*` between slashes";
        if text.len() > MAX_LENGTH {
            return Err(format!(
                "is longer than any name; write at most {MAX_LENGTH} bytes"
            ));
        }
        let mut components = Vec::new();
        for (index, component) in text.split('/').enumerate() {
            // A port, if the pattern begins with a registry's name.
            let known = |b: u8| {
                matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' | b'*')
                    || (b == b':' && index == 0)
            };
            if component == "**" {
                components.push(Piece::AnyRun);
            } else if component.contains("**") {
                return Err("mixes ** with letters; write ** alone between slashes".to_owned());
            } else if component.is_empty() || !component.bytes().all(known) {
                return Err(format!("is not a pattern of names; {LETTERS}"));
            } else {
                components.push(Piece::One(parse_component(component)));
            }
        }
        Ok(Self {
            text: text.to_owned(),
            components,
        })
    }

    /// Whether the pattern matches `name`. Names are canonical and, in rules, begin with the registry.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<&str> = name.split('/').collect();
        fits(&self.components, &name, |component, word| {
            fits(component, word.as_bytes(), |a, b| a == b)
        })
    }

    /// Whether some name matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        meet(&self.components, &other.components, |a, b| {
            meet(a, b, |a, b| a == b)
        })
    }

    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A pattern of tags: `*` stands for any run of characters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TagPattern {
    text: String,
    pieces: Component,
}

impl TagPattern {
    /// # Errors
    /// As [`Pattern::parse`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let known =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'*');
        if text.is_empty() || text.len() > MAX_LENGTH || !text.bytes().all(known) {
            return Err(
                "is not a pattern of tags; write letters, digits, `.`, `_`, `-` and `*`".to_owned(),
            );
        }
        Ok(Self {
            text: text.to_owned(),
            pieces: parse_component(text),
        })
    }

    /// Whether the pattern matches a tag.
    #[must_use]
    pub fn matches(&self, tag: &str) -> bool {
        fits(&self.pieces, tag.as_bytes(), |a, b| a == b)
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse_component(text: &str) -> Component {
    let piece = |byte| match byte {
        b'*' => Piece::AnyRun,
        letter => Piece::One(letter),
    };
    text.bytes().map(piece).collect()
}

/// Whether the whole subject matches the pattern. Only the last run is backtracked: it can take whatever an
/// earlier run could.
fn fits<P, S>(pattern: &[Piece<P>], subject: &[S], one: impl Fn(&P, &S) -> bool) -> bool {
    let (mut at, mut taken) = (0, 0);
    let mut last_run = None;
    while let Some(item) = subject.get(taken) {
        match pattern.get(at) {
            Some(Piece::AnyRun) => {
                at += 1;
                last_run = Some((at, taken));
            }
            Some(Piece::One(piece)) if one(piece, item) => {
                at += 1;
                taken += 1;
            }
            _ => {
                let Some((after, from)) = last_run else {
                    return false;
                };
                last_run = Some((after, from + 1));
                (at, taken) = (after, from + 1);
            }
        }
    }
    pattern[at..].iter().all(|p| matches!(p, Piece::AnyRun))
}

/// Whether some subject matches both patterns; `one` tells whether two single pieces overlap.
fn meet<T>(a: &[Piece<T>], b: &[Piece<T>], one: impl Fn(&T, &T) -> bool) -> bool {
    use Piece::{AnyRun, One};
    // row[j] tells whether a[i..] and b[j..] meet, `below` the same for a[i + 1..].
    let mut below = vec![false; b.len() + 1];
    for i in (0..=a.len()).rev() {
        let mut row = vec![false; b.len() + 1];
        for j in (0..=b.len()).rev() {
            row[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (None, Some(AnyRun)) => row[j + 1],
                (Some(AnyRun), None) => below[j],
                (None, Some(One(_))) | (Some(One(_)), None) => false,
                // The run ends, or consumes the next piece of the other pattern.
                (Some(AnyRun), Some(_)) | (Some(_), Some(AnyRun)) => below[j] || row[j + 1],
                (Some(One(x)), Some(One(y))) => below[j + 1] && one(x, y),
            };
        }
        below = row;
    }
    below[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grammar() {
        for (text, good) in [
            ("team/**", true),
            ("intern-*", true),
            ("**", true),
            ("a/**/b", true),
            ("**/b", true),
            ("registry.local:5000/**", true),
            ("a/*/b", true),
            ("", false),
            ("/a", false),
            ("a/", false),
            ("a//b", false),
            ("a**", false),
            ("a/***", false),
            ("Team/**", false),
            ("team/app:latest", false),
            ("team/app@sha256", false),
            ("a b", false),
        ] {
            assert_eq!(Pattern::parse(text).is_ok(), good, "{text}");
        }
        assert!(Pattern::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn matching_and_overlap() {
        for (pattern, name, expected) in [
            ("team/**", "team", true),
            ("team/**", "team/a", true),
            ("team/**", "team/a/b", true),
            ("team/**", "teams/a", false),
            ("intern-*", "intern-x", true),
            ("intern-*", "intern-x/y", false),
            ("a/*/c", "a/b/c", true),
            ("a/*/c", "a/c", false),
            ("a/**/c", "a/c", true),
            ("a/**/c", "a/x/y/c", true),
            ("a/**/c", "a/x/y/d", false),
            ("**", "anything/at/all", true),
            ("*a*b", "xaybab", true),
            ("*a*b", "xayba", false),
        ] {
            let (pattern, name) = (Pattern::parse(pattern).unwrap(), name);
            assert_eq!(pattern.matches(name), expected, "{pattern} {name}");
        }
        for (a, b, expected) in [
            ("team/**", "team/a", true),
            ("team/**", "intern-*", false),
            ("a*", "*b", true),
            ("a*b", "b*a", false),
            ("a/**", "**/b", true),
            ("a/*", "a/b/c", false),
            ("a/**/c", "a/*", true),
            ("*-x", "y-*", true),
        ] {
            let (a, b) = (Pattern::parse(a).unwrap(), Pattern::parse(b).unwrap());
            assert_eq!(a.overlaps(&b), expected, "{a} {b}");
            assert_eq!(b.overlaps(&a), expected, "{b} {a}");
        }
    }

    #[test]
    fn patterns_of_tags() {
        for (pattern, tag, expected) in [
            ("3.*", "3.20", true),
            ("3.*", "3", false),
            ("*", "Latest_1", true),
            ("*-rc*", "2.0-RC1", false),
            ("*-rc*", "2.0-rc1", true),
            ("latest", "latest", true),
            ("latest", "latest2", false),
        ] {
            let pattern = TagPattern::parse(pattern).unwrap();
            assert_eq!(pattern.matches(tag), expected, "{pattern} {tag}");
        }
        for bad in ["", "a/b", "a:b", "a b", "a@b", "é"] {
            assert!(TagPattern::parse(bad).is_err(), "{bad}");
        }
    }

    /// Every name over `a` and `b` with up to 4 components of up to 3 letters each. Patterns of
    /// at most 2 components of 2 pieces meet, if at all, in one of these.
    fn small_names() -> Vec<String> {
        let mut words = vec![String::new()];
        for length in 0..3 {
            let longest: Vec<String> = words
                .iter()
                .filter(|w| w.len() == length)
                .cloned()
                .collect();
            words.extend(
                longest
                    .iter()
                    .flat_map(|w| [format!("{w}a"), format!("{w}b")]),
            );
        }
        words.remove(0);
        let mut names: Vec<String> = words.clone();
        let mut longest = words.clone();
        for _ in 1..4 {
            longest = longest
                .iter()
                .flat_map(|name| words.iter().map(move |word| format!("{name}/{word}")))
                .collect();
            names.extend_from_slice(&longest);
        }
        names
    }

    /// The brute-force matcher: tries every length of every run.
    fn brute<P, S>(pattern: &[Piece<P>], subject: &[S], one: &dyn Fn(&P, &S) -> bool) -> bool {
        match pattern.split_first() {
            None => subject.is_empty(),
            Some((Piece::AnyRun, rest)) => {
                (0..=subject.len()).any(|run| brute(rest, &subject[run..], one))
            }
            Some((Piece::One(piece), rest)) => subject
                .split_first()
                .is_some_and(|(first, others)| one(piece, first) && brute(rest, others, one)),
        }
    }

    fn brute_matches(pattern: &Pattern, name: &str) -> bool {
        let words: Vec<&str> = name.split('/').collect();
        brute(&pattern.components, &words, &|component, word| {
            brute(component, word.as_bytes(), &|a, b| a == b)
        })
    }

    proptest! {
        #[test]
        fn matching_is_as_brute_force_says(
            text in "(\\*\\*|(\\*|a|b){1,3})(/(\\*\\*|(\\*|a|b){1,3})){0,4}",
            name in "[ab]{1,4}(/[ab]{1,4}){0,4}",
        ) {
            // `(\*|a|b){1,3}` may hold a `**` that is refused.
            if let Ok(pattern) = Pattern::parse(&text) {
                prop_assert_eq!(pattern.matches(&name), brute_matches(&pattern, &name));
            }
        }

        #[test]
        fn patterns_that_match_one_name_overlap(
            a in "(\\*\\*|[ab*]|[ab]\\*)(/(\\*\\*|[ab*]|\\*[ab])){0,3}",
            b in "(\\*\\*|[ab*]|[ab]\\*)(/(\\*\\*|[ab*]|\\*[ab])){0,3}",
            name in "[ab]{1,2}(/[ab]{1,2}){0,3}",
        ) {
            let (a, b) = (Pattern::parse(&a).unwrap(), Pattern::parse(&b).unwrap());
            if a.matches(&name) && b.matches(&name) {
                prop_assert!(a.overlaps(&b), "{} {} {}", a, b, name);
            }
        }
    }

    #[test]
    fn overlap_matches_brute_force() {
        let names = small_names();
        let words = ["**", "*", "a", "b", "a*", "*b", "ab"];
        let mut texts: Vec<String> = words.iter().map(ToString::to_string).collect();
        for first in words {
            texts.extend(words.iter().map(|second| format!("{first}/{second}")));
        }
        let patterns: Vec<Pattern> = texts.iter().map(|t| Pattern::parse(t).unwrap()).collect();
        // Each pattern's set of names as bits, so that every pair is one intersection.
        let sets: Vec<Vec<bool>> = patterns
            .iter()
            .map(|pattern| {
                names
                    .iter()
                    .map(|name| brute_matches(pattern, name))
                    .collect()
            })
            .collect();
        for (a, set_a) in patterns.iter().zip(&sets) {
            for (b, set_b) in patterns.iter().zip(&sets) {
                let meet = set_a.iter().zip(set_b).any(|(x, y)| *x && *y);
                assert_eq!(a.overlaps(b), meet, "{a} {b}");
            }
        }
    }
}
