//! The documents are short and complete, have no dead links, and name existing tests.

mod code;
mod examples;
mod promises;
mod reference;
mod versions;
mod walks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use regex::Regex;

/// The most lines to read in one go.
const ARCHITECTURE_LINES: usize = 150;
const README_LINES: usize = 80;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below `folder` whose name ends with `.extension`, as paths from the repository's root.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path.strip_prefix(root()).expect("below it").to_owned());
            }
        }
    }
    found.sort();
    found
}

/// Every document.
fn documents() -> Vec<PathBuf> {
    let mut found = files("docs", "md");
    found.extend(files("certs", "md"));
    for entry in std::fs::read_dir(root()).expect("a folder") {
        let name = PathBuf::from(entry.expect("an entry").file_name());
        if name.extension().is_some_and(|it| it == "md") {
            found.push(name);
        }
    }
    assert!(found.contains(&PathBuf::from("README.md")));
    found
}

/// A document without its fenced blocks, which contain no links or headings.
fn prose(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().filter(|line| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The anchors of a document's headings: lower case, hyphens for spaces, no punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    let anchor = |heading: &str| -> String {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let retained = heading.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
            _ => None,
        });
        retained.collect()
    };
    headings.map(anchor).collect()
}

/// `a/b/../c` as `a/c`; `None` if it leaves the repository.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::CurDir => {}
            Component::ParentDir if normal.pop() => {}
            _ => return None,
        }
    }
    Some(normal)
}

/// The targets of a document's links, without those on other hosts.
fn links(text: &str) -> Vec<String> {
    let link = Regex::new(r"\]\(([^()\s]+)\)").expect("a pattern");
    let text = prose(text);
    let targets = link.captures_iter(&text).map(|it| it[1].to_owned());
    targets.filter(|it| !it.contains("://")).collect()
}

#[test]
fn architecture_and_readme_are_short() {
    for (path, most) in [
        ("ARCHITECTURE.md", ARCHITECTURE_LINES),
        ("README.md", README_LINES),
    ] {
        let lines = read(path).lines().count();
        assert!(lines <= most, "{path} has {lines} lines, over {most}");
    }
}

#[test]
fn links_lead_to_files_and_headings() {
    let mut checked = 0;
    for document in documents() {
        let text = read(&document);
        for link in links(&text) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = document.parent().expect("a folder");
            let target = if path.is_empty() {
                document.clone()
            } else {
                normal(&folder.join(path))
                    .unwrap_or_else(|| panic!("{}: {link} leads outside", document.display()))
            };
            let place = format!("{}: {link}", document.display());
            assert!(root().join(&target).exists(), "{place} is not there");
            if !anchor.is_empty() {
                assert!(
                    anchors(&read(&target)).contains(anchor),
                    "{place}: no heading"
                );
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links were found");
}

/// Compares the table of crates with their manifests.
#[test]
fn architecture_lists_crates_and_dependencies() {
    let text = read("ARCHITECTURE.md");
    let row = Regex::new(r"(?m)^\| `(\w+)` \| ([^|]*)\|").expect("a pattern");
    let told: BTreeMap<String, BTreeSet<String>> = row
        .captures_iter(&text)
        .map(|it| {
            let uses = it[2].split('`').skip(1).step_by(2).map(ToOwned::to_owned);
            (it[1].to_owned(), uses.collect())
        })
        .collect();
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root().join("crates")).expect("a folder") {
        let name = entry.expect("an entry").file_name();
        let name = name.into_string().expect("UTF-8");
        let manifest = read(format!("crates/{name}/Cargo.toml"));
        let (_, uses) = manifest.split_once("[dependencies]").unwrap_or_default();
        let uses = uses.split("\n[").next().unwrap_or_default();
        let uses = uses
            .lines()
            .filter_map(|line| line.split(['.', ' ']).next());
        let uses: BTreeSet<String> = uses.map(ToOwned::to_owned).collect();
        found.insert(name, uses);
    }
    let crates: BTreeSet<String> = found.keys().cloned().collect();
    for uses in found.values_mut() {
        uses.retain(|it| crates.contains(it));
    }
    assert_eq!(told, found, "told by ARCHITECTURE.md, and found in crates/");
}

#[test]
fn summary_lists_every_page_once() {
    let summary = PathBuf::from("docs/SUMMARY.md");
    let listed = links(&read(&summary));
    let mut listed: Vec<PathBuf> = listed.iter().map(|it| Path::new("docs").join(it)).collect();
    listed.sort();
    let mut pages = files("docs", "md");
    pages.retain(|page| *page != summary);
    assert_eq!(listed, pages);
}
