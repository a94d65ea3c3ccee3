//! The command line.

mod admin_client;
mod explain;
mod health;
mod import;
#[cfg(feature = "v1")]
mod migrate;
mod operate;
mod pins;
mod progress;
mod setup;
mod show;

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::admin::{PinRequest, PurgeRequest};
use crate::config::{self, Config, NamedFiles};
use crate::serve;
use oci::platform::Platforms;
use setup::SetupArguments;

/// `EX_CONFIG` of sysexits.h: the configuration is invalid.
const CONFIGURATION: u8 = 78;
/// The configuration that is read without `-c`.
const DEFAULT_FILE: &str = "conf/roadstead.yaml";

/// A TLS gateway and pull-through cache for container registries.
#[derive(Debug, Parser)]
#[command(name = "roadstead", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Serve(File),
    /// Print every error of the configuration with its line, and exit 78 if there is one.
    Check(File),
    /// Print the configuration with every key and its value or default; secrets are masked.
    Config(File),
    /// Add a user to an htpasswd file, change a password, or delete a user. The password is prompted for twice, or read
    /// from standard input if that is no terminal.
    Passwd {
        /// Delete the user.
        #[arg(long)]
        delete: bool,
        /// The file, such as conf/htpasswd; it is created if it does not exist.
        file: PathBuf,
        /// The name of the user, as in the rules.
        #[arg(value_parser = user)]
        user: String,
    },
    /// Print the statistics of the running gateway: pulls, savings, the store.
    Stats(File),
    /// Remove content from the running gateway's store.
    Purge {
        /// An image (`[registry/]repository[:tag]` or `…@digest`), a digest, or a registry (`docker.io`).
        /// An image is removed with the layers that no other repository links to.
        #[arg(value_name = "IMAGE|DIGEST|REGISTRY")]
        target: String,
        /// Only print what would be removed.
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        file: File,
    },
    /// Fetch images into the store of the running gateway, with all their layers. Exits 1 if one cannot be fetched.
    Warm {
        /// `[registry/]repository[:tag|@digest]`; without a tag, `latest`.
        #[arg(value_name = "IMAGE", required = true)]
        images: Vec<String>,
        /// The platform of multi-platform images, such as linux/arm/v7, or all. The default is this machine's
        /// platform.
        #[arg(long, value_name = "OS/ARCH[/VARIANT]|all")]
        platform: Option<Platforms>,
        #[command(flatten)]
        file: File,
    },
    /// Keep an image in the running gateway's store: it is neither evicted nor deleted as unused. Without an image, print those
    /// that are pinned.
    Pin {
        /// As for `warm`. It must be stored already.
        #[arg(value_name = "IMAGE")]
        image: Option<String>,
        /// Why, for whoever finds it.
        #[arg(long, value_name = "TEXT", requires = "image")]
        note: Option<String>,
        #[command(flatten)]
        file: File,
    },
    /// Let the running gateway evict an image that is pinned.
    Unpin {
        /// As for `pin`.
        #[arg(value_name = "IMAGE")]
        image: String,
        #[command(flatten)]
        file: File,
    },
    /// Explain how the running gateway would answer a pull: how it is routed, who may, what is cached, what would be
    /// asked upstream. Nothing is asked, unless with --ask.
    Explain(explain::Options),
    /// Set up Docker, containerd, Podman, CRI-O, `BuildKit` or K3s on this machine to pull through a gateway: print the files
    /// that it needs, write them, or restore what there was before.
    Setup {
        #[command(flatten)]
        arguments: SetupArguments,
        #[command(flatten)]
        file: File,
    },
    /// Whether the running gateway is ready: exits 0 if it is. For health checks.
    Health(File),
    /// Have the running gateway apply its configuration as the file is now. Exits 0 once it is in force; a configuration that
    /// cannot be applied changes nothing, and exits 78.
    Reload(File),
    /// Have the running gateway start the program anew, as its file is now, and hand over to it: no request is lost, and
    /// downloads go on. Exits 0 once the new process serves; where it cannot, the old one goes on, and this exits 1.
    Upgrade(File),
    /// Take the storage folder of another registry into the store, so that it need not be filled again. The gateway must be
    /// stopped. Exits 1 if something is damaged or does not fit; the rest is imported all the same.
    Import {
        #[command(flatten)]
        arguments: import::ImportArguments,
        #[command(flatten)]
        file: File,
    },
    /// Push the images of a registry's v1 side to its v2 side, as v2 clients see them there. It can be interrupted and run
    /// again. Exits 1 if an image was not migrated; the others are.
    #[cfg(feature = "v1")]
    Migrate {
        #[command(flatten)]
        arguments: migrate::MigrateArguments,
        #[command(flatten)]
        file: File,
    },
    /// Have the running gateway rehash its store and quarantine damaged content. Exits 1 if there is any.
    Verify(File),
    /// Print every key of the configuration in Markdown: the tables of docs/configuration.md.
    #[command(hide = true)]
    Reference,
    /// Print the completions of a shell.
    #[command(hide = true)]
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a folder.
    #[command(hide = true)]
    Man {
        /// An existing folder.
        folder: PathBuf,
    },
}

