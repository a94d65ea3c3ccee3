//! What the contract has and this build has not: set to anything but what is said here to be fine,
//! it is a fault, so that nobody relies on what does not happen. To build it is to delete its line.

use super::fault::{Report, either};
use super::tree::{Node, Value};

/// Keys and the values that may be written all the same, since nothing depends on them. `[]` goes
/// through the items of a list.
const NOT_YET: &[(&str, Fine)] = &[("store.bucket", Fine::Words(&["off"]))];

#[derive(Clone, Copy)]
enum Fine {
    /// `off` and `false` are one word.
    Words(&'static [&'static str]),
}

/// Notes every key that is set to something that is not built.
pub(super) fn refuse(tree: &Node, report: &mut Report) {
    for (path, fine) in NOT_YET {
        refuse_at(tree, path, path, *fine, report);
    }
}

/// Goes down `rest`, what is left of `path` below `node`.
fn refuse_at(node: &Node, rest: &str, path: &str, fine: Fine, report: &mut Report) {
    let (step, below) = rest.split_once('.').unwrap_or((rest, ""));
    if let Some(list) = step.strip_suffix("[]") {
        for item in node.entry(list).map_or(&[][..], |entry| entry.node.items()) {
            refuse_at(item, below, path, fine, report);
        }
        return;
    }
    let Some(entry) = node.entry(step) else {
        return;
    };
    if !below.is_empty() {
        return refuse_at(&entry.node, below, path, fine, report);
    }
    let Fine::Words(words) = fine;
    let is_fine = |word: &&str| {
        entry.node.text() == Some(word) || (matches!(*word, "off" | "false") && entry.node.is_off())
    };
    if words.iter().any(is_fine) || matches!(entry.node.value, Value::Broken) {
        return;
    }
    let or_write = match words {
        [] => String::new(),
        words => format!(" or write {}", either(words)),
    };
    let message = format!("not yet: {path} is not built; leave it out{or_write}");
    report.fault(entry.key_at, message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    fn told(text: &str) -> String {
        let mut report = Report::new("f");
        let tree = yaml::tree(text, &|_| None, &mut report);
        refuse(&tree, &mut report);
        match report.verdict(crate::config::read(&tree, &mut Report::new("f"))) {
            Ok(_) => String::new(),
            Err(faults) => faults.to_string(),
        }
    }

    /// Writes the keys of a path around a value: `admin: {address: value}`.
    fn written(path: &str, value: &str) -> String {
        let (step, below) = path.split_once('.').unwrap_or((path, ""));
        let inner = if below.is_empty() {
            value.to_owned()
        } else {
            format!("{{{}}}", written(below, value))
        };
        match step.strip_suffix("[]") {
            Some(list) => format!("{list}: [{inner}]"),
            None => format!("{step}: {inner}"),
        }
    }

    #[test]
    fn every_line_of_the_table_refuses_and_lets_pass() {
        for (path, fine) in NOT_YET {
            let refused = told(&written(path, "something"));
            let start = format!("not yet: {path} is not built; leave it out");
            assert!(refused.contains(&start), "{path}: {refused:?}");
            assert_eq!(told(&written(path, "~")), "", "{path}");
            let Fine::Words(words) = fine;
            for word in *words {
                assert_eq!(
                    told(&written(path, &format!("{word:?}"))),
                    "",
                    "{path}: {word}"
                );
            }
        }
    }

    #[test]
    fn off_is_false_and_places_are_those_of_keys() {
        for (text, expected) in [
            ("store: {bucket: false, scrub_every: off}", ""),
            ("registries: [{name: a, push: off, bridge: true}]", ""),
            (
                "registries: [{name: a, credentials: {}, visibility: public}]",
                "",
            ),
            (
                "store:\n  bucket: {}",
                "f:2:3: not yet: store.bucket is not built; leave it out or write off",
            ),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }
}
