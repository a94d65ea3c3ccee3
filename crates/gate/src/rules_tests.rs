use super::*;
use oci::digest::Algorithm;
use oci::name::Registry;

fn digest(n: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[n])
}

fn name(repository: &str) -> RepositoryName {
    let repository = repository.parse().expect("a name");
    RepositoryName::new(&Registry::new("docker.io"), &repository)
}

fn tag(text: &str) -> Tag {
    text.parse().expect("a tag")
}

fn patterns(list: &[&str]) -> Vec<ImagePattern> {
    let parse = |text: &&str| ImagePattern::parse(text).expect("a pattern");
    list.iter().map(parse).collect()
}

fn gate(allow: Option<&[&str]>, deny: &[&str]) -> Gate {
    Gate::new(Settings {
        allow: allow.map(patterns),
        deny: patterns(deny),
        pins: vec![TagPin {
            repository: "library/pinned".parse().expect("a name"),
            tag: tag("1"),
            digest: digest(1),
        }],
        ..Settings::default()
    })
}

#[test]
fn names_are_allowed_and_denied() {
    let everything = gate(None, &[]);
    let library = gate(Some(&["library/**"]), &["library/evil"]);
    let tags = gate(Some(&["library/app:1.*"]), &["**:*-rc*"]);
    for (gate, repository, asked, repository_rule, tag_rule) in [
        (&everything, "a/b", "x", None, None),
        (&library, "library/app", "x", None, None),
        (
            &library,
            "team/app",
            "x",
            Some(Rule::Allow),
            Some(Rule::Allow),
        ),
        (
            &library,
            "library/evil",
            "x",
            Some(Rule::Deny),
            Some(Rule::Deny),
        ),
        (&tags, "library/app", "1.2", None, None),
        (&tags, "library/app", "1.2-rc1", None, Some(Rule::Deny)),
        (&tags, "library/app", "2.0", None, Some(Rule::Allow)),
        (
            &tags,
            "library/other",
            "1.2",
            Some(Rule::Allow),
            Some(Rule::Allow),
        ),
        // A pin stands for an allowance of its tag.
        (&tags, "library/pinned", "1", None, None),
        (&tags, "library/pinned", "2", None, Some(Rule::Allow)),
    ] {
        let (name, asked) = (name(repository), tag(asked));
        let on_repository = gate.repository(&name).err().map(|denial| denial.rule);
        assert_eq!(on_repository, repository_rule, "{name}");
        let on_tag = gate.tag(&name, &asked).err().map(|denial| denial.rule);
        assert_eq!(on_tag, tag_rule, "{name}:{asked}");
        assert_eq!(
            gate.lists(&name, &asked),
            tag_rule.is_none(),
            "{name}:{asked}"
        );
    }
}

#[test]
fn denials_beat_pins_and_pins_beat_the_rest() {
    let pinned = name("library/pinned");
    let plain = gate(Some(&["team/**"]), &[]);
    assert_eq!(
        plain.tag(&pinned, &tag("1")),
        Ok(TagRule::Pinned(digest(1)))
    );
    let unknown = ManifestFacts::default();
    assert_eq!(
        plain.on_root(&pinned, &digest(1), &unknown),
        Verdict::Served
    );
    let denied = Verdict::Denied(Rule::Allow);
    assert_eq!(plain.on_root(&pinned, &digest(2), &unknown), denied);
    for deny in ["library/pinned:1", "library/pinned"] {
        let gate = gate(None, &[deny]);
        let rule = gate.tag(&pinned, &tag("1")).err().map(|denial| denial.rule);
        assert_eq!(rule, Some(Rule::Deny));
        let denied = Verdict::Denied(Rule::Deny);
        assert_eq!(gate.on_root(&pinned, &digest(1), &unknown), denied);
    }
    // In a repository with pins, a digest that no tag has led to is not served.
    let only_pins = gate(None, &[]);
    let denied = Verdict::Denied(Rule::Pins);
    assert_eq!(only_pins.on_root(&pinned, &digest(2), &unknown), denied);
    assert!(!only_pins.judges_content(&"library/other".parse().expect("a name")));
}

