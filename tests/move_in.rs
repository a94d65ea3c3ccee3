//! Moving in: `roadstead import` takes the storage folders of real registries into the store, which serves them while
//! those are gone, and `roadstead migrate` pushes the images of a v1 registry to a v2 one.

mod distribution;
mod gate;
#[cfg(feature = "v1")]
mod migrate;
#[cfg(feature = "v1")]
mod v1;

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::process;

/// The limit of a command: a busy machine hashes and pushes slowly.
const END: Duration = Duration::from_secs(300);

/// The output of a command that ended.
#[derive(Debug)]
struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code(),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

impl Told {
    /// The line of the report that begins so, without its beginning.
    #[track_caller]
    fn line(&self, name: &str) -> &str {
        let line = self.out.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}: {self:?}")).trim()
    }
}

/// Runs a command in the folder of a gateway, to its end.
fn run(gateway: &Gateway, arguments: &[&str]) -> Told {
    let mut command = process::command(testkit::binary());
    command.current_dir(gateway.dir());
    command.args(arguments).args(["-c", "roadstead.yaml"]);
    let output = process::run(&mut command, END);
    output.expect("the binary runs to its end").into()
}

/// Imports a folder as content of `hosted`.
fn import(gateway: &Gateway, folder: &Path) -> Told {
    let folder = folder.display().to_string();
    run(gateway, &["import", "--registry", "hosted", &folder])
}

fn get(gateway: &Gateway, path: &str) -> Reply {
    Raw::connect(gateway.url(1), None).get(path)
}
