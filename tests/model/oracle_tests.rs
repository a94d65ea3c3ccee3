//! Tests of the oracle on made-up responses.

use super::bindings::{Bindings, Captures, Symbol};
use super::fault::Fault;
use super::oracle::Model;
use super::request::{Caller, Response};
use super::rules::{Place, Rule};
use super::run::describe;
use super::script::{Script, Step};
use super::wire::RawRequest;
use super::world::Listener;
use testkit::http::{End, Head, Reply};

/// `alice` owns a secret; `bob` may push to `mine` and pull from `team`.
const SCENE: &str = "
rule alice hosted/secret/** pull,push,delete
rule bob hosted/mine/** pull,push
rule bob hosted/team/** pull
rule * hosted/open/** push
content s1 layer 300
content s2 layer 300
content c1 config s1
content c2 config s2
content m1 manifest c1 s1
content m2 manifest c2 s2
content x1 index m2
content i1 image s2
hold hosted secret/a s1 c1 m1 #v1=m1
hold hosted team/a s2 c2 m2
hold v1 secret/b i1
";

struct Scene {
    script: Script,
    bindings: Bindings,
    rules: Vec<Rule>,
}

impl Scene {
    fn new() -> Self {
        let script = Script::parse(SCENE).expect("a script");
        let bindings = Bindings::new(&script, 7);
        let rules = script
            .rules
            .iter()
            .map(|rule| bindings.rule(rule))
            .collect();
        Self {
            script,
            bindings,
            rules,
        }
    }

    fn model(&self) -> Model<'_> {
        Model::new(&self.rules, &self.bindings, &self.script.holdings)
    }

    fn fill(&self, text: &str) -> String {
        let filled = self.bindings.fill(text, &Captures::new(), &[].into());
        filled.expect("its names are known")
    }

    /// Renders the request of a step.
    fn raw(&self, step: &Step) -> RawRequest {
        let headers = step.headers.iter();
        let headers = headers.map(|(name, value)| (name.clone(), self.fill(value)));
        RawRequest {
            method: step.method.clone(),
            target: self.fill(&step.target),
            headers: headers.collect(),
            body: None,
        }
    }

    /// Judges a response to a step, given the registry's own response.
    fn judge(
        &self,
        model: &mut Model<'_>,
        line: &str,
        answer: &Reply,
        truth: Option<&Reply>,
    ) -> Vec<Fault> {
        let step = Step::parse(line).expect("a step");
        let user = Some(step.who.clone())
            .filter(|who| who != "anonymous" && step.listener != Listener::ReadOnly);
        let caller = Caller { user, scopes: None };
        let raw = self.raw(&step);
        let request = describe(&step, &raw, caller);
        let (response, truth) = (Response::new(answer), truth.map(Response::new));
        model.record(&request, response.status);
        model.judge(&request, &response, truth.as_ref())
    }
}

/// A made-up response.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> Reply {
    let headers = headers
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()));
    Reply {
        head: Head {
            status,
            reason: String::new(),
            headers: headers.collect(),
        },
        body: body.into(),
        end: End::Complete,
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn oracle_finds_leaks() {
    let scene = Scene::new();
    let bytes = |name: &str| scene.bindings.item(name).expect("a content").bytes.clone();
    let id = |name: &str| scene.bindings.item(name).expect("a content").id.clone();
    let listed = scene.fill(r#"{"repositories": ["<team/a>", "<secret/a>"]}"#);
    let tags = scene.fill(r#"{"tags": ["<secret/a#v1>"]}"#);
    let ok = |body: Vec<u8>| reply(200, &[], body);
    for (line, answer, expected) in [
        (
            "alice@plain GET /v2/<secret/a>/blobs/<s1>",
            ok(bytes("s1")),
            None,
        ),
        (
            "bob@plain GET /v2/<team/a>/blobs/<s2>",
            ok(bytes("s2")),
            None,
        ),
        (
            "bob@plain GET /v2/<secret/a>/blobs/<s1>",
            reply(403, &[], "no"),
            None,
        ),
        (
            "bob@plain GET /v2/<secret/a>/blobs/<s1>",
            ok(Vec::new()),
            Some("allowed"),
        ),
        // On a read-only listener every caller is anonymous; a prefix and `ns` choose another registry.
        (
            "alice@readonly GET /v2/<secret/a>/blobs/<s1>",
            ok(Vec::new()),
            Some("allowed"),
        ),
        (
            "alice@plain GET /v2/vault/<secret/a>/blobs/<s1>",
            ok(Vec::new()),
            Some("allowed"),
        ),
        (
            "alice@plain GET /v2/<secret/a>/blobs/<s1>?ns=vault",
            ok(Vec::new()),
            Some("allowed"),
        ),
        (
            "bob@plain GET /v1/repositories/<secret/a>/tags",
            ok(b"{}".to_vec()),
            Some("allowed"),
        ),
        (
            "bob@plain GET /v1/images/<i1>/json",
            ok(b"{}".to_vec()),
            Some("allowed"),
        ),
        // Leaks are found in any response; echoes of the request are no leaks.
        (
            "bob@plain GET /v2/<mine/a>/blobs/<s2>",
            reply(404, &[], bytes("s1")),
            Some("bytes of s1"),
        ),
        (
            "bob@plain GET /v2/",
            reply(200, &[("Link", &id("s1"))], ""),
            Some("digest of s1"),
        ),
        (
            "bob@plain GET /v2/<mine/a>/blobs/<s1>",
            reply(404, &[], id("s1")),
            None,
        ),
        (
            "bob@plain GET /v2/_catalog",
            ok(listed.clone().into()),
            Some("name"),
        ),
        (
            "bob@plain GET /v2/",
            ok(tags.into()),
            Some("tag secret/a#v1"),
        ),
        (
            "bob@plain GET /v2/",
            reply(
                404,
                &[("x", &scene.fill("<secret/a>").replace('/', "%2F"))],
                "",
            ),
            Some("name secret/a"),
        ),
        // A repository must not show content without a push by an authorised user.
        (
            "bob@plain GET /v2/<mine/a>/blobs/<s1>",
            ok(Vec::new()),
            Some("no entitled user put s1"),
        ),
        (
            "bob@plain GET /v2/<mine/a>/blobs/<s2>",
            ok(Vec::new()),
            Some("no entitled user put s2"),
        ),
        (
            "bob@plain GET /v2/<team/a>/blobs/<s2>",
            ok(b"other".to_vec()),
            Some("other bytes"),
        ),
        (
            "bob@plain GET /v2/<team/a>/blobs/<s2>",
            reply(206, &[], &bytes("s2")[40..60]),
            None,
        ),
        (
            "bob@plain GET /v2/<team/a>/blobs/<s2>",
            reply(206, &[], "other"),
            Some("other bytes"),
        ),
    ] {
        let found = scene.judge(&mut scene.model(), line, &answer, None);
        let told: Vec<String> = found.iter().map(Fault::to_string).collect();
        match expected {
            None => assert!(found.is_empty(), "{line}: {told:?}"),
            Some(word) => assert!(
                told.iter().any(|fault| fault.contains(word)),
                "{line}: {told:?}"
            ),
        }
    }
}

#[test]
fn a_mount_by_an_entitled_user_adds_a_holding() {
    let scene = Scene::new();
    let mut model = scene.model();
    let own = "bob@plain GET /v2/<mine/a>/blobs/<s2>";
    let secret = "bob@plain GET /v2/<mine/a>/blobs/<s1>";
    let ok = reply(200, &[], "");
    assert_eq!(scene.judge(&mut model, own, &ok, None).len(), 1);
    let mount = "bob@plain POST /v2/<mine/a>/blobs/uploads/?mount=<s2>&from=<team/a>&digest=<s1>";
    let digest = scene.fill("<s2>");
    let mounted = reply(201, &[("Docker-Content-Digest", &digest)], "");
    // A refused mount stores nothing.
    scene.judge(&mut model, mount, &reply(415, &[], ""), None);
    assert_eq!(scene.judge(&mut model, own, &ok, None).len(), 1);
    assert_eq!(scene.judge(&mut model, mount, &mounted, None), []);
    assert_eq!(scene.judge(&mut model, own, &ok, None), []);
    let still = scene.judge(&mut model, secret, &ok, None);
    assert!(
        matches!(still.as_slice(), [Fault::Misplaced(_)]),
        "{still:?}"
    );
}

#[test]
fn reads_are_compared_with_the_registry() {
    let scene = Scene::new();
    let digest = |name: &str| scene.fill(&format!("<{name}>"));
    let manifest = |name: &str| reply(200, &[("Docker-Content-Digest", &digest(name))], "");
    let tag = "alice@plain GET /v2/<secret/a>/manifests/<secret/a#v1>";
    let blob = "alice@plain GET /v2/<secret/a>/blobs/<s1>";
    let (ok, gone) = (reply(200, &[], ""), reply(404, &[], ""));
    for (line, answer, truth, expected) in [
        (blob, &ok, &ok, 0),
        (blob, &ok, &gone, 1),
        (blob, &gone, &ok, 1),
        (blob, &gone, &gone, 0),
        (tag, &manifest("m1"), &manifest("m1"), 0),
        (tag, &manifest("m1"), &manifest("c1"), 1),
    ] {
        let found = scene.judge(&mut scene.model(), line, answer, Some(truth));
        assert_eq!(
            found.len(),
            expected,
            "{line} {answer:?} {truth:?}: {found:?}"
        );
    }
}

#[test]
fn symbols_without_any_right_are_secret() {
    let scene = Scene::new();
    let model = scene.model();
    let content = |name: &str| Symbol::Content {
        name: name.into(),
        part: String::new(),
    };
    let tag = |name: &str| Symbol::Tag {
        name: name.into(),
        tag: "v1".into(),
    };
    for (user, symbol, expected) in [
        (Some("alice"), content("s1"), false),
        (Some("bob"), content("s1"), true),
        (None, content("s2"), true),
        (Some("bob"), content("s2"), false),
        (Some("bob"), Symbol::Name("secret/a".into()), true),
        (Some("bob"), Symbol::Name("mine/a".into()), false),
        (Some("bob"), tag("secret/a"), true),
        (Some("alice"), tag("secret/a"), false),
        // A registry tells a pusher what exists.
        (Some("carol"), Symbol::Name("open/a".into()), false),
    ] {
        assert_eq!(
            model.is_secret(user, &symbol),
            expected,
            "{user:?} {symbol:?}"
        );
    }
}

#[test]
fn image_id_is_no_secret_to_holders_of_the_content() {
    let scene = Scene::new();
    let id = Symbol::Captured {
        name: "k1".into(),
        part: String::new(),
    };
    for (held, content, user, expected) in [
        ("secret/a", Some("m1"), "alice", false),
        ("secret/a", Some("m1"), "bob", true),
        ("secret/a", None, "bob", true),
        // It is converted from content that bob may read elsewhere.
        ("secret/a", Some("m2"), "bob", false),
        ("secret/a", Some("x1"), "bob", false),
        // The parts of an image do not disclose its id.
        ("secret/b", Some("i1"), "bob", true),
    ] {
        let mut model = scene.model();
        let place = Place::new("hosted", &scene.bindings.name(held));
        model.capture_id("k1", &place, content);
        let is_secret = model.is_secret(Some(user), &id);
        assert_eq!(is_secret, expected, "{held} {content:?} {user}");
    }
}