#[test]
fn companions_of_digests() {
    let subject = digest(7);
    let companion = oci::cosign::signature_tag(&subject).expect("a tag");
    let referrers = tag(&companion.as_str().replace(".sig", ""));
    let tags = gate(Some(&["library/app:1.*"]), &["library/app:*.att"]);
    let app = name("library/app");
    for companion in [&companion, &referrers] {
        let rule = tags.tag(&app, companion);
        assert_eq!(rule, Ok(TagRule::CompanionOf(subject)), "{companion}");
        assert!(!tags.lists(&app, companion));
    }
    let attestation = tag(&companion.as_str().replace(".sig", ".att"));
    assert!(tags.tag(&app, &attestation).is_err());
    assert!(tags.tag(&name("library/other"), &companion).is_err());
    assert_eq!(gate(None, &[]).tag(&app, &companion), Ok(TagRule::Allowed));
}

#[test]
fn content_is_judged_by_its_facts() {
    let app = name("library/app");
    let platform = |text: &str| text.parse().expect("a platform");
    let image = |text: &str| Some(ContentKind::Image(platform(text)));
    let key = PublicKey::parse(
        b"-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8ct7ce7LVAls+haIHnO/RylHLr4g
5awHgs/42G2IouCeTCQFGnOHA7kihrCYdNivusU7Xyz/FBQgQeP+flWPtg==
-----END PUBLIC KEY-----",
    )
    .expect("a key");
    let min_age = Settings {
        min_age: Some(Duration::from_secs(60)),
        ..Settings::default()
    };
    let tags = Settings {
        allow: Some(patterns(&["library/app:1.*"])),
        ..Settings::default()
    };
    let platforms = Settings {
        platforms: Some(vec![platform("linux/amd64"), platform("linux/arm64")]),
        ..Settings::default()
    };
    let signed = Settings {
        signed_by: vec![key.clone()],
        ..Settings::default()
    };
    let facts = ManifestFacts::default;
    let tagged = |text: &str| ManifestFacts {
        tags: vec![tag(text)],
        ..facts()
    };
    let moved = |at| ManifestFacts {
        moved_at: Some(at),
        ..facts()
    };
    let of_kind = |content: Option<ContentKind>| ManifestFacts { content, ..facts() };
    let by = |fingerprint| ManifestFacts {
        signed_by: vec![fingerprint],
        ..facts()
    };
    let (served, denied) = (Verdict::Served, Verdict::Denied);
    for (settings, facts, root, child) in [
        (&min_age, facts(), denied(Rule::MinAge), served),
        (&min_age, tagged("x"), served, served),
        (
            &min_age,
            moved(941),
            denied(Rule::MinAge),
            denied(Rule::MinAge),
        ),
        (&min_age, moved(940), denied(Rule::MinAge), served),
        (
            &min_age,
            moved(2000),
            denied(Rule::MinAge),
            denied(Rule::MinAge),
        ),
        (&tags, facts(), denied(Rule::Allow), served),
        (&tags, tagged("2.0"), denied(Rule::Allow), served),
        (&tags, tagged("1.0"), served, served),
        (&platforms, facts(), Verdict::Examine, Verdict::Examine),
        (&platforms, of_kind(image("linux/amd64")), served, served),
        (&platforms, of_kind(image("linux/arm64/v8")), served, served),
        (
            &platforms,
            of_kind(image("windows/amd64")),
            denied(Rule::Platforms),
            denied(Rule::Platforms),
        ),
        (
            &platforms,
            of_kind(Some(ContentKind::Index)),
            served,
            served,
        ),
        (
            &platforms,
            of_kind(Some(ContentKind::Artifact)),
            served,
            served,
        ),
        (
            &platforms,
            of_kind(Some(ContentKind::Unknown)),
            denied(Rule::Platforms),
            served,
        ),
        (&signed, facts(), Verdict::Verify, served),
        (&signed, by(digest(1)), Verdict::Verify, served),
        (&signed, by(key.fingerprint()), served, served),
    ] {
        let gate = Gate::new(settings.clone());
        assert!(gate.judges_content(&app.repository));
        assert_eq!(
            gate.on_root(&app, &digest(1), &facts),
            root,
            "{settings:?} {facts:?}"
        );
        assert_eq!(
            gate.on_child(&app, &digest(1), &facts, 1000),
            child,
            "{settings:?} {facts:?}"
        );
    }
    let names = gate(Some(&["library/**"]), &["library/evil"]);
    assert!(!names.judges_content(&app.repository));
}
