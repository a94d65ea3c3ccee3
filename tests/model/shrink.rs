//! Shrinks a script that fails to one of which nothing can be taken away.

use std::ops::Range;

use super::script::Script;

/// Parts of a script that can be taken away by themselves.
#[derive(Clone, Copy)]
enum Part {
    Holdings,
    Steps,
    Rules,
    /// A content that a repository holds, its tags, a header.
    Details,
}

/// A script that fails as `script` does, as short as can be found. `first` says which of some scripts is the
/// first to fail so.
pub fn shrink(mut script: Script, mut first: impl FnMut(&[Script]) -> Option<usize>) -> Script {
    loop {
        let before = script.clone();
        for part in [Part::Holdings, Part::Steps, Part::Rules, Part::Details] {
            script = reduce(script, part, &mut first);
        }
        let mut tidy = script.clone();
        drop_unused(&mut tidy);
        if first(std::slice::from_ref(&tidy)).is_some() {
            script = tidy;
        }
        if script == before {
            return script;
        }
    }
}

/// Takes parts away, halves at first and single ones in the end.
fn reduce(
    mut script: Script,
    part: Part,
    first: &mut impl FnMut(&[Script]) -> Option<usize>,
) -> Script {
    let mut size = count(&script, part).div_ceil(2);
    while size > 0 {
        let mut from = 0;
        loop {
            let count = count(&script, part);
            let starts = (from..count).step_by(size);
            let candidates = starts.map(|at| without(&script, part, at..(at + size).min(count)));
            let mut candidates: Vec<Script> = candidates.collect();
            let Some(found) = first(&candidates) else {
                break;
            };
            script = candidates.swap_remove(found);
            from += found * size;
        }
        size = if size == 1 { 0 } else { size.div_ceil(2) };
    }
    script
}

fn count(script: &Script, part: Part) -> usize {
    match part {
        Part::Holdings => script.holdings.len(),
        Part::Steps => script.steps.len(),
        Part::Rules => script.rules.len(),
        Part::Details => {
            let holdings = script.holdings.iter();
            let contents = holdings.map(|it| it.contents.len() + usize::from(!it.tags.is_empty()));
            let headers = script.steps.iter().map(|step| step.headers.len());
            contents.chain(headers).sum()
        }
    }
}

fn without(script: &Script, part: Part, range: Range<usize>) -> Script {
    let mut script = script.clone();
    match part {
        Part::Holdings => drop(script.holdings.drain(range)),
        Part::Steps => drop(script.steps.drain(range)),
        Part::Rules => drop(script.rules.drain(range)),
        Part::Details => {
            let mut at = 0;
            let mut is_taken = || {
                at += 1;
                range.contains(&(at - 1))
            };
            for holding in &mut script.holdings {
                holding.contents.retain(|_| !is_taken());
                if !holding.tags.is_empty() && is_taken() {
                    holding.tags.clear();
                }
            }
            for step in &mut script.steps {
                step.headers.retain(|_| !is_taken());
            }
        }
    }
    script
}

/// Takes out contents that nothing refers to.
fn drop_unused(script: &mut Script) {
    loop {
        let text = script.to_string();
        let uses = |name: &str| {
            let words = text.split(|letter: char| !letter.is_ascii_alphanumeric());
            words.filter(|word| *word == name).count()
        };
        let before = script.contents.len();
        script.contents.retain(|content| uses(&content.name) > 1);
        if script.contents.len() == before {
            return;
        }
    }
}
