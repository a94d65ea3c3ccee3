//! The contents that repositories may hold and that users may know, by the rules and the pushes.
//!
//! *Holdings*: which repository may legitimately hold which content, because it did at the start, or because a caller
//! who may push there and could read the content (or created it) pushed it. *Authors*: who created which content. Both
//! only grow; the registry decides whether a repository holds a content at the moment.

use std::collections::{BTreeMap, BTreeSet};

use super::bindings::Bindings;
use super::rules::{Action, Place, Rights};
use super::script::Kind;

pub struct Knowledge<'a> {
    pub rights: Rights<'a>,
    pub bindings: &'a Bindings,
    holdings: BTreeSet<(Place, String)>,
    authors: BTreeMap<String, BTreeSet<Option<String>>>,
}

impl<'a> Knowledge<'a> {
    pub fn new(rights: Rights<'a>, bindings: &'a Bindings) -> Self {
        Self {
            rights,
            bindings,
            holdings: BTreeSet::new(),
            authors: BTreeMap::new(),
        }
    }

    /// Adds a holding; a v1 image includes its layer and its ancestors.
    pub fn hold(&mut self, place: &Place, content: &str) {
        let new = self.holdings.insert((place.clone(), content.to_owned()));
        let item = self.bindings.item(content);
        let image = item.filter(|item| item.kind == Kind::Image && new);
        for below in image.into_iter().flat_map(|image| &image.of) {
            self.hold(place, below);
        }
    }

    /// Whether a content may be held by a repository that satisfies `is`.
    pub fn is_held(&self, content: &str, is: impl Fn(&Place) -> bool) -> bool {
        let mut holdings = self.holdings.iter();
        holdings.any(|(place, held)| held == content && is(place))
    }

    /// Whether a user has the bytes to send.
    pub fn may_send(&self, user: Option<&str>, content: &str) -> bool {
        self.is_new(content) || self.may_read(user, content)
    }

    /// Records that a user sends the bytes of a content, and is its author if it is new.
    pub fn sent(&mut self, user: Option<&str>, content: &str) {
        if self.is_new(content) {
            let authors = self.authors.entry(content.to_owned()).or_default();
            authors.insert(user.map(str::to_owned));
        }
    }

    fn is_new(&self, content: &str) -> bool {
        !self.authors.contains_key(content) && !self.is_held(content, |_| true)
    }

    fn is_author(&self, user: Option<&str>, content: &str) -> bool {
        let authors = self.authors.get(content);
        authors.is_some_and(|authors| authors.contains(&user.map(str::to_owned)))
    }

    /// Whether a user may have the bytes of a content.
    pub fn may_read(&self, user: Option<&str>, content: &str) -> bool {
        let readable = |place: &Place| self.rights.allow(user, Action::Pull, place);
        self.is_author(user, content) || self.is_held(content, readable)
    }

    /// Whether a user may know that a content exists: a registry tells a pusher what it has.
    pub fn may_know(&self, user: Option<&str>, content: &str) -> bool {
        let known = |place: &Place| self.rights.allow_any(user, place);
        self.is_author(user, content) || self.is_held(content, known)
    }

    /// Whether a user may know a digest from the bytes of a content.
    pub fn may_quote(&self, user: Option<&str>, hex: &str) -> bool {
        self.bindings.items().any(|(name, item)| {
            self.may_read(user, name) && String::from_utf8_lossy(&item.bytes).contains(hex)
        })
    }
}
