//! Random writes: pushes over both APIs, uploads, deletes.

use super::generate::Generator;
use super::rules::{Action, Place};
use super::script::{Body, Step};
use super::world::Listener;

impl Generator {
    /// A v1 push.
    pub fn v1_write(&mut self) {
        let name = self.pick(&["mine/a", "mine/b", "team/a"]);
        let place = Place::new("hosted", name);
        let Some(owner) = self.pick_allowed(Action::Push, &place) else {
            return;
        };
        let put = |who: &str, target: String, body: Body| Step {
            who: who.to_owned(),
            method: "PUT".to_owned(),
            target,
            body,
            ..Step::default()
        };
        let content = |name: &str| Body::Content {
            name: name.to_owned(),
            part: None,
        };
        let token = self.next_name('t');
        let mut begin = put(
            &owner,
            format!("/v1/repositories/<{name}>/"),
            Body::Text("[]".to_owned()),
        );
        begin.capture = Some(token.clone());
        self.push(begin);
        self.tokens.push(token.clone());
        self.push(put(
            &token,
            "/v1/images/<i4>/json".to_owned(),
            content("i4"),
        ));
        self.push(put(
            &token,
            "/v1/images/<i4>/layer".to_owned(),
            content("n3"),
        ));
        let mut sum = put(&token, "/v1/images/<i4>/checksum".to_owned(), Body::None);
        sum.headers.push((
            "X-Docker-Checksum-Payload".to_owned(),
            "sha256:0".to_owned(),
        ));
        self.push(sum);
        let other = self.pick(&[name, name, "secret/a"]);
        let tag = Body::Text("\"<i4>\"".to_owned());
        self.push(put(
            &token,
            format!("/v1/repositories/<{other}>/tags/<{name}#v2>"),
            tag,
        ));
        let reader = self.pick_caller();
        let read = Place::new("hosted", other);
        self.request(
            &reader,
            "GET",
            &read,
            &format!("manifests/<{name}#v2>"),
            &[],
        );
    }

    /// Pushes an image and reads it back.
    pub fn push_image(&mut self) {
        let Some((who, place)) = self.pick_push() else {
            return;
        };
        for content in ["n1", "g1"] {
            self.put_blob(&who, &place, content);
        }
        let tag = self.pick(&["v1", "v2"]);
        self.manifest(&who, &place, &format!("<{}#{tag}>", place.name), "f1");
        let reader = self.pick_caller();
        self.request(
            &reader,
            "GET",
            &place,
            &format!("manifests/<{}#{tag}>", place.name),
            &[],
        );
        self.probe(&reader, &place, "n1");
    }

    pub fn begin(&mut self, who: &str, place: &Place, query: &[&str]) -> String {
        let capture = self.next_name('u');
        self.uploads.push((capture.clone(), place.clone()));
        let step = self.request(who, "POST", place, "blobs/uploads/", query);
        step.listener = if step.listener == Listener::ReadOnly {
            Listener::Plain
        } else {
            step.listener
        };
        step.capture = Some(capture.clone());
        capture
    }

    fn put_blob(&mut self, who: &str, place: &Place, content: &str) {
        let upload = self.begin(who, place, &[]);
        let listener = self
            .script
            .steps
            .last()
            .map(|step| step.listener)
            .unwrap_or_default();
        self.push(Step {
            who: who.to_owned(),
            listener,
            method: "PUT".to_owned(),
            target: format!("<{upload}>&digest=<{content}>"),
            body: Body::Content {
                name: content.to_owned(),
                part: None,
            },
            ..Step::default()
        });
    }

    fn manifest(&mut self, who: &str, place: &Place, reference: &str, content: &str) {
        let is_index = content == "f3";
        let kind = if is_index { "index" } else { "manifest" };
        // More tags may be pushed along with a digest.
        let tags = match self.random.u8(0..8) {
            0 => vec![format!("tag=<{}#v2>", place.name)],
            1 => vec!["tag=<secret/a#v1>".to_owned(), "tag=more".to_owned()],
            _ => Vec::new(),
        };
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        let step = self.request(who, "PUT", place, &format!("manifests/{reference}"), &tags);
        let media_type = format!("application/vnd.oci.image.{kind}.v1+json");
        step.headers.push(("Content-Type".to_owned(), media_type));
        step.body = Body::Content {
            name: content.to_owned(),
            part: None,
        };
    }

