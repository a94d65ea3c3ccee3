//! The oracle: decides whether a response shows more than the rules and the registries alone would.
//!
//! Everything in a response must be covered by what its caller may know ([`Knowledge`]):
//!
//! - bytes, by a repository that holds them and that the caller may pull, or by the caller's authorship;
//! - the existence of a digest, tag or image id, by any right to a repository that holds it;
//! - a repository name, by any right to that repository; in a list, by the right to pull it.
//!
//! A success must be allowed by the rules, be about a content that the repository may hold, and not exceed what
//! the registry itself responds ([`Model::question`]). Pure: no I/O.

use std::collections::{BTreeMap, BTreeSet};

use super::bindings::{Bindings, NAMES, Symbol};
use super::fault::Fault;
use super::knowledge::Knowledge;
use super::request::{Request, Response};
use super::route::{Resource, Route};
use super::rules::{Action, Place, Rights, Rule};
use super::script::{Holding, Kind};

/// Tags used by scripts.
pub const TAGS: [&str; 2] = ["v1", "v2"];

pub struct Model<'a> {
    knowledge: Knowledge<'a>,
    /// Repositories that the v1 side may have, which the bridge serves through v2.
    v1: BTreeSet<Place>,
    /// The repositories of v1 image ids captured from responses, and the contents that the images are made from.
    ids: BTreeMap<String, (Place, Vec<String>)>,
}

impl<'a> Model<'a> {
    pub fn new(rules: &'a [Rule], bindings: &'a Bindings, holdings: &[Holding]) -> Self {
        let mut model = Self {
            knowledge: Knowledge::new(Rights(rules), bindings),
            v1: BTreeSet::new(),
            ids: BTreeMap::new(),
        };
        for holding in holdings {
            let is_v1 = holding.registry == "v1";
            let registry = if is_v1 { "hosted" } else { &holding.registry };
            let place = Place::new(registry, &bindings.name(&holding.name));
            let tagged = holding.tags.iter().map(|(_, content)| content);
            for content in holding.contents.iter().chain(tagged) {
                model.knowledge.hold(&place, content);
            }
            if is_v1 {
                model.v1.insert(place);
            }
        }
        model
    }

    /// Whether a user has the bytes of a content to send. The first sender of a new content is its author.
    pub fn may_send(&self, user: Option<&str>, content: &str) -> bool {
        self.knowledge.may_send(user, content)
    }

    /// Whether a user cannot know the value of a placeholder, so that a decoy must get the same response.
    pub fn is_secret(&self, user: Option<&str>, symbol: &Symbol) -> bool {
        let Knowledge {
            rights, bindings, ..
        } = &self.knowledge;
        match symbol {
            Symbol::Name(name) => !rights.cover(user, &bindings.name(name)),
            Symbol::Tag { name, .. } => !rights.allow_any_named(user, &bindings.name(name)),
            Symbol::Content { name, .. } => !self.knowledge.may_know(user, name),
            Symbol::Captured { name, .. } => {
                // What is made from one content has the same id in every repository that holds it.
                let knows = |content: &String| self.knowledge.may_know(user, content);
                let id = self.ids.get(name);
                id.is_some_and(|(place, contents)| {
                    !rights.allow_any(user, place) && !contents.iter().any(knows)
                })
            }
        }
    }

    /// Records a captured image id: the repository, and the content that the image is or is made from.
    pub fn capture_id(&mut self, name: &str, place: &Place, content: Option<&str>) {
        let bindings = self.knowledge.bindings;
        let index = content.and_then(|content| bindings.item(content));
        let index = index.filter(|item| item.kind == Kind::Index);
        let manifests = index.into_iter().flat_map(|index| &index.of);
        let contents = manifests.map(String::as_str).chain(content);
        let contents = contents.map(str::to_owned).collect();
        self.ids.insert(name.to_owned(), (place.clone(), contents));
    }

    /// Records what a request may have stored. Call it before [`Model::judge`].
    pub fn record(&mut self, request: &Request<'_>, status: u16) {
        let user = request.caller.user();
        if let Some(content) = request.sends {
            self.knowledge.sent(user, content);
        }
        let Some((place, typed)) = request.repository() else {
            return;
        };
        let is_refused = (400..500).contains(&status) || request.action() != Action::Push;
        if is_refused || !self.is_allowed(request, &place, &typed) {
            return;
        }
        let bindings = self.knowledge.bindings;
        for (name, item) in bindings.items() {
            // A v1 pusher who knows an image's id may claim it, as in docker-registry (docs/decisions, 17).
            let is_claimed = request.is_v1() && item.kind == Kind::Image;
            let is_named = request.mentions(item.hex()) || request.sends == Some(name);
            if is_named && (is_claimed || self.knowledge.may_read(user, name)) {
                self.knowledge.hold(&place, name);
            }
        }
        if request.is_v1() {
            self.v1.insert(place);
        }
    }

    fn is_allowed(&self, request: &Request<'_>, place: &Place, typed: &str) -> bool {
        let (caller, action) = (&request.caller, request.action());
        let rights = self.knowledge.rights;
        rights.allow(caller.user(), action, place) && caller.token_covers(action, typed)
    }

