//! The rules against sources that break them, and sources that do not.

use crate::source::Source;
use crate::{LONGEST, faults};

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn the_rules_see_what_they_forbid() {
    let long = "\n".repeat(LONGEST + 1);
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "src/spec/a.rs",
            "use crate::store::Store;",
            &["src/spec/a.rs:1: spec uses store"],
        ),
        (
            "src/spec/a.rs",
            "\nuse crate::telemetry;",
            &["src/spec/a.rs:2: spec uses telemetry"],
        ),
        (
            "src/spec/a.rs",
            "use crate::spec::b; use super::c; use std::fmt;",
            &[],
        ),
        (
            "src/store/a.rs",
            "use crate::{spec::x, upstream::{y, z}};",
            &["store uses upstream", "store uses upstream"],
        ),
        (
            "src/store/a.rs",
            "use crate::{\n    spec,\n    access as who,\n};",
            &["src/store/a.rs:3: store uses access"],
        ),
        (
            "src/store/a.rs",
            "use super::super::mirror::X;",
            &["store uses mirror"],
        ),
        (
            "src/store/a.rs",
            "use super::{b, super::gateway};",
            &["store uses gateway"],
        ),
        (
            "src/store/mod.rs",
            "use super::mirror;",
            &["store uses mirror"],
        ),
        ("src/store/mod.rs", "use self::blobs::Blobs;", &[]),
        (
            "src/store/a.rs",
            "mod tests { use super::super::b; use super::super::super::cli; }",
            &["store uses cli"],
        ),
        (
            "src/store/a.rs",
            "mod t { } use super::super::cli;",
            &["store uses cli"],
        ),
        (
            "src/access/a.rs",
            "fn f() { crate::mirror::g::<T>(); }",
            &["access uses mirror"],
        ),
        (
            "src/access/a.rs",
            "pub(crate) fn f() {} pub(super) fn g() {}",
            &[],
        ),
        (
            "src/access/a.rs",
            "// use crate::mirror;\n/* crate::mirror */ const A: &str = \"crate::mirror\";",
            &[],
        ),
        (
            "src/access/a.rs",
            "const A: &str = r#\"\"crate::mirror\"#; const B: char = '\"'; const C: &str = \"\\\"\";",
            &[],
        ),
        (
            "src/access/a.rs",
            "fn f<'a>(x: &'a str) { crate::mirror::g(x, '\\'') }",
            &["access uses mirror"],
        ),
        (
            "src/mirror/a.rs",
            "use crate::{access, spec, store, telemetry, upstream};",
            &[],
        ),
        (
            "src/mirror/a.rs",
            "use crate::config::Config;",
            &["mirror uses config"],
        ),
        (
            "src/gateway/a.rs",
            "use crate::store::Store;",
            &["gateway uses store"],
        ),
        (
            "src/gateway/a.rs",
            "use crate::config::Config;",
            &["gateway uses config"],
        ),
        ("src/gateway/a.rs", "use crate::*;", &["gateway uses *"]),
        (
            "src/main.rs",
            "fn main() { roadstead::serve::serve() }",
            &["main uses serve"],
        ),
        (
            "src/attic/a.rs",
            "",
            &["src/attic/a.rs:1: attic has no floor"],
        ),
        (
            "src/mirror/a.rs",
            "use pingora::Error;",
            &["mirror/a.rs:1: pingora here"],
        ),
        (
            "src/store/a.rs",
            "#[cfg(test)]\nmod t { fn f() { x.unwrap() } }\nfn g() { y.unwrap() }",
            &["src/store/a.rs:3: .unwrap() here"],
        ),
        ("src/store/a.rs", "x.unwrap_or(1); y.expect(\"why\");", &[]),
        (
            "src/cli.rs",
            "std::fs::read(x)",
            &["src/cli.rs:1: fs:: here"],
        ),
        ("src/mirror/fill.rs", "use std::fs::File;", &[]),
        (
            "src/mirror/fill.rs",
            "use std::fs::File; fn f() { std::fs::read(x) }",
            &["it opens files"],
        ),
        ("src/serve.rs", "println!(\"x\")", &["println! here"]),
        (
            "src/store/a.rs",
            "#[test]\n#[ignore = \"slow\"]\nfn f() {}",
            &["src/store/a.rs:2: an ignored test"],
        ),
        ("src/store/a.rs", &long, &["longer than 680 lines"]),
    ];
    for (path, text, expected) in cases {
        let told = faults(&[Source::parse(path, text)]);
        let right = told.len() == expected.len()
            && told
                .iter()
                .zip(*expected)
                .all(|(told, words)| told.contains(words));
        assert!(right, "{path}: {text}\n{told:#?}, not {expected:#?}");
    }
    let whole = [
        Source::parse("src/store/mod.rs", "#[cfg(test)]\nmod trial;"),
        Source::parse("src/store/trial.rs", "fn f() { x.unwrap() }"),
    ];
    assert_eq!(faults(&whole), Vec::<String>::new());
}
