//! The parameters of an API request: each is known, occurs once and is well-formed. Pure.

use super::error::{Problem, ProblemCode};
use oci::query::Query;

/// The number of items of a page by default, and the most that a request may ask for.
const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 500;
/// The longest value, in characters.
const MAX_VALUE: usize = 1024;

/// The parameters of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters(Query);

fn invalid(detail: String) -> Problem {
    Problem::new(ProblemCode::InvalidParameter, detail)
}

impl Parameters {
    /// Parses a query, in which only these keys may occur.
    ///
    /// # Errors
    /// 400 for a malformed, repeated, unknown or long parameter.
    pub fn parse(query: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let query = Query::parse(query.unwrap_or_default());
        let query = query.map_err(|error| invalid(error.to_string()))?;
        query
            .check_keys(known)
            .map_err(|error| invalid(error.to_string()))?;
        for key in known {
            let value = query.value(key).unwrap_or_default();
            if value.chars().count() > MAX_VALUE {
                return Err(invalid(format!(
                    "{key} is longer than {MAX_VALUE} characters"
                )));
            }
        }
        Ok(Self(query))
    }

    /// A value; `None` if it is absent or empty.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.0.value(key).filter(|value| !value.is_empty())
    }

    /// A value that must be there.
    ///
    /// # Errors
    /// 400 without it.
    pub fn required(&self, key: &str) -> Result<&str, Problem> {
        let missing = || invalid(format!("the parameter {key} is missing"));
        self.text(key).ok_or_else(missing)
    }

    /// The index of a value among these words; that of the first without one.
    ///
    /// # Errors
    /// 400 for another word.
    pub fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Result<T, Problem> {
        let Some(text) = self.text(key) else {
            return Ok(words[0].1);
        };
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            invalid(format!("{key}={text}: write {}", words.join(", ")))
        })
    }

    /// The number of items of the page.
    ///
    /// # Errors
    /// 400 for anything but a number from 1 to 500.
    pub fn limit(&self) -> Result<usize, Problem> {
        let Some(text) = self.text("limit") else {
            return Ok(DEFAULT_LIMIT);
        };
        let limit = text
            .parse()
            .ok()
            .filter(|limit| (1..=MAX_LIMIT).contains(limit));
        let wrong = || {
            invalid(format!(
                "limit={text}: write a number from 1 to {MAX_LIMIT}"
            ))
        };
        limit.ok_or_else(wrong)
    }

    /// The number after which the page begins.
    ///
    /// # Errors
    /// 400 for anything but the `next` of a page before.
    pub fn after_number(&self) -> Result<Option<u64>, Problem> {
        let parsed = self.text("after").map(str::parse).transpose();
        parsed.map_err(|_| invalid("after is not the `next` of a page".to_owned()))
    }

    /// The words of `q`.
    pub fn words(&self) -> Words {
        Words::of(self.text("q").unwrap_or_default())
    }

    /// The filter of statuses: `404` or `4xx`.
    ///
    /// # Errors
    /// 400 for another form.
    pub fn status(&self) -> Result<StatusFilter, Problem> {
        let Some(text) = self.text("status") else {
            return Ok(StatusFilter::Any);
        };
        let is_status = |number: &u16| (100..=599).contains(number);
        let class = text.strip_suffix("xx").and_then(|class| class.parse().ok());
        match (text.parse().ok().filter(is_status), class) {
            (Some(status), _) => Ok(StatusFilter::One(status)),
            (None, Some(class @ 1..=5)) => Ok(StatusFilter::Class(class)),
            _ => Err(invalid(format!("status={text}: write 404 or 4xx"))),
        }
    }
}

/// Words that must all occur in a text, in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(Vec<String>);

impl Words {
    pub fn of(text: &str) -> Self {
        Self(text.split_whitespace().map(str::to_lowercase).collect())
    }

    /// Whether all of them occur in one or another of these texts.
    pub fn match_any(&self, texts: &[&str]) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let texts: Vec<String> = texts.iter().map(|text| text.to_lowercase()).collect();
        let occurs = |word: &String| texts.iter().any(|text| text.contains(word));
        self.0.iter().all(occurs)
    }
}

/// Which statuses are listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusFilter {
    Any,
    One(u16),
    /// The first digit.
    Class(u16),
}

impl StatusFilter {
    pub fn includes(self, status: u16) -> bool {
        match self {
            Self::Any => true,
            Self::One(one) => status == one,
            Self::Class(class) => status / 100 == class,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(query: &str) -> Parameters {
        let keys = ["q", "limit", "after", "status", "sort"];
        Parameters::parse(Some(query), &keys).unwrap_or_else(|problem| panic!("{problem:?}"))
    }

    #[test]
    fn parameters_are_known_and_unique() {
        for (query, accepted) in [
            ("", true),
            ("q=a+b&limit=1", true),
            ("q=%C3%A4", true),
            ("q=a&q=b", false),
            ("x=1", false),
            ("q=%zz", false),
            (&*format!("q={}", "a".repeat(1025)), false),
        ] {
            let parsed = Parameters::parse(Some(query), &["q", "limit"]);
            assert_eq!(parsed.is_ok(), accepted, "{query}");
        }
    }

    #[test]
    fn limits_and_statuses() {
        for (text, limit) in [
            ("", Some(50)),
            ("limit=1", Some(1)),
            ("limit=500", Some(500)),
            ("limit=501", None),
            ("limit=0", None),
            ("limit=-1", None),
            ("limit=x", None),
        ] {
            assert_eq!(parsed(text).limit().ok(), limit, "{text}");
        }
        for (text, filter) in [
            ("", Some(StatusFilter::Any)),
            ("status=404", Some(StatusFilter::One(404))),
            ("status=5xx", Some(StatusFilter::Class(5))),
            ("status=6xx", None),
            ("status=99", None),
            ("status=abc", None),
        ] {
            assert_eq!(parsed(text).status().ok(), filter, "{text}");
        }
        assert!(StatusFilter::Class(4).includes(404) && !StatusFilter::Class(4).includes(500));
        let sorts = [("name", 1), ("size", 2)];
        assert_eq!(parsed("sort=size").choice("sort", &sorts), Ok(2));
        assert_eq!(parsed("").choice("sort", &sorts), Ok(1));
        assert!(parsed("sort=x").choice("sort", &sorts).is_err());
    }

    #[test]
    fn words_occur_in_any_case() {
        let texts = ["docker.io/library/alpine", "Jürgen"];
        for (q, matches) in [
            ("", true),
            ("LIBRARY alp", true),
            ("jÜrgen", true),
            ("library beta", false),
        ] {
            assert_eq!(Words::of(q).match_any(&texts), matches, "{q}");
        }
    }
}