    /// What to ask the registry itself to judge a response: a repository and the path of a resource.
    pub fn question(
        &self,
        request: &Request<'_>,
        response: &Response<'_>,
    ) -> Option<(Place, String)> {
        let Route::Named {
            place,
            typed,
            resource,
        } = &request.route
        else {
            return None;
        };
        let path = match resource {
            Resource::Blob(digest) => format!("blobs/{digest}"),
            Resource::Manifest(reference) => format!("manifests/{reference}"),
            Resource::Tags => "tags/list".to_owned(),
            _ => return None,
        };
        let is_read = matches!(request.method, "GET" | "HEAD");
        let is_answered = response.succeeded() || response.status == 404;
        let asks = is_read && is_answered && self.is_allowed(request, place, typed);
        asks.then(|| (place.clone(), path))
    }

    /// Finds what a response shows beyond the caller's rights. `truth` answers [`Model::question`].
    pub fn judge(
        &self,
        request: &Request<'_>,
        response: &Response<'_>,
        truth: Option<&Response<'_>>,
    ) -> Vec<Fault> {
        let mut faults = self.leaks(request, response);
        if response.succeeded() {
            match &request.route {
                Route::Named {
                    place,
                    typed,
                    resource,
                } => {
                    if self.is_allowed(request, place, typed) {
                        faults.extend(self.misplaced(place, resource, response));
                    } else {
                        faults.push(Fault::Allowed(place.to_string()));
                    }
                }
                Route::Image { id } => faults.extend(self.image(request, id)),
                Route::Names => faults.extend(self.listed(request, response)),
                Route::Token | Route::Unclear => {}
            }
        }
        if let (
            Route::Named {
                place, resource, ..
            },
            Some(truth),
        ) = (&request.route, truth)
            && !self.v1.contains(place)
        {
            faults.extend(response.beyond(resource, truth));
        }
        faults
    }

    /// Checks the content of an allowed response: the repository must hold it, and the bytes must be right.
    fn misplaced(
        &self,
        place: &Place,
        resource: &Resource,
        response: &Response<'_>,
    ) -> Option<Fault> {
        let digest = match resource {
            Resource::Blob(digest) => Some(digest.as_str()),
            Resource::Manifest(_) | Resource::Uploads | Resource::Upload => response.digest(),
            _ => None,
        };
        let bindings = self.knowledge.bindings;
        let content = bindings.by_id(digest?)?;
        if !self.knowledge.is_held(content, |held| held == place) {
            return Some(Fault::Misplaced(format!("{content} in {place}")));
        }
        let bytes = &bindings.item(content)?.bytes;
        (!response.agrees_with(bytes)).then(|| Fault::Wrong(content.to_owned()))
    }

    /// Checks a success about a v1 image: a repository that the caller may use must hold it, the token's if there
    /// is a token.
    fn image(&self, request: &Request<'_>, id: &str) -> Option<Fault> {
        let content = self.knowledge.bindings.by_id(id)?;
        let user = request.caller.user();
        let named = request.repository().map(|(place, _)| place);
        let is_usable = |place: &Place| {
            let rights = self.knowledge.rights;
            rights.allow(user, request.action(), place)
                && named.as_ref().is_none_or(|named| named == place)
        };
        let is_usable = self.knowledge.is_held(content, is_usable);
        (!is_usable).then(|| Fault::Allowed(content.to_owned()))
    }

    /// Checks a list of names: the caller must be allowed to pull each.
    fn listed(&self, request: &Request<'_>, response: &Response<'_>) -> Vec<Fault> {
        if !request.caller.may_list() {
            return vec![Fault::Allowed("a list of names".to_owned())];
        }
        let (rights, user) = (self.knowledge.rights, request.caller.user());
        let is_visible = |name: &String| {
            let place = request.resolve(name);
            place.is_some_and(|place| rights.allow(user, Action::Pull, &place))
        };
        let names = response.listed_names().into_iter();
        names
            .filter(|name| !is_visible(name))
            .map(Fault::Name)
            .collect()
    }

    /// Finds bytes, digests, names and tags in a response that are not covered, whatever was requested.
    fn leaks(&self, request: &Request<'_>, response: &Response<'_>) -> Vec<Fault> {
        let Knowledge {
            rights, bindings, ..
        } = &self.knowledge;
        let user = request.caller.user();
        let mut faults = Vec::new();
        for content in bindings.recognize(response.body) {
            if !self.knowledge.may_read(user, content) {
                faults.push(Fault::Bytes(content.to_owned()));
            }
        }
        let is_new = |text: &str| response.text.contains(text) && !request.mentions(text);
        for (name, item) in bindings.items().filter(|(_, item)| is_new(item.hex())) {
            let hex = item.hex();
            if !self.knowledge.may_know(user, name) && !self.knowledge.may_quote(user, hex) {
                faults.push(Fault::Digest(name.to_owned()));
            }
        }
        for name in NAMES {
            let real = bindings.name(name);
            if rights.allow_any_named(user, &real) {
                continue;
            }
            faults.extend(is_new(&real).then(|| Fault::Name(name.to_owned())));
            let tags = TAGS
                .iter()
                .filter(|tag| is_new(&bindings.tag(name, tag, false)));
            faults.extend(tags.map(|tag| Fault::Tag(format!("{name}#{tag}"))));
        }
        faults
    }
}
