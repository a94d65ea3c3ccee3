//! Generates random scripts: users with random rules, repositories with secrets, and requests by users who know how
//! registries, caches and gateways work.

use super::bindings::NAMES;
use super::hostile;
use super::rules::{Action, Place};
use super::script::{Kind, Script, Step};
use super::world::{Listener, REGISTRIES, USERS, V1_IS_BUILT};

/// Contents that the registries hold at the start.
const HELD: &str = "
content s1 layer 900
content s2 layer 200
content s3 layer 1500
content s4 layer 400
content s5 layer 300
content s6 layer 700
content s7 layer 250
content c1 config s1 s2
content c2 config s3
content c3 config s4
content m1 manifest c1 s1 s2
content m2 manifest c2 s3
content m3 manifest c3 s4
content i1 image s5
content i2 image s6 i1
content i3 image s7
";

/// Contents that no registry holds at the start: new layers and images, and manifests that refer to secrets.
const NEW: &str = "
content n1 layer 600
content n2 layer 3000
content n3 layer 300
content g1 config n1
content f1 manifest g1 n1
content f2 manifest g1 s1
content f3 index m1
content i4 image n3
";

/// Builds a script.
pub struct Generator {
    pub random: fastrand::Rng,
    pub script: Script,
    captured: usize,
    /// Captured upload locations and their repositories.
    pub uploads: Vec<(String, Place)>,
    pub tokens: Vec<String>,
    pub ids: Vec<String>,
}

/// The number of requests that follow the pulls at the start, at least.
const LENGTH: usize = 40;

/// Generates the script of a seed.
pub fn script(seed: u64) -> Script {
    let contents = Script::parse(&format!("{HELD}{NEW}")).expect("a script");
    let mut generator = Generator {
        random: fastrand::Rng::with_seed(seed),
        script: contents,
        captured: 0,
        uploads: Vec::new(),
        tokens: Vec::new(),
        ids: Vec::new(),
    };
    generator.rules();
    generator.holdings();
    generator.warm_up();
    let end = generator.script.steps.len() + LENGTH;
    while generator.script.steps.len() < end {
        generator.act();
    }
    generator.script
}

