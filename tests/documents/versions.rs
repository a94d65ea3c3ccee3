//! Versions that appear in several files are the same everywhere.

use regex::Regex;

use super::{read, root};

/// The only match of `pattern` in a file.
#[track_caller]
fn the(pattern: &str, path: &str) -> String {
    let pattern = Regex::new(pattern).expect("a pattern");
    let text = read(path);
    let found = pattern.captures(&text);
    let found = found.unwrap_or_else(|| panic!("{path} has no {pattern}"));
    found[1].to_owned()
}

#[test]
fn supported_rust_version_is_consistent() {
    let supported = the(r#"(?m)^rust-version = "(\d+\.\d+)"$"#, "Cargo.toml");
    assert_eq!(the(r#"(?m)^msrv = "(.*)"$"#, "clippy.toml"), supported);
    let tested = the(
        r"(?m)^ +RUST_SUPPORTED: '(.*)'$",
        ".github/workflows/ci.yml",
    );
    assert_eq!(tested, supported);
    assert_eq!(
        the(r"Rust (\d+\.\d+) or newer", "CONTRIBUTING.md"),
        supported
    );
}

/// No dependency needs a newer Rust than the supported one.
#[test]
fn supported_rust_version_suffices_for_dependencies() {
    let supported = the(r#"(?m)^rust-version = "(\d+\.\d+)"$"#, "Cargo.toml");
    let number = |version: &str| -> Vec<u32> {
        let parts = version
            .split('.')
            .map(|part| part.parse().expect("a number"));
        parts.take(2).collect()
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = std::process::Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version=1"])
        .arg("--filter-platform=x86_64-unknown-linux-gnu")
        .current_dir(root())
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{output:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 100, "{} packages", packages.len());
    for package in packages {
        let needed = package["rust_version"].as_str().unwrap_or("1.0");
        let name = &package["name"];
        assert!(
            number(needed) <= number(&supported),
            "{name} needs {needed}"
        );
    }
}

/// Unreleased changes come first, then every release with its date, the newest being this version.
#[test]
fn changelog_has_this_version() {
    let version = the(r#"(?m)^version = "(.*)"$"#, "Cargo.toml");
    let changelog = read("CHANGELOG.md");
    let headings: Vec<&str> = changelog
        .lines()
        .filter_map(|it| it.strip_prefix("## "))
        .collect();
    assert_eq!(headings[0], "[Unreleased]");
    let release = Regex::new(r"^\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$").expect("a pattern");
    let releases: Vec<String> = headings[1..]
        .iter()
        .map(|it| release.captures(it).unwrap_or_else(|| panic!("{it}"))[1].to_owned())
        .collect();
    assert_eq!(releases.first(), Some(&version));
    let kinds = [
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    ];
    for kind in changelog.lines().filter_map(|it| it.strip_prefix("### ")) {
        assert!(kinds.contains(&kind), "{kind}");
    }
}
