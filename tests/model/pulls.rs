//! Random reads: pulls over both APIs, lists, tokens.

use super::bindings::NAMES;
use super::generate::Generator;
use super::rules::{Action, Place};
use super::script::Step;
use super::world::{Listener, USERS};

impl Generator {
    pub fn read(&mut self) {
        let who = self.pick_caller();
        let place = self.pick_place();
        let content = self.pick_content();
        let resource = match self.random.u8(0..20) {
            0..10 => self.resource_of(&content),
            10..12 => format!("manifests/<{}#v1>", place.name),
            12 => "manifests/latest".to_owned(),
            13 => format!("referrers/<{content}>"),
            14 => "tags/list".to_owned(),
            15 => format!("tags/list?n=1&last=<{}#v1>", place.name),
            16 => format!("manifests/<{content}>"),
            17 => format!("blobs/<{content}>"),
            18 => format!("blobs/sha256%3A<{content}.hex>"),
            _ => format!("manifests/<{}#v2>", place.name),
        };
        let method = self.pick(&["GET", "GET", "HEAD"]);
        let headers = match self.random.u8(0..12) {
            0 => vec![("Range", "bytes=0-9".to_owned())],
            1 => vec![("Range", "bytes=-20".to_owned())],
            2 => vec![("Range", "bytes=0-9,20-29".to_owned())],
            3 => vec![("If-None-Match", format!("\"<{content}>\""))],
            4 => vec![("If-None-Match", "*".to_owned())],
            5 => vec![
                ("Range", "bytes=3-".to_owned()),
                ("If-Range", format!("\"<{content}>\"")),
            ],
            6 => vec![(
                "Accept",
                "application/vnd.oci.image.index.v1+json, */*".to_owned(),
            )],
            _ => Vec::new(),
        };
        let step = self.request(&who, method, &place, &resource, &[]);
        step.headers.extend(
            headers
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value)),
        );
    }

    /// Adds a read that checks whether an attempt to get at a content succeeded.
    pub fn probe(&mut self, who: &str, place: &Place, content: &str) {
        let method = self.pick(&["GET", "GET", "HEAD"]);
        let resource = self.resource_of(content);
        self.request(who, method, place, &resource, &[]);
    }

    pub fn list(&mut self) {
        let who = self.pick_caller();
        let place = self.pick_place();
        let target = match self.random.u8(0..6) {
            0 => "/v2/_catalog".to_owned(),
            1 => format!("/v2/_catalog?n=2&last=<{}>", place.name),
            2 => format!("/v2/_catalog?ns={}&n=1000", place.registry),
            3 => "/v1/search?q=secret".to_owned(),
            4 => format!("/v1/search?q=<{}>", place.name),
            _ => "/v1/search?q=&n=100".to_owned(),
        };
        let listener = Listener::ALL[self.random.usize(0..4)];
        self.push(Step {
            who,
            listener,
            method: "GET".to_owned(),
            target,
            ..Step::default()
        });
    }

    /// Gets a token, for scopes that may exceed the user's rights.
    pub fn log_in(&mut self) {
        let who = self.pick(&[&USERS[..], &["anonymous"]].concat()).to_owned();
        let mut scopes = Vec::new();
        for _ in 0..self.random.usize(1..3) {
            let place = self.pick_place();
            let prefix = if place.registry == "hosted" {
                String::new()
            } else {
                format!("{}/", place.registry)
            };
            let actions = self.pick(&["pull", "pull,push", "*"]);
            scopes.push(format!(
                "scope=repository:{prefix}<{}>:{actions}",
                place.name
            ));
        }
        if self.chance(30) {
            scopes.push("scope=registry:catalog:*".to_owned());
        }
        let capture = self.next_name('t');
        self.tokens.push(capture.clone());
        self.push(Step {
            who,
            method: "GET".to_owned(),
            target: format!("/token?service=x&{}", scopes.join("&")),
            capture: Some(capture),
            ..Step::default()
        });
    }

    /// Part of a v1 pull, with a new token or another user's.
    pub fn v1_read(&mut self) {
        let name = self.pick(&NAMES);
        let place = Place::new("hosted", name);
        let listener = self.pick(&[&Listener::Plain, &Listener::ReadOnly]);
        let v1 = |who: &str, target: String| Step {
            who: who.to_owned(),
            listener: *listener,
            method: "GET".to_owned(),
            target,
            ..Step::default()
        };
        let owner = match self.pick_allowed(Action::Pull, &place) {
            Some(owner) if self.random.u8(0..10) < 7 => owner,
            _ => self.pick_caller(),
        };
        let token = self.next_name('t');
        let mut list = v1(&owner, format!("/v1/repositories/<{name}>/images"));
        list.listener = Listener::Plain;
        list.headers
            .push(("X-Docker-Token".to_owned(), "true".to_owned()));
        list.capture = Some(token.clone());
        self.push(list);
        self.tokens.push(token.clone());
        let any = self.pick(&NAMES);
        let other = self.pick(&[name, any]);
        if self.chance(60) {
            let what = self.pick(&["tags", "images", "json"]);
            self.push(v1(&token, format!("/v1/repositories/<{other}>/{what}")));
        }
        if self.chance(60) {
            let id = self.next_name('k');
            let mut tag = v1(
                &token,
                format!("/v1/repositories/<{name}>/tags/<{name}#v1>"),
            );
            tag.capture = Some(id.clone());
            self.push(tag);
            self.ids.push(id);
        }
        let who = if self.chance(70) {
            token
        } else {
            self.pick_caller()
        };
        let known = self.ids.last().cloned().filter(|_| self.random.bool());
        let id = known.unwrap_or_else(|| self.pick(&["i1", "i2", "i3"]).to_owned());
        let part = self.pick(&["json", "layer", "ancestry"]);
        self.push(v1(&who, format!("/v1/images/<{id}>/{part}")));
    }
}
