//! Whatever the text, reading it ends, in an answer that tells no secret, and what it reads is what another
//! YAML parser reads.

use proptest::prelude::*;

use super::fault::Report;
use super::tests::{EVERYTHING, no_env};
use super::tree::{Node, Value};
use super::{parse, yaml};

/// A good file with a few bytes taken out, put in, or moved.
fn mutated() -> impl Strategy<Value = String> {
    let edit = (
        any::<prop::sample::Index>(),
        0..8_usize,
        "[-a-z:{}\\[\\]\"'#&*!|>%@,?$~0-9 \n\t]{0,4}",
    );
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut bytes = EVERYTHING.as_bytes().to_vec();
        for (place, cut, insert) in edits {
            let start = place.index(bytes.len());
            let end = (start + cut).min(bytes.len());
            bytes.splice(start..end, insert.bytes());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Whatever the text, there is an answer, and every fault of it is in the text, in order.
fn assert_answered(text: &str) -> Result<(), TestCaseError> {
    let Err(faults) = parse(text, "f", &no_env) else {
        return Ok(());
    };
    let places: Vec<_> = faults
        .as_slice()
        .iter()
        .map(|f| (f.line, f.column))
        .collect();
    prop_assert!(!places.is_empty() && places.is_sorted(), "{:?}", places);
    for fault in faults.as_slice() {
        prop_assert!(
            fault.line >= 1 && fault.line <= text.lines().count() + 1,
            "{}",
            fault
        );
        prop_assert!(
            fault.column >= 1 && !fault.message.contains('\n'),
            "{}",
            fault
        );
    }
    Ok(())
}

/// Whether another parser read the same: shapes and keys, and texts where it did not take them for
/// numbers or truth values, which it writes in its own way.
fn is_same(node: &Node, other: &serde_yaml::Value) -> bool {
    match (&node.value, other) {
        // `~` and the like, and our refusals.
        (Value::Absent | Value::Broken, _)
        | (Value::Text(_), serde_yaml::Value::Bool(_) | serde_yaml::Value::Number(_)) => true,
        (Value::Text(text), serde_yaml::Value::String(other)) => text.text == *other,
        (Value::List(items), serde_yaml::Value::Sequence(others)) => {
            items.len() == others.len() && items.iter().zip(others).all(|(a, b)| is_same(a, b))
        }
        (Value::Mapping(entries), serde_yaml::Value::Mapping(others)) => {
            // A key that is not text there (`~:`, `1:`) is one that we know nothing of.
            let is = |key: &str, other: &serde_yaml::Value| {
                !other.is_string() || other.as_str() == Some(key)
            };
            let known = |key: &str| others.iter().find(|(other, _)| is(key, other));
            entries.iter().all(|entry| {
                known(&entry.key).is_some_and(|(_, other)| is_same(&entry.node, other))
            })
        }
        _ => false,
    }
}

/// What we accept without a fault is read alike by the parser that is widely used. Without `$`, since
/// only we expand variables.
fn assert_agreed(text: &str) -> Result<(), TestCaseError> {
    let mut report = Report::new("f");
    let tree = yaml::tree(&format!("{text}\n"), &|_| None, &mut report);
    if report.is_clean()
        && !text.contains('$')
        // They disagree on a block scalar that the file's end cuts off.
        && let Ok(other) = serde_yaml::from_str::<serde_yaml::Value>(&format!("{text}\n"))
    {
        prop_assert!(is_same(&tree, &other), "{:?} and {:?}", tree, other);
    }
    Ok(())
}

#[test]
fn the_shipped_files_are_read_as_another_parser_reads_them() {
    for file in ["conf/roadstead.yaml", "conf/lan.yaml"] {
        let text = std::fs::read_to_string(file).unwrap();
        assert_agreed(&text).unwrap();
    }
    let text = EVERYTHING.replace('$', "");
    let mut report = Report::new("f");
    assert!(matches!(
        yaml::tree(&text, &|_| None, &mut report).value,
        Value::Mapping(_)
    ));
    assert!(report.is_clean());
    assert_agreed(&text).unwrap();
}

proptest! {
    #[test]
    fn another_parser_reads_the_same(text in mutated()) {
        assert_agreed(&text)?;
    }

    #[test]
    fn another_parser_reads_the_same_of_anything(text in "([-a-z:{}\\[\\]\"'#&*!|>%@,?~\n ]|: |- |\n  ){0,40}") {
        assert_agreed(&text)?;
    }

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        assert_answered(&text)?;
    }

    #[test]
    fn anything_like_yaml_is_answered(text in "([-a-z:{}\\[\\]\"'#&*!|>%@,?$~\n\t ]|\\$\\{|: |- |\n  ){0,60}") {
        assert_answered(&text)?;
    }

    #[test]
    fn a_damaged_file_is_answered(text in mutated()) {
        assert_answered(&text)?;
    }

    #[test]
    fn any_value_is_answered(key in "[a-z_]{1,14}", value in any::<String>()) {
        assert_answered(&format!("store: {{{key}: {value:?}}}\nregistries: [{value:?}]"))?;
    }

    #[test]
    fn a_secret_is_never_told(
        secret in "zq[a-z0-9:@/ ${}#]{6}qz",
        key in prop::sample::select(vec!["password", "password_file", "helper", "usrname", "token"]),
        quote in prop::sample::select(vec!["", "'", "\""]),
    ) {
        let text = format!("registries: [{{name: a, credentials: {{password: {quote}{secret}{quote}, {key}: x}}}}]");
        if let Err(faults) = parse(&text, "f", &no_env) {
            let messages = faults.to_string();
            prop_assert!(!messages.contains("zq") && !messages.contains("qz"), "{}", messages);
        }
    }
}

#[test]
fn large_and_deep_files_are_refused_quickly() {
    let deep = "[".repeat(200);
    let deep_blocks: Vec<String> = (0..200).map(|depth| " ".repeat(depth) + "a:").collect();
    let deep_blocks = deep_blocks.join("\n");
    let wide = format!("listen: [{}]", "x,".repeat(30_000));
    let bombs = "a: &a [x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n".to_owned();
    let long = format!("keys: {}", "x".repeat(100_000));
    let nul = "keys: a\n\0b".to_owned();
    for (text, expected) in [
        (deep, "nested more than 32 deep"),
        (deep_blocks, "nested more than 32 deep"),
        (wide, "more than 20000 values"),
        (bombs, "aliases are not supported"),
        (long, "longer than 64KiB"),
        (nul, "f:2:1: a control character"),
    ] {
        let messages = parse(&text, "f", &no_env).unwrap_err().to_string();
        assert!(messages.contains(expected), "{expected}: {messages}");
    }
}
