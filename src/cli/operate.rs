//! `stats`, `purge`, `warm` and `verify`: asking the running gateway, and printing what it says.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use super::ask::{AdminClient, AskError};
use super::show;
use crate::admin::{self, PurgeAsked, PurgeReport, Stats, VerifyLine, WarmAsked, WarmLine};
use crate::config::Config;
use oci::platform::{Platform, Platforms};

/// What a wrong command line exits with.
const USAGE: u8 = 2;

pub fn stats(config: &Config) -> ExitCode {
    answered(
        AdminClient::of(config).and_then(|client| client.get::<Stats>("/api/stats")),
        |stats| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            show::stats(&stats, now.unwrap_or_default().as_secs())
        },
    )
}

pub fn purge(config: &Config, target: String, dry_run: bool) -> ExitCode {
    let asked = PurgeAsked { target, dry_run };
    let report =
        AdminClient::of(config).and_then(|client| client.post::<PurgeReport>("/api/purge", &asked));
    answered(report, |report| show::purge(&report))
}

/// Fails where something is damaged or cannot be read.
pub fn verify(config: &Config) -> ExitCode {
    let mut screen = Screen::new();
    let mut last = VerifyLine::default();
    let outcome = AdminClient::of(config).and_then(|client| {
        client.follow("/api/verify", &serde_json::json!({}), |line: VerifyLine| {
            let tenth = (line.bytes * 10).checked_div(line.of_bytes).unwrap_or(10);
            let news = line.done.is_some();
            screen.show(tenth, news, |bar| show::progress(&line, bar));
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

/// Fails where an image is not all here in the end; the others are.
pub fn warm(config: &Config, images: &[String], platform: Option<Platforms>) -> ExitCode {
    let resolver = config.resolver();
    for image in images {
        if let Err(error) = admin::image(image, &resolver) {
            eprintln!("roadstead: {error}");
            return ExitCode::from(USAGE);
        }
    }
    let client = match AdminClient::of(config) {
        Ok(client) => client,
        Err(error) => return answered(Err::<(), _>(error), |()| String::new()),
    };
    let platform = platform.unwrap_or_else(|| Platforms::Only(Platform::host()));
    let (mut here, mut fetched) = (0, 0);
    for image in images {
        match warm_one(&client, image, &platform) {
            Ok(line) => {
                here += usize::from(line.done.as_ref().is_some_and(|end| end.error.is_none()));
                fetched += line.fetched;
            }
            // Nobody would hear of the next either.
            Err(error @ AskError::NotRunning { .. }) => {
                return answered(Err::<(), _>(error), |()| String::new());
            }
            Err(error) => eprintln!("roadstead: {image}: {}", telemetry::chain(&error)),
        }
    }
    if images.len() > 1 {
        answered(Ok((here, fetched)), |(here, fetched)| {
            show::all_warmed(here, images.len(), fetched)
        });
    }
    if here == images.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Has one image pulled, shows how it goes and what it came to; the last line of the answer.
fn warm_one(client: &AdminClient, image: &str, platform: &Platforms) -> Result<WarmLine, AskError> {
    let asked = WarmAsked {
        image: image.to_owned(),
        platform: Some(platform.to_string()),
    };
    let mut screen = Screen::new();
    let mut last = WarmLine::default();
    let outcome = client.follow("/api/warm", &asked, |line: WarmLine| {
        let news = line.done.is_some() || line.waits != last.waits;
        screen.show(show::warm_share(&line) / 10, news, |bar| {
            show::warming(image, &line, bar)
        });
        last = line;
    });
    screen.end();
    outcome?;
    match &last.done {
        None => {
            return Err(AskError::BrokenOff(
                "what is under way there goes on, unheard".into(),
            ));
        }
        Some(end) => match &end.error {
            Some(error) => eprintln!("roadstead: {image}: {error}"),
            None => {
                answered(Ok(&last), |line| show::warmed(image, line));
            }
        },
    }
    Ok(last)
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
            eprintln!("roadstead: {}", telemetry::chain(&error));
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

    /// `news` are told whatever the tenth is.
    fn show(&mut self, tenth: u64, news: bool, render: impl Fn(bool) -> String) {
        let text = render(self.terminal);
        let mut stderr = io::stderr();
        if self.terminal {
            let _ = write!(stderr, "\r{text:<drawn$}", drawn = self.drawn);
            self.drawn = text.len();
            return;
        }
        if self.tenth.is_none_or(|told| tenth > told) || news {
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