impl Generator {
    pub fn pick<'t, T: ?Sized>(&mut self, from: &[&'t T]) -> &'t T {
        from[self.random.usize(0..from.len())]
    }

    pub fn chance(&mut self, percent: u8) -> bool {
        self.random.u8(0..100) < percent
    }

    /// Whether the rules allow an action.
    pub fn may(&self, who: &str, action: Action, place: &Place) -> bool {
        let user = (who != "anonymous").then_some(who);
        self.script
            .rules
            .iter()
            .any(|rule| rule.allows(user, action, place))
    }

    /// Picks a user whom the rules allow an action.
    pub fn pick_allowed(&mut self, action: Action, place: &Place) -> Option<String> {
        let mut users: Vec<&str> = USERS.into_iter().chain(["anonymous"]).collect();
        self.random.shuffle(&mut users);
        let found = users.into_iter().find(|who| self.may(who, action, place));
        found.map(str::to_owned)
    }

    pub fn pick_caller(&mut self) -> String {
        let users: Vec<&str> = USERS.into_iter().chain(["anonymous"]).collect();
        let tokens: Vec<&str> = self.tokens.iter().map(String::as_str).collect();
        let all = if !tokens.is_empty() && self.random.u8(0..10) < 3 {
            tokens
        } else {
            users
        };
        all[self.random.usize(0..all.len())].to_owned()
    }

    pub fn pick_place(&mut self) -> Place {
        let registry = self.pick(&["hosted", "hosted", "hosted", "vault", "vault", "shelf"]);
        Place::new(registry, self.pick(&NAMES))
    }

    /// Picks a repository that can be pushed to, and a user who may.
    pub fn pick_push(&mut self) -> Option<(String, Place)> {
        let mut places: Vec<Place> = REGISTRIES[..2]
            .iter()
            .flat_map(|registry| NAMES.map(|name| Place::new(registry, name)))
            .collect();
        self.random.shuffle(&mut places);
        places.into_iter().find_map(|place| {
            let who = self.pick_allowed(Action::Push, &place)?;
            Some((who, place))
        })
    }

    /// The contents that a repository holds at the start.
    pub fn contents_of(&self, place: &Place) -> Vec<String> {
        let holdings = self.script.holdings.iter();
        let at = holdings.filter(|it| it.registry == place.registry && it.name == place.name);
        at.flat_map(|holding| holding.contents.clone()).collect()
    }

    pub fn pick_content(&mut self) -> String {
        let mut contents = self
            .script
            .contents
            .iter()
            .filter(|it| it.kind != Kind::Image);
        let count = contents.clone().count();
        let nth = self.random.usize(0..count);
        contents
            .nth(nth)
            .map_or_else(String::new, |content| content.name.clone())
    }

    pub fn is_manifest(&self, name: &str) -> bool {
        let content = self
            .script
            .contents
            .iter()
            .find(|content| content.name == name);
        content.is_some_and(|content| matches!(content.kind, Kind::Manifest | Kind::Index))
    }

    /// The path of a content: `blobs/<s1>` or `manifests/<m1>`.
    pub fn resource_of(&self, content: &str) -> String {
        let kind = if self.is_manifest(content) {
            "manifests"
        } else {
            "blobs"
        };
        format!("{kind}/<{content}>")
    }

    pub fn next_name(&mut self, kind: char) -> String {
        self.captured += 1;
        format!("{kind}{}", self.captured)
    }

    pub fn push(&mut self, step: Step) {
        self.script.steps.push(step);
    }

    /// Adds a request about a repository, addressed in a random way: name, prefix, `ns`, Host, listener.
    pub fn request(
        &mut self,
        who: &str,
        method: &str,
        place: &Place,
        resource: &str,
        query: &[&str],
    ) -> &mut Step {
        let Place { registry, name } = place;
        let mut step = Step {
            who: who.to_owned(),
            method: method.to_owned(),
            ..Step::default()
        };
        let mut query: Vec<String> = query.iter().map(|&pair| pair.to_owned()).collect();
        let namespace = format!("ns={registry}");
        let way = self.random.u8(0..10);
        let typed = match registry.as_str() {
            "vault" if way == 0 => {
                step.listener = Listener::Vault;
                format!("<{name}>")
            }
            "hosted" if way > 3 => format!("<{name}>"),
            _ if way == 1 => {
                step.headers
                    .push(("Host".to_owned(), format!("{registry}.test")));
                let is_hosts = registry != "shelf";
                if is_hosts {
                    format!("<{name}>")
                } else {
                    format!("{registry}/<{name}>")
                }
            }
            _ if way == 2 => {
                query.insert(self.random.usize(0..=query.len()), namespace);
                format!("<{name}>")
            }
            _ => format!("{registry}/<{name}>"),
        };
        if step.listener == Listener::Plain {
            step.listener = match self.random.u8(0..20) {
                0 => Listener::Tls,
                1 | 2 => Listener::ReadOnly,
                _ => Listener::Plain,
            };
        }
        let query = query.join("&");
        let mark = if query.is_empty() { "" } else { "?" };
        step.target = format!("/v2/{typed}/{resource}{mark}{query}");
        self.script.steps.push(step);
        self.script.steps.last_mut().expect("just pushed")
    }

    /// Adds one random activity, of one or several requests.
    fn act(&mut self) {
        match self.random.u8(0..100) {
            18..22 => self.list(),
            22..29 => self.log_in(),
            29..42 if V1_IS_BUILT => self.v1_read(),
            42..45 if V1_IS_BUILT => self.v1_write(),
            0..18 | 29..45 => self.read(),
            45..50 => self.push_image(),
            50..55 => self.put_manifest(),
            55..61 => self.delete(),
            61..71 => self.upload(),
            71..97 => hostile::upload(self),
            _ => hostile::odd_path(self),
        }
    }
}
