//! Source paths that the documents name exist.

use regex::Regex;

use super::{documents, read, root};

#[test]
fn code_paths_exist() {
    let path = r"`((?:crates|src|tests|scripts|fuzz|conf|docs|certs|\.github)/[\w/.-]+)`";
    let path = Regex::new(path).expect("a pattern");
    let mut checked = 0;
    for document in documents() {
        // Configured files are not in the repository; decisions name the paths of their day.
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
