//! `stats`, `purge` and `verify`: asking the running gateway, and printing what it says.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::ask::{AskError, Desk};
use super::show;
use crate::admin::{PurgeAsked, PurgeReport, Stats, VerifyLine};
use crate::config::Config;

pub fn stats(config: &Config) -> ExitCode {
    answered(
        Desk::of(config).and_then(|desk| desk.get::<Stats>("/api/stats")),
        |stats| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            show::stats(&stats, now.unwrap_or_default().as_secs())
        },
    )
}

pub fn purge(config: &Config, target: String, dry_run: bool) -> ExitCode {
    let asked = PurgeAsked { target, dry_run };
    let report = Desk::of(config).and_then(|desk| desk.post::<PurgeReport>("/api/purge", &asked));
    answered(report, |report| show::purge(&report))
}

/// Fails where something is damaged or cannot be read.
pub fn verify(config: &Config) -> ExitCode {
    let mut screen = Screen::new();
    let mut last = VerifyLine::default();
    let outcome = Desk::of(config).and_then(|desk| {
        desk.follow("/api/verify", |line| {
            screen.show(&line);
            last = line;
        })
    });
    screen.end();
    let outcome = outcome.and_then(|()| {
        let cut = || AskError::BrokenOff("the verification goes on, unheard".into());
        last.done.take().ok_or_else(cut)
    });
    let good = outcome.as_ref().is_ok_and(|end| end.damaged.is_empty());
    let code = answered(outcome, |end| show::verified(&last, &end));
    if code == ExitCode::SUCCESS && !good {
        ExitCode::FAILURE
    } else {
        code
    }
}

/// Prints an answer, or why there is none.
fn answered<A>(answer: Result<A, AskError>, show: impl FnOnce(A) -> String) -> ExitCode {
    match answer {
        Ok(answer) => match io::stdout().write_all(show(answer).as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            // Who pipes into `head` knows.
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("roadstead: {}", crate::telemetry::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

/// The progress on standard error: a bar that is drawn over where that is a terminal, else a line for every
/// tenth.
struct Screen {
    terminal: bool,
    tenth: Option<u64>,
    drawn: usize,
}

impl Screen {
    fn new() -> Self {
        Self {
            terminal: io::stderr().is_terminal(),
            tenth: None,
            drawn: 0,
        }
    }

    fn show(&mut self, line: &VerifyLine) {
        let text = show::progress(line, self.terminal);
        let mut stderr = io::stderr();
        if self.terminal {
            let _ = write!(stderr, "\r{text:<drawn$}", drawn = self.drawn);
            self.drawn = text.len();
            return;
        }
        let tenth = (line.bytes * 10).checked_div(line.of_bytes).unwrap_or(10);
        if self.tenth.is_none_or(|told| tenth > told) || line.done.is_some() {
            self.tenth = Some(tenth);
            let _ = writeln!(stderr, "{text}");
        }
    }

    fn end(&mut self) {
        if self.drawn > 0 {
            let _ = writeln!(io::stderr());
        }
    }
}
