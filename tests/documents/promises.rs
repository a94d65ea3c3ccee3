//! Every promise in the documents' tables names existing tests.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;

use super::{files, prose, read};

/// The documents whose tables end with a column of tests.
const TABLES: [&str; 2] = ["docs/SEMANTICS.md", "docs/security.md"];

/// The integration tests as `module::name`, as `cargo test` lists them.
fn tests() -> BTreeSet<String> {
    let test = Regex::new(r"#\[(?:tokio::)?test[^\]]*\]\s*(?:#\[[^\]]*\]\s*)*(?:async )?fn (\w+)");
    let test = test.expect("a pattern");
    let mut found = BTreeSet::new();
    for file in files("tests", "rs") {
        let module = file.strip_prefix("tests").expect("below it");
        let module = module.with_extension("");
        let module: Vec<_> = module.iter().map(|it| it.to_string_lossy()).collect();
        let module = module.join("::");
        for name in test.captures_iter(&read(&file)) {
            found.insert(format!("{module}::{}", &name[1]));
        }
    }
    found
}

/// The rows of a document's tables whose last column is headed `Test`, as cells.
fn rows(document: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut promises = false;
    for line in prose(&read(document)).lines() {
        let Some(row) = line.strip_prefix('|').and_then(|it| it.strip_suffix('|')) else {
            promises = false;
            continue;
        };
        let cells: Vec<String> = row.split('|').map(|it| it.trim().to_owned()).collect();
        let last = cells.last().expect("split gives one");
        if last == "Test" {
            promises = true;
        } else if promises && !last.starts_with("--") {
            rows.push(cells);
        }
    }
    rows
}

#[test]
fn promises_name_existing_tests() {
    let tests = tests();
    assert!(tests.contains("documents::promises::promises_name_existing_tests"));
    for document in TABLES {
        let rows = rows(document);
        assert!(rows.len() > 20, "{document} has only {} rows", rows.len());
        for row in rows {
            let cell = row.last().expect("a column");
            let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
            assert!(!named.is_empty(), "{document}: no test holds {row:?}");
            for name in named {
                assert!(tests.contains(name), "{document}: there is no test {name}");
            }
        }
    }
}

#[test]
fn promises_are_single_sentences() {
    for row in rows("docs/SEMANTICS.md") {
        let promise = &row[0];
        let ends = promise.matches(". ").count();
        assert!(promise.ends_with('.') && ends == 0, "{promise}");
    }
}

#[test]
fn decisions_are_listed_with_date_and_status() {
    let list = read("docs/decisions/README.md");
    let day = Regex::new(r"^\d{4}-\d\d-\d\d$").expect("a pattern");
    for file in files("docs/decisions", "md") {
        let name = file.file_name().expect("a name").to_string_lossy();
        let Some((number, _)) = name.split_once('-') else {
            assert_eq!(file, Path::new("docs/decisions/README.md"));
            continue;
        };
        let text = read(&file);
        let mut lines = text.lines();
        let title = lines.next().and_then(|it| it.strip_prefix("# "));
        let title = title.expect("a title");
        let number: u32 = number.parse().expect("a number");
        assert!(title.starts_with(&format!("{number}. ")), "{name}: {title}");
        assert!(list.contains(&format!("[{title}]({name})")), "{name}");
        let status = lines.nth(1).and_then(|it| it.split_once(" · "));
        let (date, status) = status.expect("a date and a status");
        assert!(day.is_match(date), "{name}");
        assert!(
            status == "accepted" || status.starts_with("superseded by "),
            "{name}"
        );
    }
}
