//! Scripts: access rules, initial contents of the registries and a sequence of requests, one per line.
//!
//! ```text
//! rule alice hosted/mine/** pull,push
//! content s1 layer 500
//! content m1 manifest c1 s1
//! hold hosted secret/a s1 m1 #v1=m1
//! alice@plain POST /v2/<mine/a>/blobs/uploads/?mount=<s1>&from=<secret/a> | capture u1
//! ```
//!
//! A placeholder between `<` and `>` gets a new value in each run: `<mine/a>` a repository name, `<mine/a#v1>` a
//! tag, `<s1>` a digest or v1 image id, `<u1>` a value captured from an earlier response (`capture u1`): the
//! `Location` of an upload (`u`), a token (`t`), an image id (`k`).

use std::fmt;

use super::rules::{Action, Rule};
use super::world::Listener;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    pub rules: Vec<Rule>,
    pub contents: Vec<Content>,
    pub holdings: Vec<Holding>,
    pub steps: Vec<Step>,
}

/// Defines a blob, manifest or v1 image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub name: String,
    pub kind: Kind,
    /// The number of random bytes in a layer; else the contents it refers to.
    pub of: Vec<String>,
}

/// The kind of a content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A gzipped archive of one file with random bytes.
    Layer,
    /// An image configuration for these layers.
    Config,
    /// An image manifest of a configuration and layers.
    Manifest,
    /// An image index of these manifests.
    Index,
    /// A v1 image of a layer and, optionally, its parent.
    Image,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Layer,
        Self::Config,
        Self::Manifest,
        Self::Index,
        Self::Image,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::Config => "config",
            Self::Manifest => "manifest",
            Self::Index => "index",
            Self::Image => "image",
        }
    }
}

/// The initial contents of a repository, stored directly in the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The name of a registry, or `v1` for the v1 side of `hosted`.
    pub registry: String,
    pub name: String,
    pub contents: Vec<String>,
    /// Tags and the contents they point at.
    pub tags: Vec<(String, String)>,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// `anonymous`, a user, or the name of a captured token.
    pub who: String,
    pub listener: Listener,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Body,
    /// The name of the value to capture from the response.
    pub capture: Option<String>,
}

/// The body of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    #[default]
    None,
    /// The bytes of a content, or a range of them.
    Content {
        name: String,
        part: Option<(usize, usize)>,
    },
    /// `multipart/form-data` with the boundary `xx`.
    Parts(Vec<(String, String)>),
    Text(String),
}

/// A line that cannot be parsed.
#[derive(Debug, PartialEq, Eq)]
pub struct ParseError {
    pub line: usize,
    pub text: String,
}

impl Script {
    /// Parses a script. Empty lines and lines that begin with `#` are ignored.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let mut script = Self::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') && script.add(line).is_none() {
                return Err(ParseError {
                    line: number + 1,
                    text: line.to_owned(),
                });
            }
        }
        Ok(script)
    }

    fn add(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        match words.as_slice() {
            ["rule", user, pattern, actions] => {
                let actions: Option<_> = actions.split(',').map(Action::parse).collect();
                self.rules.push(Rule {
                    user: (*user).to_owned(),
                    pattern: (*pattern).to_owned(),
                    actions: actions?,
                });
            }
            ["content", name, kind, of @ ..] => {
                let mut kinds = Kind::ALL.into_iter();
                self.contents.push(Content {
                    name: (*name).to_owned(),
                    kind: kinds.find(|known| known.as_str() == *kind)?,
                    of: owned(of),
                });
            }
            ["hold", registry, name, contents @ ..] => {
                let (tags, contents): (Vec<&str>, Vec<&str>) =
                    contents.iter().partition(|word| word.starts_with('#'));
                let tag = |word: &str| {
                    let (tag, content) = word[1..].split_once('=')?;
                    Some((tag.to_owned(), content.to_owned()))
                };
                self.holdings.push(Holding {
                    registry: (*registry).to_owned(),
                    name: (*name).to_owned(),
                    contents: owned(&contents),
                    tags: tags.into_iter().map(tag).collect::<Option<_>>()?,
                });
            }
            _ => self.steps.push(Step::parse(line)?),
        }
        Some(())
    }
}

impl Step {
    pub fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(" | ").map(str::trim);
        let mut words = fields.next()?.splitn(3, ' ');
        let (who, listener) = words.next()?.split_once('@')?;
        let mut step = Self {
            who: who.to_owned(),
            listener: Listener::parse(listener)?,
            method: words.next()?.to_owned(),
            target: words.next()?.to_owned(),
            ..Self::default()
        };
        for field in fields {
            let (first, rest) = field.split_once(' ').unwrap_or((field, ""));
            match first {
                "capture" => step.capture = Some(rest.to_owned()),
                "send" => step.body = content_body(rest)?,
                "text" => step.body = Body::Text(rest.to_owned()),
                "parts" => {
                    let parts = rest.split(' ').map(|part| part.split_once('='));
                    let owned = parts.map(|part| Some((part?.0.to_owned(), part?.1.to_owned())));
                    step.body = Body::Parts(owned.collect::<Option<_>>()?);
                }
                name => {
                    let name = name.strip_suffix(':')?;
                    step.headers.push((name.to_owned(), rest.to_owned()));
                }
            }
        }
        Some(step)
    }
}

fn content_body(text: &str) -> Option<Body> {
    let (name, part) = match text.split_once(' ') {
        None => (text, None),
        Some((name, part)) => {
            let (from, to) = part.split_once("..")?;
            (name, Some((from.parse().ok()?, to.parse().ok()?)))
        }
    };
    let name = name.to_owned();
    Some(Body::Content { name, part })
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for rule in &self.rules {
            writeln!(f, "rule {} {} {}", rule.user, rule.pattern, rule.actions())?;
        }
        for Content { name, kind, of } in &self.contents {
            writeln!(f, "content {name} {} {}", kind.as_str(), of.join(" "))?;
        }
        for holding in &self.holdings {
            write!(f, "hold {} {}", holding.registry, holding.name)?;
            for content in &holding.contents {
                write!(f, " {content}")?;
            }
            for (tag, content) in &holding.tags {
                write!(f, " #{tag}={content}")?;
            }
            writeln!(f)?;
        }
        for step in &self.steps {
            writeln!(f, "{step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            who,
            listener,
            method,
            target,
            ..
        } = self;
        write!(f, "{who}@{listener} {method} {target}")?;
        for (name, value) in &self.headers {
            write!(f, " | {name}: {value}")?;
        }
        match &self.body {
            Body::None => {}
            Body::Content { name, part: None } => write!(f, " | send {name}")?,
            Body::Content {
                name,
                part: Some((from, to)),
            } => write!(f, " | send {name} {from}..{to}")?,
            Body::Text(text) => write!(f, " | text {text}")?,
            Body::Parts(parts) => {
                write!(f, " | parts")?;
                for (name, value) in parts {
                    write!(f, " {name}={value}")?;
                }
            }
        }
        match &self.capture {
            Some(name) => write!(f, " | capture {name}"),
            None => Ok(()),
        }
    }
}
