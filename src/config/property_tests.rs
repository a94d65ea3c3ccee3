//! Whatever the text, reading it ends, in an answer that tells no secret.

use proptest::prelude::*;

use super::parse;
use super::tests::{EVERYTHING, no_env};

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

proptest! {
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
            let told = faults.to_string();
            prop_assert!(!told.contains("zq") && !told.contains("qz"), "{}", told);
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
        let told = parse(&text, "f", &no_env).unwrap_err().to_string();
        assert!(told.contains(expected), "{expected}: {told}");
    }
}