    /// Puts a manifest: a new one, one that refers to secrets, or one from another repository.
    pub fn put_manifest(&mut self) {
        let Some((who, place)) = self.pick_push() else {
            return;
        };
        let content = self.pick(&["f1", "f2", "f3", "m1", "m2", "m3"]);
        let reference = match self.random.u8(0..3) {
            0 => format!("<{content}>"),
            1 => format!("<{}#v1>", place.name),
            _ => "latest".to_owned(),
        };
        let who = if self.chance(70) {
            who
        } else {
            self.pick_caller()
        };
        self.manifest(&who, &place, &reference, content);
        let below = self.pick(&["s1", "m1", "s3"]);
        self.probe(&who, &place, below);
    }

    /// Deletes a content and reads it again, which must not be a cache hit.
    pub fn delete(&mut self) {
        let place = self.pick_place();
        let who = match self.pick_allowed(Action::Delete, &place) {
            Some(who) if self.random.u8(0..10) < 8 => who,
            _ => self.pick_caller(),
        };
        let held = self.contents_of(&place);
        let content = if held.is_empty() {
            self.pick_content()
        } else {
            held[self.random.usize(0..held.len())].clone()
        };
        let resource = self.resource_of(&content);
        self.request(&who, "DELETE", &place, &resource, &[]);
        let reader = self.pick_allowed(Action::Pull, &place).unwrap_or(who);
        self.probe(&reader, &place, &content);
        if self.is_manifest(&content) {
            let tag = format!("manifests/<{}#v1>", place.name);
            self.request(&reader, "GET", &place, &tag, &[]);
        }
    }

    /// Continues an upload of any user, at its own location or another, with or without its state.
    pub fn upload(&mut self) {
        if self.uploads.is_empty() || self.chance(40) {
            let Some((who, place)) = self.pick_push() else {
                return;
            };
            self.begin(&who, &place, &[]);
        }
        let (upload, place) = self.uploads[self.random.usize(0..self.uploads.len())].clone();
        let who = match self.pick_allowed(Action::Push, &place) {
            Some(who) if self.random.u8(0..10) < 6 => who,
            _ => self.pick_caller(),
        };
        let target = match self.random.u8(0..8) {
            0..5 => format!("<{upload}>"),
            5 => format!(
                "/v2/<{}>/blobs/uploads/<{upload}.id>?<{upload}.state>",
                place.name
            ),
            6 => {
                let elsewhere = self.pick_place().name;
                format!("/v2/<{elsewhere}>/blobs/uploads/<{upload}.id>?<{upload}.state>")
            }
            _ => format!("/v2/<{}>/blobs/uploads/<{upload}.id>?", place.name),
        };
        let new = self.pick(&["n1", "n2"]).to_owned();
        let digest = if self.chance(60) {
            new.clone()
        } else {
            self.pick_content()
        };
        let content = |part| Body::Content {
            name: new.clone(),
            part,
        };
        let (method, target, body, capture) = match self.random.u8(0..6) {
            0 => ("PATCH", target, content(Some((0, 300))), Some(upload)),
            1 => ("PATCH", target, content(None), Some(upload)),
            2 => (
                "PUT",
                format!("{target}&digest=<{digest}>"),
                content(None),
                None,
            ),
            3 => (
                "PUT",
                format!("{target}&digest=<{digest}>"),
                Body::None,
                None,
            ),
            4 => ("GET", target, Body::None, None),
            _ => ("DELETE", target, Body::None, None),
        };
        let step = Step {
            who: who.clone(),
            method: method.to_owned(),
            target,
            body,
            capture,
            ..Step::default()
        };
        self.push(step);
        if method == "PUT" {
            self.probe(&who, &place, &digest);
        }
    }
}
