//! What the documents say about the code: paths exist, and the walks of ARCHITECTURE.md name functions that are there.

use regex::Regex;

use super::{documents, read, root};

/// The most functions of ours that a cached blob goes through.
const CACHED: usize = 12;

/// The list below a heading of ARCHITECTURE.md: files and functions, in order.
fn walk(heading: &str) -> Vec<(String, String)> {
    let text = read("ARCHITECTURE.md");
    let (_, section) = text.split_once(heading).expect("a heading");
    let section = section.split("\n## ").next().unwrap_or_default();
    let step = Regex::new(r"(?m)^- `([\w/]+\.rs)` — `(\w+)`").expect("a pattern");
    let steps = step.captures_iter(section);
    steps
        .map(|it| (it[1].to_owned(), it[2].to_owned()))
        .collect()
}

#[test]
fn the_walks_name_functions_that_are_there() {
    let cached = walk("## A cached blob GET\n");
    assert!((5..=CACHED).contains(&cached.len()), "{cached:?}");
    let cold = walk("## A cold blob GET\n");
    assert!(cold.len() >= 5, "{cold:?}");
    for (path, name) in cached.into_iter().chain(cold) {
        let function = Regex::new(&format!(r"\bfn {name}\b")).expect("a pattern");
        assert!(
            function.is_match(&read(&path)),
            "{path} has no function {name}"
        );
    }
}

#[test]
fn paths_of_code_exist() {
    let path = r"`((?:crates|src|tests|scripts|fuzz|conf|docs|certs|\.github)/[\w/.-]+)`";
    let path = Regex::new(path).expect("a pattern");
    let mut checked = 0;
    for document in documents() {
        // What is configured lies beside the program, not in the repository; decisions speak of their day.
        if document.starts_with("docs/decisions") {
            continue;
        }
        for it in path.captures_iter(&read(&document)) {
            let made = ["conf/htpasswd"];
            if made.contains(&&it[1]) {
                continue;
            }
            let place = format!("{}: {}", document.display(), &it[1]);
            assert!(root().join(&it[1]).exists(), "{place} is not there");
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} were found");
}