#[derive(Args, Debug)]
struct File {
    /// The configuration. The default is conf/roadstead.yaml if it exists, else built-in defaults.
    #[arg(short, long, env = "ROADSTEAD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl File {
    /// The file to read; `None`: built-in defaults.
    fn path(&self) -> Option<&Path> {
        let default = Path::new(DEFAULT_FILE);
        let given = self.config.as_deref();
        given.or_else(|| default.exists().then_some(default))
    }
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    // Before the first use of TLS: another crate would choose a slower provider, or none.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Serve(file) => run(&file),
        Command::Check(file) => check(&file),
        Command::Config(file) => with(&file, |config| {
            print!("{}", config.rendered);
            ExitCode::SUCCESS
        }),
        Command::Passwd { delete, file, user } if delete => delete_account(&file, &user),
        Command::Passwd { file, user, .. } => passwd(&file, &user),
        Command::Stats(file) => with(&file, operate::stats),
        Command::Purge {
            target,
            dry_run,
            file,
        } => {
            let request = PurgeRequest { target, dry_run };
            with(&file, |config| operate::purge(config, &request))
        }
        Command::Pin { image, note, file } => pin(&file, image, note),
        Command::Unpin { image, file } => with(&file, |config| pins::unpin(config, &image)),
        Command::Setup { arguments, file } => {
            let load = || load(&file, NamedFiles::Ignored);
            setup::setup(&arguments, load, ExitCode::from(CONFIGURATION))
        }
        Command::Health(file) => with(&file, health::health),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "roadstead", &mut io::stdout());
            ExitCode::SUCCESS
        }
        Command::Reload(file) => with(&file, operate::reload),
        Command::Upgrade(file) => with(&file, operate::upgrade),
        Command::Man { folder } => manual(&folder),
        Command::Import { arguments, file } => {
            with(&file, |config| import::run(config, &arguments))
        }
        #[cfg(feature = "v1")]
        Command::Migrate { arguments, file } => {
            with(&file, |config| migrate::run(config, &arguments))
        }
        Command::Verify(file) => with(&file, operate::verify),
        Command::Explain(options) => with(&options.file, |config| explain::run(config, &options)),
        Command::Reference => {
            print!("{}", config::reference());
            ExitCode::SUCCESS
        }
        Command::Warm {
            images,
            platform,
            file,
        } => with(&file, |config| operate::warm(config, &images, platform)),
    }
}

/// Pins an image, or prints those that are pinned.
fn pin(file: &File, image: Option<String>, note: Option<String>) -> ExitCode {
    with(file, |config| match image {
        None => pins::list(config),
        Some(image) => {
            let note = note.unwrap_or_default();
            pins::pin(config, &PinRequest { image, note })
        }
    })
}

/// Writes the manual's pages into a folder.
fn manual(folder: &Path) -> ExitCode {
    match clap_mangen::generate_to(Cli::command(), folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roadstead: {}: {error}", folder.display());
            ExitCode::FAILURE
        }
    }
}

/// Loads the configuration, and prints its errors and warnings.
fn load(file: &File, files: NamedFiles) -> Option<Config> {
    match config::load(file.path(), files) {
        Ok(config) => {
            for warning in &config.warnings {
                eprintln!("warning: {warning}");
            }
            Some(config)
        }
        Err(faults) => {
            eprintln!("{faults}");
            None
        }
    }
}

/// Runs a command with a valid configuration.
fn with(file: &File, act: impl FnOnce(&Config) -> ExitCode) -> ExitCode {
    load(file, NamedFiles::Ignored).map_or(ExitCode::from(CONFIGURATION), |config| act(&config))
}

fn check(file: &File) -> ExitCode {
    match load(file, NamedFiles::Checked) {
        Some(_) => {
            println!("the configuration is valid");
            ExitCode::SUCCESS
        }
        None => ExitCode::from(CONFIGURATION),
    }
}

fn run(file: &File) -> ExitCode {
    let Some(config) = load(file, NamedFiles::Checked) else {
        serve::report_failure("the configuration has faults; `roadstead check` prints them");
        return ExitCode::from(CONFIGURATION);
    };
    telemetry::start(config.log.format, config.log.level);
    let file = file.config.clone();
    let load = move |running: &Config| {
        let file = File {
            config: file.clone(),
        };
        config::load_change(file.path(), running)
    };
    match serve::serve(config, Box::new(load)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("roadstead: {}", telemetry::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

fn user(name: &str) -> Result<String, access::NameError> {
    access::check_name(name).map(|()| name.to_owned())
}

fn passwd(file: &Path, user: &str) -> ExitCode {
    let password = match password() {
        Ok(password) => password,
        Err(error) => {
            eprintln!("roadstead: {error}");
            return ExitCode::FAILURE;
        }
    };
    let path = file.display();
    match access::passwd(file, user, &password) {
        Ok(changed) => {
            warn_of_faults(file, changed.faults.as_ref());
            let done = if changed.added { "added" } else { "changed" };
            println!("{done} {user} in {path}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("roadstead: {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn delete_account(file: &Path, user: &str) -> ExitCode {
    let path = file.display();
    match access::delete_account(file, user) {
        Ok(faults) => {
            warn_of_faults(file, faults.as_ref());
            println!("deleted {user} from {path}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("roadstead: {path}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Says which lines of a changed file the gateway refuses.
fn warn_of_faults(file: &Path, faults: Option<&access::HtpasswdError>) {
    if let Some(faults) = faults {
        let path = file.display();
        eprintln!("warning: {path} is refused as long as it has these lines: {faults}");
    }
}

/// Prompts twice, or reads one line of standard input if that is no terminal.
fn password() -> io::Result<Vec<u8>> {
    if io::stdin().is_terminal() {
        let password = rpassword::prompt_password("New password: ")?;
        if rpassword::prompt_password("The same again: ")? != password {
            return Err(io::Error::other("the two are not the same"));
        }
        return Ok(password.into_bytes());
    }
    let mut line = Vec::new();
    // A longer line is refused as too long.
    io::stdin().lock().take(4096).read_until(b'\n', &mut line)?;
    for end in [b'\n', b'\r'] {
        line.pop_if(|last| *last == end);
    }
    Ok(line)
}
