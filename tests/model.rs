//! Checks the gateway against a model of access rights: random sequences of pushes, mounts, uploads, deletes and
//! reads over both APIs, by five users with random rules, in front of real registries. A fault is any byte, status
//! or name in a response that the rules and the registries alone would not show the caller.
//!
//! The short form runs a fixed number of sequences. `ROADSTEAD_MODEL_SECONDS` runs for so long instead, from a
//! random seed; `ROADSTEAD_MODEL_SEED` sets the seed; `ROADSTEAD_MODEL_SCRIPT` replays one file. A failing sequence
//! is shrunk and printed as a script (`script.rs`); scripts of fixed leaks are in `scripts`.

mod bindings;
mod fault;
mod generate;
mod hold;
mod hostile;
mod knowledge;
mod oracle;
mod oracle_tests;
mod pulls;
mod pushes;
mod request;
mod route;
mod rules;
mod run;
mod script;
mod setup;
mod shrink;
mod tests;
mod twin;
mod wire;
mod world;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bindings::Bindings;
use fault::Fault;
use rules::Rule;
use run::{Failure, Tally, run};
use script::Script;
use testkit::real::{Missing, found};
use world::{V1_IS_BUILT, World};

/// The number of sequences in the short form.
const SEQUENCES: u64 = 40;
/// The number of sequences that share a world.
const BATCH: u64 = 20;
/// Events that must occur at least once in ten sequences: what never happens is not tested.
const EXPECTED: [&str; 8] = [
    "v2 reads that succeed",
    "v1 reads that succeed",
    "writes that succeed",
    "mounts that succeed",
    "refused for rights",
    "not found",
    "sent with decoys",
    "verified at the registry",
];

/// A script with the values for one run.
struct Bound {
    script: Script,
    bindings: Bindings,
}

impl Bound {
    /// Binds a script to values that no other run has, so that no cache can hold them.
    fn new(script: Script) -> Self {
        let bindings = Bindings::new(&script, fastrand::u64(..));
        Self { script, bindings }
    }
}

/// Runs scripts in a new world up to the first relevant fault.
fn run_all(
    scripts: &[Bound],
    tally: &mut Tally,
    is_relevant: impl Fn(&Fault) -> bool,
) -> Result<Option<(usize, Failure)>, Missing> {
    let rules = |Bound { script, bindings }: &Bound| -> Vec<Rule> {
        script
            .rules
            .iter()
            .map(|rule| bindings.rule(rule))
            .collect()
    };
    let rules: Vec<Rule> = scripts.iter().flat_map(rules).collect();
    let world = World::start(&rules)?;
    for (number, Bound { script, bindings }) in scripts.iter().enumerate() {
        let failure = run(&world, &rules, script, bindings, tally);
        if let Some(failure) = failure.filter(|failure| is_relevant(&failure.fault)) {
            return Ok(Some((number, failure)));
        }
    }
    Ok(None)
}

/// Shrinks a failing script, saves it to a file, and describes the fault.
fn report(script: &Script, failure: &Failure, seed: u64) -> String {
    let run_all = |scripts: Vec<Script>| {
        let scripts: Vec<Bound> = scripts.into_iter().map(Bound::new).collect();
        let same = |fault: &Fault| fault.is_like(&failure.fault);
        run_all(&scripts, &mut Tally::new(), same).expect("the registries are installed")
    };
    let mut script = script.clone();
    script.steps.truncate(failure.step + 1);
    let shrunk = shrink::shrink(script, |candidates| Some(run_all(candidates.to_vec())?.0));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("model");
    let path = folder.join(format!("{seed}.txt"));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(&path, shrunk.to_string()).expect("writable");
    let (note, exchange) = match run_all(vec![shrunk.clone()]) {
        Some((_, again)) => (again.fault.to_string(), again.exchange),
        None => (
            format!("{}; not reproduced in a world of its own", failure.fault),
            failure.exchange.clone(),
        ),
    };
    let path = path.display();
    format!("seed {seed}: {note}\n\n{shrunk}\n{exchange}\n\nreplay: ROADSTEAD_MODEL_SCRIPT={path}")
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{name} must be a whole number, not {text:?}")))
}

/// The scripts to replay: the one named by the environment, else all regression scripts.
fn script_paths() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("ROADSTEAD_MODEL_SCRIPT") {
        return vec![path.into()];
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/scripts");
    let entries = std::fs::read_dir(folder).expect("the folder of scripts");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    assert!(!paths.is_empty(), "no regression scripts");
    paths
}

#[test]
fn scripts_of_fixed_leaks_find_no_fault() {
    for path in script_paths() {
        let path_text = path.display();
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path_text}: {error}"));
        let script = Script::parse(&text).unwrap_or_else(|error| panic!("{path_text}: {error:?}"));
        let needs_v1 = script.holdings.iter().any(|held| held.registry == "v1");
        if needs_v1 && !V1_IS_BUILT {
            continue;
        }
        let steps = script.steps.clone();
        let mut tally = Tally::new();
        let Some(failed) = found(run_all(&[Bound::new(script)], &mut tally, |_| true)) else {
            return;
        };
        if let Some((
            _,
            Failure {
                step,
                fault,
                exchange,
            },
        )) = failed
        {
            panic!("{path_text}: {fault}\n{}\n\n{exchange}", steps[step]);
        }
        let sent = tally.get("steps").copied().unwrap_or_default();
        assert!(sent > 0, "{path_text}: nothing was sent; {tally:?}");
    }
}

#[test]
fn no_caller_sees_beyond_the_rules() {
    if std::env::var_os("ROADSTEAD_MODEL_SCRIPT").is_some() {
        return;
    }
    let length = number("ROADSTEAD_MODEL_SECONDS").map(Duration::from_secs);
    let default = length.map_or(1, |_| u64::from(fastrand::u32(..)));
    let seed = number("ROADSTEAD_MODEL_SEED").unwrap_or(default);
    println!("ROADSTEAD_MODEL_SEED={seed}");
    let started = Instant::now();
    let mut tally = Tally::new();
    let mut done = 0;
    while length.map_or(done < SEQUENCES, |length| started.elapsed() < length) {
        let seeds = seed + done..seed + done + BATCH;
        let scripts: Vec<Bound> = seeds.map(generate::script).map(Bound::new).collect();
        let Some(failed) = found(run_all(&scripts, &mut tally, |_| true)) else {
            return;
        };
        if let Some((number, failure)) = failed {
            let seed = seed + done + number as u64;
            let script = &scripts[number].script;
            println!("seed {seed} fails after {:?}", started.elapsed());
            println!("{}: {}", script.steps[failure.step], failure.fault);
            println!("{}\n\nshrinking", failure.exchange);
            panic!("{}", report(script, &failure, seed));
        }
        done += BATCH;
    }
    println!("{done} sequences in {:?}: {tally:#?}", started.elapsed());
    assert_eq!(tally.get("no valid start"), None, "{tally:?}");
    let expected = EXPECTED
        .iter()
        .filter(|event| V1_IS_BUILT || **event != "v1 reads that succeed");
    for event in expected {
        let count = tally.get(event).copied().unwrap_or_default();
        assert!(
            count >= done / 10,
            "{event}: {count} in {done} sequences; {tally:#?}"
        );
    }
}
