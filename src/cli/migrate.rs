//! `roadstead migrate`: pushes the images of a registry's v1 side to its v2 side, beside the running gateway.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::progress::{self, ProgressDisplay, ProgressStyle};
use super::show::{counted, percent, size};
use crate::config::{Config, record_extensions};
use oci::name::{Registry, Repository, Tag};
use store::{Store, warn_degraded};
use upstream::Upstream;
use v1::{MigrationLine, MigrationOutcome, MigrationReport, Selection};

/// The arguments of the command.
#[derive(Args, Debug)]
pub struct MigrateArguments {
    /// The registry of the configuration, which has v1 and v2.
    #[arg(long, value_name = "NAME")]
    registry: String,
    /// The folder of what was converted and is not pushed yet. By default it is beside the store.
    #[arg(long, value_name = "FOLDER")]
    work: Option<PathBuf>,
    /// What to migrate. By default all that the v1 side's search finds.
    #[arg(value_name = "REPOSITORY[:TAG]", value_parser = image)]
    images: Vec<(Repository, Option<Tag>)>,
}

fn image(text: &str) -> Result<(Repository, Option<Tag>), String> {
    let (repository, tag) = match text.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(tag)),
        None => (text, None),
    };
    let repository = repository.parse();
    let repository = repository.map_err(|error: oci::name::NameError| error.to_string())?;
    let tag = tag.map(str::parse).transpose();
    let tag = tag.map_err(|error: oci::name::TagError| error.to_string())?;
    Ok((repository, tag))
}

