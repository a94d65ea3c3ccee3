//! `stats`, `purge`, `warm`, `verify`, `reload` and `upgrade`: requests to the running gateway, and their output.

use std::io::{self, Write as _};
use std::process::ExitCode;

use super::admin_client::{AdminClient, AdminClientError};
use super::progress::{self, ProgressDisplay};
use super::show;
use crate::admin::{
    self, Configuration, Overview, Page, PurgeReport, PurgeRequest, RegistryState, Upgraded,
    VerifyLine, WarmLine, WarmRequest,
};
use crate::config::Config;
use oci::platform::{Platform, Platforms};

/// The exit code for a wrong command line.
pub(super) const USAGE: u8 = 2;

pub fn stats(config: &Config) -> ExitCode {
    let stats = AdminClient::of(config).and_then(|client| {
        let overview = client.get::<Overview>("/api/v1/overview")?;
        let path = "/api/v1/registries?limit=500";
        let registries = client.get::<Page<RegistryState>>(path)?.items;
        Ok((overview, registries))
    });
    print_result(stats, |(overview, registries)| {
        show::stats(&overview, &registries)
    })
}

pub fn purge(config: &Config, request: &PurgeRequest) -> ExitCode {
    let report = AdminClient::of(config)
        .and_then(|client| client.post::<PurgeReport>("/api/v1/purge", request));
    print_result(report, |report| show::purge(&report))
}

/// Exits 78 if the configuration cannot be applied.
pub fn reload(config: &Config) -> ExitCode {
    let reloaded = AdminClient::of(config)
        .and_then(|client| client.post::<Configuration>("/api/v1/reload", &serde_json::json!({})));
    print_result(reloaded, |configuration| {
        let path = configuration.path.as_deref();
        format!("reloaded {}\n", path.unwrap_or("the built-in defaults"))
    })
}

/// Exits 1 if the new process cannot take over.
pub fn upgrade(config: &Config) -> ExitCode {
    let upgraded = AdminClient::of(config)
        .and_then(|client| client.post::<Upgraded>("/api/v1/upgrade", &serde_json::json!({})));
    print_result(upgraded, |upgraded| {
        format!("upgraded: process {} serves now\n", upgraded.process)
    })
}

/// Exits 1 if a blob is damaged or cannot be read.
pub fn verify(config: &Config) -> ExitCode {
    let mut display = ProgressDisplay::new();
    let mut last = VerifyLine::default();
    let outcome = AdminClient::of(config).and_then(|client| {
        client.follow(
            "/api/v1/verify",
            &serde_json::json!({}),
            |line: VerifyLine| {
                let tenth = (line.bytes * 10)
                    .checked_div(line.bytes_total)
                    .unwrap_or(10);
                let has_news = line.done.is_some();
                display.show(tenth, has_news, |style| progress::verify_line(&line, style));
                last = line;
            },
        )
    });
    display.end();
    let outcome = outcome.and_then(|()| {
        let cut = || AdminClientError::Incomplete("the verification continues".into());
        last.done.take().ok_or_else(cut)
    });
    let is_undamaged = outcome.as_ref().is_ok_and(|end| end.damaged.is_empty());
    let code = print_result(outcome, |end| show::verified(&last, &end));
    if code == ExitCode::SUCCESS && !is_undamaged {
        ExitCode::FAILURE
    } else {
        code
    }
}

/// Exits 1 if an image is not stored completely. The other images are fetched all the same.
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
        Err(error) => return print_result(Err::<(), _>(error), |()| String::new()),
    };
    let platform = platform.unwrap_or_else(|| Platforms::Only(Platform::host()));
    let (mut complete, mut fetched) = (0, 0);
    for image in images {
        match warm_one(&client, image, &platform) {
            Ok(line) => {
                complete += usize::from(line.done.as_ref().is_some_and(|end| end.error.is_none()));
                fetched += line.fetched_bytes;
            }
            // The next image would fail the same way.
            Err(error @ AdminClientError::NotRunning { .. }) => {
                return print_result(Err::<(), _>(error), |()| String::new());
            }
            Err(error) => eprintln!("roadstead: {image}: {}", telemetry::chain(&error)),
        }
    }
    if images.len() > 1 {
        print_result(Ok((complete, fetched)), |(complete, fetched)| {
            show::all_warmed(complete, images.len(), fetched)
        });
    }
    if complete == images.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Warms one image, and shows the progress and the result. Returns the last line of the response.
fn warm_one(
    client: &AdminClient,
    image: &str,
    platform: &Platforms,
) -> Result<WarmLine, AdminClientError> {
    let request = WarmRequest {
        image: image.to_owned(),
        platform: Some(platform.to_string()),
    };
    let mut display = ProgressDisplay::new();
    let mut last = WarmLine::default();
    let outcome = client.follow("/api/v1/warm", &request, |line: WarmLine| {
        let has_news = line.done.is_some() || line.waits_because != last.waits_because;
        display.show(progress::warm_percent(&line) / 10, has_news, |style| {
            progress::warm_line(image, &line, style)
        });
        last = line;
    });
    display.end();
    outcome?;
    match &last.done {
        None => {
            return Err(AdminClientError::Incomplete(
                "downloads in flight continue".into(),
            ));
        }
        Some(end) => match &end.error {
            Some(error) => eprintln!("roadstead: {image}: {error}"),
            None => {
                print_result(Ok(&last), |line| show::warmed(image, line));
            }
        },
    }
    Ok(last)
}

/// Prints a response, or the error.
pub fn print_result<A>(
    answer: Result<A, AdminClientError>,
    show: impl FnOnce(A) -> String,
) -> ExitCode {
    match answer {
        Ok(answer) => match io::stdout().write_all(show(answer).as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            // The reader, such as `head`, has closed the pipe.
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            eprintln!("roadstead: {}", telemetry::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}
