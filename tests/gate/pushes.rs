//! A gated registry that takes pushes: they pass, and what they push is gated like anything else.

use super::signer::Signer;
use super::*;
use testkit::basic;
use testkit::http::get;
use testkit::image::{Layout, random};
use testkit::real::{Account, Containerd, Member, Missing, Registry, Tool, found};

/// `reader` and `pusher`, both with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n\
                     pusher:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

/// A real registry behind a gateway with a gate.
struct Hosted {
    _registry: Registry,
    gateway: Gateway,
    _users: tempfile::TempDir,
}

impl Hosted {
    fn start(gate: &str) -> Option<Self> {
        let registry = found(Registry::start())?;
        let users = testkit::temp_dir();
        let htpasswd = users.path().join("users");
        std::fs::write(&htpasswd, USERS).expect("writable");
        let gateway = Gateway::start(&format!(
            "registries: [{{name: hosted, v2: \"{}\", push: true, gate: {{{gate}}}}}]\n\
             access:\n  htpasswd: {}\n  rules:\n  \
             - {{users: [pusher], repositories: [\"hosted/**\"], actions: [pull, push, delete]}}\n  \
             - {{users: [reader, anonymous], repositories: [\"hosted/**\"], actions: [pull]}}\n",
            registry.url(),
            htpasswd.display()
        ));
        Some(Self {
            _registry: registry,
            gateway,
            _users: users,
        })
    }

    fn ask(&self, user: &str, method: &str, path: &str) -> Reply {
        let login = basic(user, "s3cret");
        let mut raw = Raw::connect(self.gateway.url(0), Some(&self.gateway.ca_path()));
        raw.exchange(method, path, &[("Authorization", &login)])
    }
}

#[test]
fn clients_push_to_a_gated_registry() {
    let signer = Signer::new();
    let Some(hosted) = Hosted::start(&signer.gate()) else {
        return;
    };
    let (authority, ca) = (hosted.gateway.authority(0), &hosted.gateway.ca_path());
    let boxed = |tool: Result<Tool, Missing>| tool.map(|tool| Box::new(tool) as Box<dyn Member>);
    let containerd = Containerd::member(authority, ca);
    let members = [
        ("skopeo", boxed(Tool::skopeo(authority, ca))),
        ("podman", boxed(Tool::podman(authority, ca))),
        (
            "containerd",
            containerd.map(|it| Box::new(it) as Box<dyn Member>),
        ),
    ];
    let mut layout = Layout::new();
    layout.add_image("first", 1, 10_000);
    layout.add_image("second", 2, 10_000);
    for (client, member) in members {
        let Some(mut member) = found(member) else {
            continue;
        };
        member.be(Some(Account {
            user: "pusher",
            password: "s3cret",
        }));
        let name = format!("team/{client}:1");
        // The second push finds the layers of the first one, and the third its tag: none of them is signed.
        for tag in ["first", "first", "second"] {
            let pushed = member.push(&layout.reference(tag), &name);
            let digest = pushed.unwrap_or_else(|said| panic!("{client}: {said}"));
            let by_digest = format!("/v2/team/{client}/manifests/{digest}");
            for path in [&by_digest, &format!("/v2/team/{client}/manifests/1")] {
                let pulled = hosted.ask("reader", "GET", path);
                let denied = (403, "signed_by".to_owned());
                assert_eq!((pulled.status(), rule(&pulled)), denied, "{path}");
                // A HEAD says the same, but to those who may push: they ask what they need not upload.
                assert_eq!(hosted.ask("reader", "HEAD", path).status(), 403, "{path}");
                assert_eq!(hosted.ask("pusher", "HEAD", path).status(), 404, "{path}");
                assert_eq!(hosted.ask("pusher", "GET", path).status(), 403, "{path}");
            }
        }
        let refused = member.pull(&name).expect_err("it is not signed");
        // containerd asks by a HEAD, and this user may push.
        let is_told = refused.contains("signed_by") || client == "containerd";
        assert!(is_told, "{client}: {refused}");
    }
}

#[test]
fn pushed_image_is_gated_like_any_other() {
    let origin = Origin::start();
    origin.take_pushes();
    let old = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, gate: {{min_age: 3d}}}}]\n\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, push, delete]}}]}}\n",
        origin.url()
    ));
    let pulled = get(gateway.url(1), None, &old.tag_path());
    assert_eq!(digest(&pulled), old.digest);
    // A push through the gateway moves the tag.
    let new = origin.push_image("team/app", "", &[random(2, 1000)]);
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request(
        "PUT",
        &old.tag_path(),
        &[
            ("Content-Type", MEDIA_MANIFEST),
            ("Content-Length", &new.manifest.len().to_string()),
        ],
    );
    raw.send(&new.manifest);
    assert_eq!(raw.reply("PUT").status(), 201);
    let pulled = get(gateway.url(1), None, &old.tag_path());
    assert_eq!((pulled.status(), digest(&pulled)), (200, &*old.digest));
    assert!(pulled.header("warning").is_some(), "{pulled:?}");
    for path in content(&new) {
        assert_eq!(rule(&get(gateway.url(1), None, &path)), "min_age", "{path}");
    }
}

#[test]
fn blob_of_a_denied_repository_is_not_mounted() {
    let origin = Origin::start();
    origin.take_pushes();
    let denied = origin.push_image("team/evil", "1", &[random(1, 1000)]);
    let yaml = |gate: &str| {
        format!(
            "registries: [{{name: hosted, v2: \"{}\", push: true{gate}}}]\n\
             access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, push, delete]}}]}}\n",
            origin.url()
        )
    };
    let mut gateway = Gateway::start(&yaml(""));
    // The gateway knows that the repository has the blob.
    assert_eq!(
        get(gateway.url(1), None, &denied.layer_path(0)).status(),
        200
    );
    gateway.restart_with(&yaml(", gate: {deny: [team/evil]}"));
    let layer = &denied.layer(0).0;
    for from in ["&from=team/evil", ""] {
        let path = format!("/v2/team/app/blobs/uploads/?mount={layer}{from}");
        Raw::connect(gateway.url(1), None).exchange("POST", &path, &[("Content-Length", "0")]);
    }
    let mounts = origin.requests_for("POST", "*");
    let asked: Vec<&str> = mounts.iter().map(|request| &*request.query).collect();
    assert!(
        asked.iter().all(|query| !query.contains("mount=")),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 2);
}
