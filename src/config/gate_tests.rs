use super::super::tests::{assert_faults, typed};
use super::*;

#[test]
fn gates_are_typed() {
    let config = typed(&format!(
        "registries: [{{name: docker.io, gate: {{mode: report, allow: [\"library/**\", \"team/app:1.*\"], \
         deny: [\"**:*-rc*\"], min_age: 3d, pins: {{\"library/alpine:3.20\": \"sha256:{}\"}}, \
         platforms: [linux/amd64], signed_by: [conf/cosign.pub]}}}}]",
        "a".repeat(64)
    ));
    let config = config.expect("a configuration");
    let gate = config.registries[0].gate.as_ref().expect("a gate");
    assert_eq!(gate.mode, Mode::Report);
    let patterns = |patterns: &[ImagePattern]| -> Vec<String> {
        patterns.iter().map(ToString::to_string).collect()
    };
    let allow = gate.allow.as_deref().expect("patterns");
    assert_eq!(patterns(allow), ["library/**", "team/app:1.*"]);
    assert_eq!(patterns(&gate.deny), ["**:*-rc*"]);
    assert_eq!(gate.min_age, Some(Duration::from_secs(3 * 86_400)));
    assert_eq!(gate.pins[0].tag.as_str(), "3.20");
    assert_eq!(gate.platforms.as_ref().map(Vec::len), Some(1));
    assert_eq!(gate.signed_by, [Path::new("conf/cosign.pub")]);
    let none = typed("registries: [{name: docker.io, gate: off}]").expect("a configuration");
    assert!(none.registries[0].gate.is_none());
}

#[test]
fn faults_of_gates() {
    let gate = |keys: &str| format!("registries: [{{name: docker.io, gate: {{{keys}}}}}]");
    let cases = [
        (
            gate("mode: on"),
            &[r#"1:45: "on" is not a mode; write enforce or report"#][..],
        ),
        (
            gate("allow: []"),
            &[r#"1:46: allow is empty; write `allow: ["library/**"]`"#],
        ),
        (
            gate(
                "allow: [nginx, \"docker.io/library/**\", \"a//b\", \"library/x:a/b\", \"library/x@sha256:0\"]",
            ),
            &[
                r#"1:47: "nginx" never matches; write library/nginx"#,
                r#"1:54: "docker.io/library/**" begins with the registry; write library/**"#,
                r#"1:78: "a//b" is not a pattern of names; write a-z, 0-9, `.`, `_`, `-` and `*` between slashes"#,
                r#"1:86: "library/x:a/b" is not a pattern of tags; write letters, digits, `.`, `_`, `-` and `*`"#,
                r#"1:103: "…@sha256:0" names a digest; write a repository or repository:tag, or pins"#,
            ],
        ),
        (
            gate("deny: [\"nginx:latest\"]"),
            &[r#"1:46: "nginx:latest" never matches; write library/nginx:latest"#],
        ),
        (
            gate("min_age: 0s"),
            &[r#"1:48: "0s" is no time at all; write 1s or longer"#],
        ),
        (
            gate("min_age: 31d"),
            &[
                "1:48: min_age is longer than unused_ttl, after which an unused tag is forgotten; write a shorter min_age, or a longer unused_ttl",
            ],
        ),
        (
            gate("pins: {\"library/alpine\": \"sha256:0\", \"library/a:b\": x, \"library/a:c\": }"),
            &[
                r#"1:46: "library/alpine" is not a tag of a repository; write repository:tag, as in library/alpine:3.20"#,
                r#"1:64: "sha256:0" is not a digest; write sha256: and 64 hexadecimal digits"#,
                r#"1:91: "x" is not a digest; write sha256: and 64 hexadecimal digits"#,
                r#"1:94: has no digest; write "sha256:…" after it"#,
            ],
        ),
        (
            gate("pins: [a]"),
            &[
                "1:45: expected tags with digests here, not a list; write {\"library/alpine:3.20\": \"sha256:…\"}",
            ],
        ),
        (
            gate("platforms: [linux, all]"),
            &[
                r#"1:51: "linux" is not a platform; write os/architecture, as in linux/amd64 or linux/arm/v7"#,
                r#"1:58: "all" is not a platform; write os/architecture, as in linux/amd64 or linux/arm/v7"#,
            ],
        ),
        (
            gate("signed_by: []"),
            &["1:50: signed_by is empty; write `signed_by: [conf/cosign.pub]`"],
        ),
        (
            gate("mode: report"),
            &[
                "warning: 1:38: a gate without rules denies nothing; write allow, deny or another rule",
            ],
        ),
        (
            "registries: [{name: a, cache: false, v1: \"http://h\", gate: {min_age: 1d}}]"
                .to_owned(),
            &[
                "1:60: a gate needs the cache: without it content passes unseen; write cache: true, or remove gate",
                "1:60: a gate cannot hold for v1, whose images have no digests; give v1 a registry of its own, or remove gate",
            ],
        ),
        (
            gate(&format!(
                "deny: [\"library/a\"], pins: {{\"library/a:b\": \"sha256:{}\"}}",
                "a".repeat(64)
            )),
            &[
                r#"warning: 1:67: "library/a:b" is denied by "library/a", which takes precedence; remove one of them"#,
            ],
        ),
    ];
    for (text, expected) in &cases {
        assert_faults(&[(text, expected)]);
    }
}

#[test]
fn key_files_are_checked() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path.display().to_string()
    };
    let good = file(
        "good",
        "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8ct7ce7LVAls+haIHnO/RylHLr4g
5awHgs/42G2IouCeTCQFGnOHA7kihrCYdNivusU7Xyz/FBQgQeP+flWPtg==
-----END PUBLIC KEY-----",
    );
    let broken = file("broken", "nonsense");
    let absent = dir.path().join("absent").display().to_string();
    let load_with = |keys: &[&str]| {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("        - \"{key}\"\n"))
            .collect();
        let text = format!(
            "keys: {}\nlisten: [{{address: \":0\", tls: off}}]\n\
             registries:\n  - name: docker.io\n    gate:\n      signed_by:\n{}",
            dir.path().join("keys").display(),
            keys.concat()
        );
        let path = dir.path().join("f.yaml");
        std::fs::write(&path, text).expect("writable");
        super::super::load(Some(&path), super::super::NamedFiles::Checked)
    };
    let faults = load_with(&[&good, &broken])
        .expect_err("a fault")
        .to_string();
    let unusable = "broken has no PEM block PUBLIC KEY; write the file that cosign generate-key-pair calls cosign.pub";
    assert!(
        faults.contains("f.yaml:8:11: ") && faults.ends_with(unusable),
        "{faults}"
    );
    let config = load_with(&[&good, &absent]).expect("a warning only");
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    let unreadable =
        "absent cannot be read: there is no such file; the gateway will not start without it";
    let [warning] = &*warnings else {
        panic!("{warnings:?}");
    };
    assert!(
        warning.contains("f.yaml:8:11: ") && warning.ends_with(unreadable),
        "{warning}"
    );
}
