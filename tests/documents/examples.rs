//! The documents' examples work: every configuration passes `check`, every make target and every command exists.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

use testkit::temp_dir;

use super::{documents, files, read};

/// A fenced block of a document.
struct Block {
    language: String,
    text: String,
    /// Its position, for messages.
    place: String,
}

fn blocks(document: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in read(document).lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                open = Some(Block {
                    language: language.to_owned(),
                    text: String::new(),
                    place: format!("{}:{}", document.display(), number + 1),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

fn all_blocks(language: &str) -> Vec<Block> {
    let blocks = documents().into_iter().flat_map(|it| blocks(&it));
    blocks.filter(|it| it.language == language).collect()
}

/// Checked with every file that it names in place.
#[test]
fn configurations_pass_check() {
    let blocks = all_blocks("yaml");
    assert!(blocks.len() > 5, "only {} were found", blocks.len());
    for block in blocks {
        let dir = temp_dir();
        std::fs::create_dir(dir.path().join("conf")).expect("a folder");
        let account = "docker-deployer:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";
        std::fs::write(dir.path().join("conf/htpasswd"), account).expect("writable");
        let key = "-----BEGIN PUBLIC KEY-----\n\
             MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8ct7ce7LVAls+haIHnO/RylHLr4g\n\
             5awHgs/42G2IouCeTCQFGnOHA7kihrCYdNivusU7Xyz/FBQgQeP+flWPtg==\n\
             -----END PUBLIC KEY-----\n";
        std::fs::write(dir.path().join("conf/cosign.pub"), key).expect("writable");
        std::fs::write(dir.path().join("f.yaml"), &block.text).expect("writable");
        let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"));
        check
            .args(["check", "-c", "f.yaml"])
            .current_dir(dir.path());
        check.env_clear();
        let output = check.output().expect("the program");
        let messages = String::from_utf8_lossy(&output.stderr);
        if cfg!(not(feature = "v1")) && block.text.contains(" v1: ") {
            let refused = messages.contains("was built without v1");
            assert!(refused, "{}: {messages}", block.place);
            continue;
        }
        assert!(output.status.success(), "{}: {messages}", block.place);
    }
}

#[test]
fn json_examples_parse() {
    let blocks = all_blocks("json");
    assert!(!blocks.is_empty());
    for block in blocks {
        let parsed: Result<serde_json::Value, _> = serde_json::from_str(&block.text);
        assert!(parsed.is_ok(), "{}: {parsed:?}", block.place);
    }
}

#[test]
fn make_targets_exist() {
    let makefile = read("Makefile");
    let target = Regex::new(r"(?m)^([a-z-]+):").expect("a pattern");
    let targets: BTreeSet<String> = target
        .captures_iter(&makefile)
        .map(|it| it[1].to_owned())
        .collect();
    let named = Regex::new(r"`make ([a-z-]+)`|(?m)^(?:.*run: )?make ([a-z-]+)").expect("a pattern");
    let mut checked = 0;
    let mut documents = documents();
    documents.extend(files(".github", "yml"));
    for document in documents {
        for it in named.captures_iter(&read(&document)) {
            let name = it.get(1).or(it.get(2)).expect("one of them").as_str();
            assert!(
                targets.contains(name),
                "{}: make {name}",
                document.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} were found");
}

#[test]
fn commands_are_documented() {
    let help = std::process::Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .arg("--help")
        .output()
        .expect("the program");
    let help = String::from_utf8(help.stdout).expect("UTF-8");
    let (_, commands) = help.split_once("Commands:\n").expect("commands");
    let names = commands.lines().take_while(|it| !it.is_empty());
    let names = names.filter_map(|it| it.split_whitespace().next());
    let page = read("docs/operations.md");
    for name in names.filter(|it| *it != "help") {
        assert!(page.contains(&format!("`roadstead {name}")), "{name}");
    }
}
