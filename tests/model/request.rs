//! Requests and responses as the model reads them.

use std::collections::BTreeSet;

use percent_encoding::percent_decode_str;
use serde_json::Value;

use super::fault::Fault;
use super::route::{Resource, Route, place};
use super::rules::{Action, Place};
use super::world::Listener;
use testkit::http::Reply;

/// The sender of a request, by its password or token. On a read-only listener every caller is anonymous.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub user: Option<String>,
    /// The scopes of the token; `None` without a token.
    pub scopes: Option<Scopes>,
}

/// The scopes of a token. Names are as in paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scopes {
    pub repositories: Vec<(String, Action)>,
    pub catalog: bool,
}

impl Scopes {
    /// Parses the scopes of a request for a token.
    pub fn parse(text: &str) -> Self {
        let mut scopes = Self::default();
        for scope in text.split(' ') {
            let Some((kind, rest)) = scope.split_once(':') else {
                continue;
            };
            let Some((name, actions)) = rest.rsplit_once(':') else {
                continue;
            };
            scopes.catalog |= (kind, name) == ("registry", "catalog");
            if kind == "repository" {
                let all = || Action::ALL.into_iter();
                let granted = all().filter(|action| {
                    actions
                        .split(',')
                        .any(|word| word == "*" || word == action.as_str())
                });
                scopes
                    .repositories
                    .extend(granted.map(|action| (name.to_owned(), action)));
            }
        }
        scopes
    }
}

impl Caller {
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Whether the token, if any, covers an action.
    pub fn token_covers(&self, action: Action, typed: &str) -> bool {
        let granted = (typed.to_owned(), action);
        let scopes = self.scopes.as_ref();
        scopes.is_none_or(|scopes| scopes.repositories.contains(&granted))
    }

    pub fn may_list(&self) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.catalog)
    }

    /// The repository of a token for exactly one.
    pub fn only_name(&self) -> Option<&str> {
        let scopes = self.scopes.as_ref()?;
        let names: BTreeSet<&str> = scopes
            .repositories
            .iter()
            .map(|(name, _)| &**name)
            .collect();
        if names.len() == 1 {
            names.first().copied()
        } else {
            None
        }
    }
}

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    pub caller: Caller,
    pub listener: Listener,
    pub host: Option<&'a str>,
    pub namespace: Option<String>,
    pub method: &'a str,
    pub route: Route,
    /// The content whose bytes are in the body.
    pub sends: Option<&'a str>,
    /// The whole request, as sent and decoded.
    pub text: String,
}

impl Request<'_> {
    pub fn action(&self) -> Action {
        self.route.action(self.method)
    }

    pub fn mentions(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    /// The repository that a name stands for in this request.
    pub fn resolve(&self, name: &str) -> Option<Place> {
        place(self.listener, self.host, self.namespace.as_deref(), name)
    }

    /// The repository that the request is about, and the name that a token must cover; for a v1 image, the
    /// repository of the token.
    pub fn repository(&self) -> Option<(Place, String)> {
        match &self.route {
            Route::Named { place, typed, .. } => Some((place.clone(), typed.clone())),
            Route::Image { .. } => {
                let typed = self.caller.only_name()?;
                Some((self.resolve(typed)?, typed.to_owned()))
            }
            _ => None,
        }
    }

    /// Whether it is for a repository or image of the v1 API.
    pub fn is_v1(&self) -> bool {
        match &self.route {
            Route::Image { .. } => true,
            Route::Named { resource, .. } => matches!(resource, Resource::V1(_)),
            _ => false,
        }
    }
}

/// Appends the percent-decoded text.
pub fn with_decoded(text: &str) -> String {
    let decoded = percent_decode_str(text).decode_utf8_lossy();
    format!("{text}\n{decoded}\n{}", decoded.to_lowercase())
}

/// A response.
pub struct Response<'a> {
    pub status: u16,
    pub body: &'a [u8],
    /// Headers and body, as received and decoded.
    pub text: String,
    reply: &'a Reply,
}

impl<'a> Response<'a> {
    pub fn new(reply: &'a Reply) -> Self {
        let headers = reply.head.headers.iter();
        let headers: Vec<String> = headers
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let text = format!("{}\n\n{}", headers.join("\n"), reply.text());
        Self {
            status: reply.status(),
            body: &reply.body,
            text: with_decoded(&text),
            reply,
        }
    }

    pub fn succeeded(&self) -> bool {
        self.status < 400
    }

    pub fn digest(&self) -> Option<&str> {
        self.reply.header("docker-content-digest")
    }

    /// The names in a catalogue or in search results.
    pub fn listed_names(&self) -> Vec<String> {
        let body: Value = serde_json::from_slice(self.body).unwrap_or_default();
        let entries = |key: &str| body[key].as_array().cloned().unwrap_or_default();
        let results = entries("results")
            .into_iter()
            .map(|result| result["name"].clone());
        let names = entries("repositories").into_iter().chain(results);
        names
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    }

    fn tags(&self) -> BTreeSet<String> {
        let body: Value = serde_json::from_slice(self.body).unwrap_or_default();
        let tags = body["tags"].as_array().cloned().unwrap_or_default();
        tags.iter()
            .filter_map(|tag| Some(tag.as_str()?.to_owned()))
            .collect()
    }

    /// Whether the body, if any, is these bytes or the part of them that the status says.
    pub fn agrees_with(&self, bytes: &[u8]) -> bool {
        let kind = self.reply.header("content-type").unwrap_or_default();
        match self.status {
            200 => self.body.is_empty() || self.body == bytes,
            206 if kind.starts_with("multipart/") || self.body.is_empty() => true,
            206 => bytes.windows(self.body.len()).any(|part| part == self.body),
            _ => true,
        }
    }

    /// Compares a read with the registry's own response.
    pub fn beyond(&self, resource: &Resource, truth: &Response<'_>) -> Option<Fault> {
        let said = format!(
            "{} where the registry responds {}",
            self.status, truth.status
        );
        match (self.succeeded(), truth.succeeded()) {
            (true, false) => return Some(Fault::Beyond(said)),
            (false, true) if *resource != Resource::Tags => return Some(Fault::Lost(said)),
            (false, _) => return None,
            (true, true) => {}
        }
        match resource {
            Resource::Manifest(_) if self.digest() != truth.digest() => Some(Fault::Beyond(
                format!("{:?} for {:?}", self.digest(), truth.digest()),
            )),
            Resource::Tags => {
                let (shown, there) = (self.tags(), truth.tags());
                let more = shown.difference(&there).next();
                more.map(|tag| Fault::Beyond(format!("a tag {tag}")))
            }
            _ => None,
        }
    }
}
