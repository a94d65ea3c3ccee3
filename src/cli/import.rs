//! `roadstead import`: the storage folder of another registry, taken into the store of this configuration.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::CONFIGURATION;
use super::progress::{self, ProgressDisplay, ProgressStyle};
use super::show::{counted, percent, size};
use crate::config::{self, Config, record_extensions};
use ::import::distribution::{self, Confirmed, Options};
use ::import::{Fault, Finding, Format, Journal, Line, Report, Tally};
use oci::name::{Registry, Repository};
use runtime::folder::Folder;
use store::Store;

/// The arguments of the command.
#[derive(Args, Debug)]
pub struct ImportArguments {
    /// The registry of the configuration whose content it is.
    #[arg(long, value_name = "NAME")]
    registry: String,
    /// Whose folder it is: distribution (registry:2), proxy (registry:2 as a pull-through cache), or v1
    /// (docker-registry 0.9). By default the folder itself tells.
    #[arg(long, value_name = "distribution|proxy|v1", value_parser = format)]
    from: Option<Format>,
    /// Import only the repositories below this name, and leave it out of theirs: a project of Harbor that is a cache.
    #[arg(long, value_name = "PROJECT", value_parser = project)]
    below: Option<Repository>,
    /// The registry's storage folder, such as /var/lib/registry.
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

fn format(text: &str) -> Result<Format, String> {
    let all = [Format::Distribution, Format::Proxy, Format::V1];
    let found = all.into_iter().find(|format| format.as_str() == text);
    found.ok_or_else(|| "it is distribution, proxy or v1".to_owned())
}

fn project(text: &str) -> Result<Repository, String> {
    text.parse()
        .map_err(|error: oci::name::NameError| error.to_string())
}

/// Why nothing can be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error("the configuration has no registry {0}; it has {1}")]
    UnknownRegistry(String, String),
    #[error("--below is for folders of distribution")]
    Below,
    #[error("registry {0} has cache: false, so that nothing of it is stored")]
    NotCached(String),
    #[cfg(feature = "v1")]
    #[error("registry {0} has no v1 in the configuration: write where its v1 registry is, or was")]
    NoV1(String),
    #[cfg(not(feature = "v1"))]
    #[error("this program was built without support for the v1 API")]
    BuiltWithoutV1,
    #[error("{} cannot be read: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "{} is no storage folder: distribution's has docker/registry/v2 in it, docker-registry's has images and repositories", .0.display()
    )]
    Unknown(PathBuf),
    #[error("{} is a folder of another kind ({}); leave out --from", path.display(), found.as_str())]
    OtherFormat { path: PathBuf, found: Format },
    #[error(
        "{} belongs to the user {owner}, and would not be the gateway's to change after an import by another one; \
         run this as that user (sudo -u \\#{owner} …)",
        path.display()
    )]
    Owner { path: PathBuf, owner: u32 },
    #[error("{source}: stop the gateway, import, and start it again")]
    Locked { source: store::OpenError },
    #[error(transparent)]
    Store(store::OpenError),
    #[cfg(feature = "v1")]
    #[error("{0}")]
    Configuration(String),
    #[error("system error: {0}")]
    System(#[from] io::Error),
}

impl ImportError {
    /// The exit code: 78 (`EX_CONFIG`) for the configuration, 69 (`EX_UNAVAILABLE`) while the gateway runs, else 1.
    const fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownRegistry(..) | Self::NotCached(_) => CONFIGURATION,
            #[cfg(feature = "v1")]
            Self::NoV1(_) | Self::Configuration(_) => CONFIGURATION,
            Self::Locked { .. } => 69,
            _ => 1,
        }
    }
}

