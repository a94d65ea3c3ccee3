//! Scopes of tokens: `repository:<name>:pull,push` and `registry:catalog:*`
//! (distribution's docs/content/spec/auth/scope.md).

use std::fmt;

use super::{Action, Actions};

/// The longest name that is read, in bytes.
const MAX_NAME: usize = 512;
/// The longest scopes of a token, in bytes, since the token travels in a header.
const MAX_TOTAL: usize = 6 << 10;
/// How many scopes are read, which is more than fit in a token.
const MAX_SCOPES: usize = 256;
/// The longest rest of a scope besides its name, in bytes.
const AROUND: usize = "repository::pull,push,delete ".len();

/// The upper bound of what a token allows. Names are as clients write them in paths: each request resolves their
/// registry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    /// In the requested order; names are unique, actions not empty.
    repositories: Vec<(String, Actions)>,
    catalog: bool,
}

impl Scopes {
    /// Parses values of `scope`, each of which may hold several scopes, separated by spaces. Malformed scopes, and those
    /// beyond 6 KiB or the 256th, are not granted, but are no error.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut scopes = Self::default();
        for scope in values
            .into_iter()
            .flat_map(|value| value.split([' ', '\t']))
            .take(MAX_SCOPES)
        {
            scopes.add(scope);
        }
        scopes
    }

    /// The scope of one repository; empty where the name is invalid.
    pub fn repository(name: &str, actions: Actions) -> Self {
        let mut scopes = Self::default();
        scopes.allow(name, actions);
        scopes
    }

    /// The actions on the repository that a client calls `name`.
    pub fn actions(&self, name: &str) -> Actions {
        let named = self.repositories.iter().find(|(known, _)| known == name);
        named.map_or(Actions::NONE, |(_, actions)| *actions)
    }

    /// The repositories with their actions, in the requested order.
    pub fn repositories(&self) -> impl Iterator<Item = (&str, Actions)> {
        self.repositories
            .iter()
            .map(|(name, actions)| (name.as_str(), *actions))
    }

    /// Whether the catalogue may be listed and searched.
    pub fn catalog(&self) -> bool {
        self.catalog
    }

    /// Whether a token with these scopes allows nothing.
    pub fn is_empty(&self) -> bool {
        self.repositories.is_empty() && !self.catalog
    }

    /// The scopes with the actions of each repository intersected with `allowed`.
    #[must_use]
    pub fn narrowed(&self, allowed: impl Fn(&str) -> Actions) -> Self {
        let mut narrowed = Self {
            catalog: self.catalog,
            ..Self::default()
        };
        for (name, actions) in self.repositories() {
            narrowed.allow(name, actions.and(allowed(name)));
        }
        narrowed
    }

    fn allow(&mut self, name: &str, actions: Actions) {
        let printable = |byte: u8| byte.is_ascii_graphic() && !b"\"\\".contains(&byte);
        let is_name = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(printable);
        if !is_name || actions == Actions::NONE {
            return;
        }
        let known = self
            .repositories
            .iter_mut()
            .find(|(known, _)| known == name);
        if let Some((_, known)) = known {
            *known = known.or(actions);
            return;
        }
        let taken = self
            .repositories
            .iter()
            .map(|(name, _)| name.len() + AROUND);
        if taken.sum::<usize>() + name.len() + AROUND <= MAX_TOTAL {
            self.repositories.push((name.to_owned(), actions));
        }
    }

    /// Parses one scope. The name is everything between the first and the last colon, since it may hold colons, as in
    /// `host:5000/name`.
    fn add(&mut self, scope: &str) {
        let Some((kind, rest)) = scope.split_once(':') else {
            return;
        };
        let Some((name, actions)) = rest.rsplit_once(':') else {
            return;
        };
        // A class may follow the type: `repository(plugin)`.
        match kind.split('(').next() {
            Some("repository") => self.allow(name, actions_of(actions)),
            Some("registry") if name == "catalog" => self.catalog |= !actions.is_empty(),
            _ => {}
        }
    }
}

fn actions_of(text: &str) -> Actions {
    let mut actions = Actions::NONE;
    for word in text.split(',') {
        actions = actions.or(match word {
            "pull" => Action::Pull.into(),
            "push" => Action::Push.into(),
            "delete" => Action::Delete.into(),
            "*" => Actions::ALL,
            _ => Actions::NONE,
        });
    }
    actions
}

/// The form of challenges and token responses; it parses to the same scopes.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for (name, actions) in self.repositories() {
            write!(f, "{space}repository:{name}:{actions}")?;
            space = " ";
        }
        if self.catalog {
            write!(f, "{space}registry:catalog:*")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn scopes_that_clients_ask_for() {
        for (asked, expected) in [
            (&[][..], ""),
            (&[""][..], ""),
            (
                &["repository:library/alpine:pull"],
                "repository:library/alpine:pull",
            ),
            (&["repository:a:push,pull"], "repository:a:pull,push"),
            (&["repository:a:*"], "repository:a:pull,push,delete"),
            (&["repository:a:delete"], "repository:a:delete"),
            (&["repository:h:5000/a:pull"], "repository:h:5000/a:pull"),
            (&["repository(plugin):a:pull"], "repository(plugin):a:pull"),
            (
                &["repository:a:pull repository:b:pull", "repository:a:push"],
                "repository:a:pull,push repository:b:pull",
            ),
            (&["registry:catalog:*"], "registry:catalog:*"),
            (&["registry:catalog:search"], "registry:catalog:*"),
            (
                &["registry:other:*", "aws::", "a", "repository:a", ":::"],
                "",
            ),
            (
                &["repository:a:", "repository:a:fly", "repository::pull"],
                "",
            ),
            (&["repository:a\"b:pull", "repository:é:pull"], ""),
        ] {
            let scopes = Scopes::parse(asked.iter().copied());
            let expected = expected.replace("(plugin)", "");
            assert_eq!(scopes.to_string(), expected, "{asked:?}");
            assert_eq!(scopes.is_empty(), expected.is_empty());
        }
    }

    #[test]
    fn a_token_stays_small() {
        let long = format!("repository:{}:pull", "a".repeat(MAX_NAME + 1));
        assert!(Scopes::parse([long.as_str()]).is_empty());
        let many: Vec<String> = (0..1000)
            .map(|n| format!("repository:name-{n}:pull"))
            .collect();
        let scopes = Scopes::parse(many.iter().map(String::as_str));
        assert!(scopes.to_string().len() <= MAX_TOTAL);
        assert!(scopes.actions("name-0").contains(Action::Pull));
        assert!(!scopes.actions("name-999").contains(Action::Pull));
    }

    #[test]
    fn narrowing_keeps_what_is_allowed() {
        let asked = Scopes::parse(["repository:a:pull,push repository:b:push registry:catalog:*"]);
        let narrowed = asked.narrowed(|name| match name {
            "a" => Actions::from(Action::Pull),
            _ => Actions::from(Action::Delete),
        });
        assert_eq!(narrowed.to_string(), "repository:a:pull registry:catalog:*");
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in "\\PC{0,60}|((repository|registry):[a-z:/]{0,9}:[pullshdet,*]{0,12} ?){0,4}") {
            let scopes = Scopes::parse([text.as_str()]);
            prop_assert_eq!(Scopes::parse([scopes.to_string().as_str()]), scopes);
        }
    }
}