/// Why nothing is migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("the configuration has no registry {0} with v1 and v2")]
    NoSides(String),
    #[error("another migration is running: {source}")]
    Locked { source: store::OpenError },
    #[error(transparent)]
    Store(store::OpenError),
    #[error("{0}")]
    Configuration(String),
    #[error(transparent)]
    Migration(#[from] v1::MigrationError),
    #[error("system error: {0}")]
    System(#[from] io::Error),
}

impl MigrateError {
    /// The exit code: 78 (`EX_CONFIG`) for the configuration, else 1.
    const fn exit_code(&self) -> u8 {
        match self {
            Self::NoSides(_)
            | Self::Configuration(_)
            | Self::Migration(v1::MigrationError::NotBridged(_)) => 78,
            _ => 1,
        }
    }
}

/// Exits 1 if an image was not migrated.
pub fn run(config: &Config, arguments: &MigrateArguments) -> ExitCode {
    let default = default_work(&config.store.path);
    let work = arguments.work.as_deref().unwrap_or(&default);
    match migrate(config, arguments, work) {
        Ok(report) => {
            print!("{}", summary(&report));
            if report.failed == 0 {
                forget_layers(work);
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("roadstead: {}", telemetry::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn migrate(
    config: &Config,
    arguments: &MigrateArguments,
    work: &Path,
) -> Result<MigrationReport, MigrateError> {
    let configuration =
        |error: &dyn std::error::Error| MigrateError::Configuration(telemetry::chain(error));
    let name = Registry::new(&arguments.registry);
    let mirror = config
        .mirror_settings()
        .map_err(|error| configuration(&error))?;
    let origin = mirror
        .origins
        .into_iter()
        .find(|origin| origin.registry == name);
    let v2 = origin.and_then(|origin| origin.upstream);
    let v2 = v2.ok_or_else(|| MigrateError::NoSides(arguments.registry.clone()))?;
    let v1 = config
        .v1_settings()
        .map_err(|error| configuration(&error))?;
    telemetry::start(config.log.format, tracing::Level::ERROR);
    let settings = store::Settings {
        path: work.to_owned(),
        unused_ttl: None,
        unused_ttls: Vec::new(),
        scrub_every: None,
        ..config.store_settings()
    };
    let store = Store::open(&settings, &record_extensions()).map_err(|error| match error {
        source @ store::OpenError::Locked { .. } => MigrateError::Locked { source },
        error => MigrateError::Store(error),
    })?;
    store.scan();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let contents = mirror::Contents::new(
        Arc::new(store),
        config.limits.fills,
        runtime.handle().clone(),
        None,
    );
    let mut display = ProgressDisplay::new();
    let mut tell = |line: MigrationLine<'_>| tell(&mut display, line);
    let selection = if arguments.images.is_empty() {
        Selection::All
    } else {
        Selection::Only(arguments.images.clone())
    };
    let migrating = async {
        let v2 = Upstream::new(v2).map_err(|error| configuration(&error))?;
        let registries =
            v1::Registries::new(v1, contents).map_err(|error| configuration(&error))?;
        let migrated = registries.migrate(&name, &v2, &selection, &mut tell).await;
        Ok(migrated?)
    };
    let report = runtime.block_on(migrating);
    display.end();
    report
}

/// `var/store.migrate` of `var/store`.
fn default_work(store: &Path) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_os_string();
    name.push(".migrate");
    store.with_file_name(name)
}

/// Deletes the layers. What is known of them stays, so that the next migration reads none of them again.
fn forget_layers(work: &Path) {
    match std::fs::remove_dir_all(work.join("blobs")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn_degraded("the layers of the migration cannot be deleted", &error);
        }
        _ => {}
    }
}

fn tell(display: &mut ProgressDisplay, line: MigrationLine<'_>) {
    match line {
        MigrationLine::Progress(report) => {
            let tenth = percent(report.done(), report.images) / 10;
            display.show(tenth, false, |style| progress_line(report, style));
        }
        MigrationLine::Done(name, outcome) => {
            if let Some(line) = outcome_line(name, outcome) {
                display.line(&line);
            }
        }
    }
}

/// A line about an image; none about one that was there.
fn outcome_line(name: &str, outcome: &MigrationOutcome) -> Option<String> {
    let line = match outcome {
        MigrationOutcome::Pushed(digest) => format!("pushed: {name} {digest}"),
        MigrationOutcome::Present(_) => return None,
        MigrationOutcome::Kept(digest) => {
            format!("kept: {name}: the v2 side has another image, {digest}")
        }
        MigrationOutcome::Failed(why) => format!("failed: {name}: {why}"),
    };
    let shown = |shown: char| {
        if shown.is_control() {
            '\u{fffd}'
        } else {
            shown
        }
    };
    Some(line.chars().map(shown).collect())
}

fn progress_line(report: &MigrationReport, style: ProgressStyle) -> String {
    format!(
        "{}{} of {}, {} sent",
        progress::gauge(percent(report.done(), report.images).min(100), style),
        report.done(),
        counted(report.images, "image"),
        size(report.bytes_sent)
    )
}

/// What the command prints at its end.
fn summary(report: &MigrationReport) -> String {
    format!(
        "pushed         {}; {} sent ({}), {} mounted, {} there before\n\
         already there  {}\n\
         kept           {} that the v2 side has another image for\n\
         failed         {}\n",
        counted(report.pushed, "image"),
        counted(report.blobs_sent, "blob"),
        size(report.bytes_sent),
        report.blobs_mounted,
        report.blobs_present,
        report.present,
        report.kept,
        report.failed,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_on_the_command_line() {
        for (text, expected) in [
            ("team/app", Some(("team/app", None))),
            ("team/app:1", Some(("team/app", Some("1")))),
            ("app:", None),
            ("APP", None),
            ("app:-1", None),
        ] {
            let parsed = image(text).ok();
            let parsed = parsed
                .as_ref()
                .map(|(repository, tag)| (repository.as_str(), tag.as_ref().map(Tag::as_str)));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn reports() {
        let report = MigrationReport {
            images: 4,
            pushed: 1,
            present: 1,
            kept: 0,
            failed: 1,
            blobs_sent: 2,
            bytes_sent: 2048,
            blobs_mounted: 1,
            blobs_present: 0,
        };
        assert_eq!(
            summary(&report),
            "pushed         1 image; 2 blobs sent (2.0 KiB), 1 mounted, 0 there before\n\
             already there  1\n\
             kept           0 that the v2 side has another image for\n\
             failed         1\n"
        );
        assert_eq!(
            progress_line(&report, ProgressStyle::Lines),
            " 75 %  3 of 4 images, 2.0 KiB sent"
        );
        let failed = MigrationOutcome::Failed("a\nb".into());
        let line = outcome_line("app:1", &failed);
        assert_eq!(line.as_deref(), Some("failed: app:1: a\u{fffd}b"));
        assert_eq!(
            default_work(Path::new("var/store")),
            Path::new("var/store.migrate")
        );
    }
}
