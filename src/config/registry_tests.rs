//! What is said against registries.

use crate::config::tests::assert_faults;

#[test]
fn faults_of_registries() {
    assert_faults(&[
        (
            "registries: docker.io",
            &[
                "1:13: expected a list here, not a single value; write [a, b] or lines that begin with -",
            ],
        ),
        (
            "registries: []",
            &["1:13: registries is empty; write `registries: [docker.io]`"],
        ),
        (
            "registries: [registry-1.docker.io]",
            &[r#"1:14: "registry-1.docker.io" is another name of docker.io; write docker.io"#],
        ),
        (
            "registries: [https://ghcr.io]",
            &[
                r#"1:14: "https://ghcr.io" is a URL; write the host alone as the name, and the URL as v2"#,
            ],
        ),
        (
            "registries: [ghcr.io/team]",
            &[
                r#"1:14: "ghcr.io/team" is not a registry's name; write a host or a word, such as ghcr.io"#,
            ],
        ),
        (
            "registries: [[ghcr.io]]",
            &["1:14: expected keys and values here, not a list; write `name: …`"],
        ),
        (
            "registries: [~]",
            &["1:14: name is missing here; write `name: ghcr.io`"],
        ),
        (
            r#"registries: [{v2: "http://h"}]"#,
            &["1:14: name is missing here; write `name: ghcr.io`"],
        ),
        (
            r#"registries: [{name: a, hosts: ["http://x", [h]], auth_hosts: h}]"#,
            &[
                r#"1:32: "http://x" is not a host; write a name or address, such as registry.example.com"#,
                "1:44: expected a single value here, not a list; write one word, in quotes if need be",
                "1:62: expected a list here, not a single value; write [a, b] or lines that begin with -",
            ],
        ),
        (
            r#"registries: [{name: a, owns: ["Team/**", "a**", "app:latest", "a//b"]}]"#,
            &[
                r#"1:31: "Team/**" is not a pattern of names; write a-z, 0-9, `.`, `_`, `-` and `*` between slashes"#,
                r#"1:42: "a**" mixes ** with letters; write ** alone between slashes"#,
                r#"1:49: "app:latest" names a tag or digest; write the repository alone"#,
                r#"1:63: "a//b" is not a pattern of names; write a-z, 0-9, `.`, `_`, `-` and `*` between slashes"#,
            ],
        ),
        (
            "registries: [{name: a, visibility: private}]",
            &[r#"1:36: "private" is not a visibility; write public, rules or caller"#],
        ),
        (
            "registries: [{name: a, push: maybe, cache: 1, default: on, bridge: no}]",
            &[
                r#"1:30: "maybe" is neither true nor false; write one of them"#,
                r#"1:44: "1" is neither true nor false; write one of them"#,
                r#"1:56: "on" is neither true nor false; write one of them"#,
                r#"1:68: "no" is neither true nor false; write one of them"#,
            ],
        ),
        (
            r#"registries: [{name: a, v1: "h:5000"}]"#,
            &[r#"1:28: "h:5000" is not a URL; write http://host:port or https://host"#],
        ),
        (
            r#"registries: [{name: a, v2: "https://me:hunter2@h"}]"#,
            &[r#"1:28: "…@h" holds a user or password; write them under credentials"#],
        ),
        (
            r#"registries: [{name: a, v2: "https://h/v2/"}]"#,
            &[
                r#"1:28: "https://h/v2/" has a path, and paths are not supported yet; write scheme, host and port only"#,
            ],
        ),
        (
            r#"registries: [{name: a, v2: "https://h?token=hunter2"}]"#,
            &[r#"1:28: "https://h?…" holds a query or fragment; write scheme, host and port only"#],
        ),
        (
            r#"registries: [{name: a, v2: "https://h:0"}]"#,
            &[
                r#"1:28: "https://h:0" has no usable host and port; write http://host:port or https://host"#,
            ],
        ),
        (
            r#"registries: [{name: a, tag_ttl: "${SECRET}", unused_ttl: soon}]"#,
            &[
                r#"1:33: "${SECRET}" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m"#,
                r#"1:58: "soon" is not a duration; write a whole number and ms, s, m, h, d or w, such as 30s or 1h30m, or off"#,
            ],
        ),
    ]);
}