/// Exits 1 if something is damaged or was not stored.
pub fn run(config: &Config, arguments: &ImportArguments) -> ExitCode {
    match import(config, arguments) {
        Ok(report) => {
            print!("{}", summary(&report));
            if report.damaged + report.not_stored == 0 {
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

fn import(config: &Config, arguments: &ImportArguments) -> Result<Report, ImportError> {
    let registry = registry(config, &arguments.registry)?;
    let path = &arguments.folder;
    let unreadable = |source| ImportError::Folder {
        path: path.clone(),
        source,
    };
    let folder = Folder::open(path).map_err(unreadable)?;
    let found = Format::detect(&folder).ok_or_else(|| ImportError::Unknown(path.clone()))?;
    let format = chosen(arguments.from, found).ok_or_else(|| ImportError::OtherFormat {
        path: path.clone(),
        found,
    })?;
    if format == Format::V1 && arguments.below.is_some() {
        return Err(ImportError::Below);
    }
    check_owner(&config.store.path)?;
    telemetry::start(config.log.format, tracing::Level::WARN);
    let store = Store::open(&config.store_settings(), &record_extensions());
    let store = store.map_err(|error| match error {
        source @ store::OpenError::Locked { .. } => ImportError::Locked { source },
        error => ImportError::Store(error),
    })?;
    store.scan();
    let store = Arc::new(store);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut display = ProgressDisplay::new();
    let mut tell = |line: Line<'_>| tell(&mut display, line);
    let mut journal = Journal::new(&mut tell);
    let name = Registry::new(&registry.name);
    let options = Options {
        confirmed: match (format, &arguments.below) {
            (Format::Distribution, None) => Confirmed::Now,
            // A cache, as a project of another registry is one.
            _ => Confirmed::AsWritten,
        },
        below: arguments.below.clone(),
    };
    if format == Format::V1 {
        import_v1(config, registry, &store, &folder, &runtime, &mut journal)?;
    } else {
        let importing = distribution::import(&store, &name, &folder, &options, &mut journal);
        runtime.block_on(importing).map_err(unreadable)?;
    }
    let report = journal.report;
    display.end();
    Ok(report)
}

#[cfg(feature = "v1")]
fn import_v1(
    config: &Config,
    registry: &config::Registry,
    store: &Arc<Store>,
    folder: &Folder,
    runtime: &tokio::runtime::Runtime,
    journal: &mut Journal<'_>,
) -> Result<(), ImportError> {
    let configuration =
        |error: &dyn std::error::Error| ImportError::Configuration(telemetry::chain(error));
    if registry.v1.is_none() {
        return Err(ImportError::NoV1(registry.name.clone()));
    }
    let settings = config
        .v1_settings()
        .map_err(|error| configuration(&error))?;
    let handle = runtime.handle().clone();
    let contents = mirror::Contents::new(store.clone(), config.limits.fills, handle, None);
    let importing = async {
        let registries = v1::Registries::new(settings, contents);
        let registries = registries.map_err(|error| configuration(&error))?;
        let name = Registry::new(&registry.name);
        let imported = registries.import(&name, folder, journal).await;
        imported.map_err(|error| ImportError::System(io::Error::other(telemetry::chain(&error))))
    };
    runtime.block_on(importing)
}

#[cfg(not(feature = "v1"))]
fn import_v1(
    _: &Config,
    _: &config::Registry,
    _: &Arc<Store>,
    _: &Folder,
    _: &tokio::runtime::Runtime,
    _: &mut Journal<'_>,
) -> Result<(), ImportError> {
    Err(ImportError::BuiltWithoutV1)
}

/// The registry of a name or alias.
fn registry<'a>(config: &'a Config, name: &str) -> Result<&'a config::Registry, ImportError> {
    let mut all = config.registries.iter();
    let is_named = |registry: &&config::Registry| {
        registry.name == name || config::aliases(&registry.name).contains(&name)
    };
    let found = all.find(is_named).ok_or_else(|| {
        let known = config.registries.iter();
        let known: Vec<&str> = known.map(|registry| &*registry.name).collect();
        ImportError::UnknownRegistry(name.to_owned(), known.join(", "))
    })?;
    if found.cache {
        Ok(found)
    } else {
        Err(ImportError::NotCached(found.name.clone()))
    }
}

/// The format to read, of the one that was asked for and the one that was found. A cache and a registry have the same
/// files.
fn chosen(from: Option<Format>, found: Format) -> Option<Format> {
    match (from, found) {
        (None, found) => Some(found),
        (Some(Format::V1), Format::V1) => Some(Format::V1),
        (Some(Format::V1), _) | (Some(_), Format::V1) => None,
        (Some(from), _) => Some(from),
    }
}

/// Files that another user makes here could not be used by the gateway.
fn check_owner(store: &Path) -> Result<(), ImportError> {
    let Ok(meta) = std::fs::metadata(store) else {
        return Ok(());
    };
    let owner = meta.uid();
    if owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let path = store.to_owned();
    Err(ImportError::Owner { path, owner })
}

fn tell(display: &mut ProgressDisplay, line: Line<'_>) {
    match line {
        Line::Progress(report) => {
            let tenth = percent(report.done, report.total) / 10;
            let ends = report.done == report.total;
            display.show(tenth, ends, |style| progress_line(report, style));
        }
        Line::Fault { path, fault } => display.line(&fault_line(path, fault)),
    }
}

/// `damaged: images/…: its layer …`. A name in the folder may have any characters; none of them reaches a terminal.
fn fault_line(path: &str, fault: &Fault) -> String {
    let Fault { finding, why } = fault;
    let text = format!("{}: {path}: {why}", finding.as_str());
    let plain = |shown: char| !shown.is_control();
    text.chars()
        .map(|shown| if plain(shown) { shown } else { '\u{fffd}' })
        .collect()
}

fn progress_line(report: &Report, style: ProgressStyle) -> String {
    format!(
        "{}{} of {} links and images, {} imported",
        progress::gauge(percent(report.done, report.total), style),
        report.done,
        report.total,
        size(report.imported.bytes)
    )
}

/// What the command prints at its end.
fn summary(report: &Report) -> String {
    let imported = &report.imported;
    let linked = match imported.linked_bytes {
        0 => String::new(),
        linked => format!(", {} of them by hard links", size(linked)),
    };
    let mut missing = Vec::new();
    for (finding, number) in [
        (Finding::Damaged, report.damaged),
        (Finding::Skipped, report.skipped),
        (Finding::NotStored, report.not_stored),
    ] {
        if number > 0 {
            missing.push(format!("{number} {}", finding.as_str()));
        }
    }
    if missing.is_empty() {
        missing.push("nothing".to_owned());
    }
    format!(
        "repositories   {}\nimported       {}; {}{linked}\nalready there  {}\nleft out       {}\n",
        report.repositories,
        kinds(imported),
        size(imported.bytes),
        kinds(&report.present),
        missing.join(", "),
    )
}

/// `2 tags, 2 manifests, 5 blobs`
fn kinds(tally: &Tally) -> String {
    let all = [
        (tally.tags, "tag"),
        (tally.manifests, "manifest"),
        (tally.images, "image"),
        (tally.blobs, "blob"),
    ];
    let some = all.iter().filter(|(number, _)| *number > 0);
    let some: Vec<String> = some.map(|&(number, kind)| counted(number, kind)).collect();
    if some.is_empty() {
        "nothing".to_owned()
    } else {
        some.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let mut report = Report {
            done: 3,
            total: 4,
            repositories: 1,
            imported: Tally {
                tags: 1,
                blobs: 2,
                bytes: 2048,
                linked_bytes: 1024,
                ..Tally::default()
            },
            ..Report::default()
        };
        assert_eq!(
            summary(&report),
            "repositories   1\nimported       1 tag, 2 blobs; 2.0 KiB, 1.0 KiB of them by hard links\n\
             already there  nothing\nleft out       nothing\n"
        );
        (report.damaged, report.not_stored) = (1, 2);
        assert!(summary(&report).ends_with("left out       1 damaged, 2 not stored\n"));
        assert_eq!(
            progress_line(&report, ProgressStyle::Lines),
            " 75 %  3 of 4 links and images, 2.0 KiB imported"
        );
        let fault = Fault::damaged("it\u{7} ends");
        let line = fault_line("a\u{1b}[2Jb\nc", &fault);
        assert_eq!(line, "damaged: a\u{fffd}[2Jb\u{fffd}c: it\u{fffd} ends");
    }

    #[test]
    fn formats_are_chosen() {
        use Format::{Distribution, Proxy, V1};
        for (from, found, expected) in [
            (None, Proxy, Some(Proxy)),
            (Some(Distribution), Proxy, Some(Distribution)),
            (Some(Proxy), Distribution, Some(Proxy)),
            (Some(V1), Distribution, None),
            (Some(Proxy), V1, None),
            (Some(V1), V1, Some(V1)),
        ] {
            assert_eq!(chosen(from, found), expected, "{from:?} {found:?}");
        }
    }
}
