//! The walks of ARCHITECTURE.md: the functions exist and are called, and a cached GET takes few steps.

use super::{files, read};

use regex::Regex;

/// The most steps of a cached GET: functions that decide something.
const STEPS: usize = 12;

/// A function in a walk.
#[derive(Debug)]
struct Step {
    file: String,
    name: String,
}

impl Step {
    /// Its crate.
    fn home(&self) -> &str {
        self.file.split('/').nth(1).expect("crates/NAME/src/FILE")
    }
}

fn walk(heading: &str) -> Vec<Step> {
    let text = read("ARCHITECTURE.md");
    let (_, after) = text
        .split_once(&format!("\n## {heading}\n"))
        .expect("a walk");
    let section = after.split("\n## ").next().expect("a section");
    let step = Regex::new(r"(?m)^- `(crates/[^`]+)` — `(\w+)`").expect("a pattern");
    let steps = step.captures_iter(section).map(|found| Step {
        file: found[1].to_owned(),
        name: found[2].to_owned(),
    });
    steps.collect()
}

#[test]
fn walk_steps_exist_and_are_called() {
    for heading in ["A cached blob GET", "A cold blob GET"] {
        let steps = walk(heading);
        assert!(steps.len() > 3, "{heading}: {steps:?}");
        let mut passed = vec!["gateway", "mirror"];
        for step in &steps {
            let defined = Regex::new(&format!(r"\bfn {}\b", step.name)).expect("a pattern");
            assert!(
                defined.is_match(&read(&step.file)),
                "{heading}: no {step:?}"
            );
            passed.push(step.home());
            let called = Regex::new(&format!(r"[.:]{}\(", step.name)).expect("a pattern");
            let calls = passed.iter().any(|home| {
                let files = files(&format!("crates/{home}/src"), "rs");
                files.iter().any(|file| called.is_match(&read(file)))
            });
            assert!(calls, "{heading}: nothing on the way calls {step:?}");
        }
    }
}

#[test]
fn cached_get_takes_few_steps() {
    let steps = walk("A cached blob GET");
    assert!(steps.len() <= STEPS, "{}: {steps:?}", steps.len());
}
