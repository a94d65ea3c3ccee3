//! Random rules and initial contents.

use super::generate::Generator;
use super::rules::{Action, Place, Rule};
use super::script::Holding;
use super::world::{USERS, V1_IS_BUILT};

/// Images: their blobs and, last, their manifest.
const IMAGES: [&[&str]; 3] = [
    &["s1", "s2", "c1", "m1"],
    &["s3", "c2", "m2"],
    &["s4", "c3", "m3"],
];

impl Generator {
    fn rule(&mut self, user: &str, pattern: &str, actions: &[Action]) {
        self.script.rules.push(Rule {
            user: user.to_owned(),
            pattern: pattern.to_owned(),
            actions: actions.to_vec(),
        });
    }

    /// One user owns the secrets and another may push to `mine`; all other rules are random.
    pub fn rules(&mut self) {
        use Action::{Delete, Pull, Push};
        let mut users = USERS;
        self.random.shuffle(&mut users);
        self.rule(users[0], "**/secret/**", &[Pull, Push, Delete]);
        self.rule(users[1], "hosted/mine/**", &[Pull, Push]);
        if self.chance(60) {
            self.rule("anonymous", "**/open/**", &[Pull]);
        }
        for _ in 0..self.random.usize(1..6) {
            let user = self.pick(&[&USERS[..], &["*", "anonymous"]].concat());
            let registry = self.pick(&["hosted", "hosted", "vault", "shelf", "**"]);
            let pattern = match self.random.u8(0..20) {
                0 => format!("{registry}/secret/b"),
                1..5 => format!("{registry}/team/*"),
                5..9 => format!("{registry}/mine/a"),
                9..13 => format!("{registry}/mine/**"),
                13..16 => format!("{registry}/open/**"),
                16 => format!("**/{registry}/open/*"),
                _ => format!("{registry}/team/**"),
            };
            let actions = self.pick(&[
                &[Pull][..],
                &[Pull],
                &[Pull, Push],
                &[Pull, Push, Delete],
                &[Push],
                &[Delete],
            ]);
            self.rule(user, &pattern, actions);
        }
    }

    pub fn holdings(&mut self) {
        for (registry, name, percent) in [
            ("hosted", "secret/a", 100),
            ("hosted", "secret/b", 60),
            ("hosted", "team/a", 60),
            ("hosted", "open/a", 60),
            ("hosted", "mine/a", 40),
            ("hosted", "mine/b", 70),
            ("vault", "secret/a", 70),
            ("vault", "mine/a", 50),
            ("vault", "open/a", 50),
            ("shelf", "secret/a", 60),
            ("shelf", "open/a", 60),
        ] {
            if !self.chance(percent) {
                continue;
            }
            let secret = name.starts_with("secret/");
            let image = match name {
                _ if secret => IMAGES[self.random.usize(0..2)],
                "mine/b" => IMAGES[2],
                _ => IMAGES[1 + self.random.usize(0..2)],
            };
            let manifest = image[image.len() - 1].to_owned();
            self.script.holdings.push(Holding {
                registry: registry.to_owned(),
                name: name.to_owned(),
                contents: image.iter().map(|&content| content.to_owned()).collect(),
                tags: vec![("v1".to_owned(), manifest)],
            });
        }
        for (name, images, percent) in
            [("secret/a", &["i1", "i2"][..], 60), ("mine/a", &["i3"], 60)]
        {
            if V1_IS_BUILT && self.chance(percent) {
                self.script.holdings.push(Holding {
                    registry: "v1".to_owned(),
                    name: name.to_owned(),
                    contents: images.iter().map(|&image| image.to_owned()).collect(),
                    tags: vec![("v1".to_owned(), images[images.len() - 1].to_owned())],
                });
            }
        }
    }

    /// Authorized pulls fill the cache.
    pub fn warm_up(&mut self) {
        for holding in self.script.holdings.clone() {
            if holding.registry == "v1" {
                continue;
            }
            let place = Place::new(&holding.registry, &holding.name);
            let percent = if place.name.starts_with("secret/") {
                90
            } else {
                25
            };
            if !self.chance(percent) {
                continue;
            }
            let Some(who) = self.pick_allowed(Action::Pull, &place) else {
                continue;
            };
            for content in &holding.contents {
                let resource = self.resource_of(content);
                self.request(&who, "GET", &place, &resource, &[]);
            }
        }
    }
}
