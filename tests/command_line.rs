//! The command line's contract: which file is read, the errors of `check` and `serve`, and the exit codes.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use testkit::process;
use testkit::temp_dir;

/// `EX_CONFIG`.
const CONFIGURATION: i32 = 78;
/// clap's exit code.
const USAGE: i32 = 2;
const GOOD: &str = "the configuration is valid\n";
/// A file that is recognisable by its only error, this key.
const MARKED: &str = "marked_by_the_test: 1\n";

/// The result of a run.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Told {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

impl Told {
    #[track_caller]
    fn assert_good(&self) {
        let expected = (Some(0), GOOD, "");
        assert_eq!((self.code, &*self.out, &*self.err), expected);
    }

    /// Refused with these positions and messages, one per line, and nothing on standard output.
    #[track_caller]
    fn assert_refused(&self, lines: &[&str]) {
        assert_eq!(
            (self.code, &*self.out),
            (Some(CONFIGURATION), ""),
            "{self:?}"
        );
        let told: Vec<&str> = self.err.lines().collect();
        assert_eq!(told.len(), lines.len(), "{self:?}");
        for (told, start) in told.iter().zip(lines) {
            assert!(told.starts_with(start), "{told}\nnot {start}");
        }
    }
}

fn run(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Told {
    let mut command = process::command(testkit::binary());
    command.current_dir(dir).args(arguments);
    command.envs(environment.iter().copied());
    let output = process::run(&mut command, Duration::from_secs(30));
    output.expect("it runs to its end").into()
}

/// Runs `check` and `serve` with a bad file: the output is the same, and `serve` has not started anything.
#[track_caller]
fn refused(yaml: &[u8]) -> Told {
    let dir = temp_dir();
    std::fs::write(dir.path().join("f.yaml"), yaml).expect("writable");
    let checked = run(dir.path(), &["check", "-c", "f.yaml"], &[]);
    let served = run(dir.path(), &["serve", "-c", "f.yaml"], &[]);
    assert_eq!(checked, served);
    let entries = std::fs::read_dir(dir.path()).expect("a folder");
    assert_eq!(entries.count(), 1, "keys, a store or a socket were made");
    checked
}

#[test]
fn valid_configuration_passes_check() {
    let dir = temp_dir();
    for yaml in [
        "",
        "# nothing but a comment\n",
        "{}\n",
        "keys: var/keys\n",
        "registries: [docker.io, ghcr.io]\n",
        "listen: [{address: \"unix:a.sock\"}]\nadmin: {address: off}\n",
        "store: {max_size: \"${SIZE:-5GiB}\"}\n",
    ] {
        std::fs::write(dir.path().join("f.yaml"), yaml).expect("writable");
        run(dir.path(), &["check", "-c", "f.yaml"], &[]).assert_good();
    }
    let entries = std::fs::read_dir(dir.path()).expect("a folder");
    assert_eq!(entries.count(), 1, "check makes nothing");
}

#[test]
fn all_errors_are_reported_with_positions() {
    let yaml = "\
listen:
  - {address: \"unix:gateway.sock\"}
  - {address: localhost}
  - {address: \":65536\", registry: nowhere.example}
registries:
  - docker.io
  - {name: Ghcr.io, tag_ttl: soon}
colour: blue
limits: {fills: 0, header_bytes: 1}
";
    refused(yaml.as_bytes()).assert_refused(&[
        "f.yaml:3:15: \"localhost\" has no port",
        "f.yaml:4:15: \":65536\" is not an address",
        "f.yaml:4:35: no registry is called \"nowhere.example\"",
        "f.yaml:7:12: \"Ghcr.io\" is not lower case; write ghcr.io",
        "f.yaml:7:30: \"soon\" is not a duration",
        "f.yaml:8:1: ",
        "f.yaml:9:17: \"0\" is not a count",
        "f.yaml:9:34: \"1\" is out of range",
    ]);
}

#[test]
fn unreadable_configurations_are_reported() {
    for (bytes, start) in [
        (&b"listen: [\n"[..], "f.yaml:"),
        (b"- a\n- b\n", "f.yaml:1:1: "),
        (b"just words\n", "f.yaml:1:1: "),
        (b"keys: a\nkeys: b\n", "f.yaml:2:1: "),
        (b"keys: var/\xff\n", "f.yaml:1:11: not UTF-8"),
        (b"keys: \"${NO_SUCH_VARIABLE_HERE}\"\n", "f.yaml:1:7: "),
    ] {
        refused(bytes).assert_refused(&[start]);
    }
    let huge = format!("# {}\n", "x".repeat(2 << 20));
    refused(huge.as_bytes()).assert_refused(&["f.yaml:1:1: "]);
}

#[test]
fn errors_contain_no_secrets() {
    let yaml = "registries:\n\
                - {name: a, credentials: {username: u, password: s3cret-1, passwort: s3cret-2}}\n\
                - {name: b, v2: \"https://u:s3cret-3@h.example\"}\n\
                - {name: c, credentials: {username: u, password: \"${PASSWORD}\", helper: x}}\n\
                access: {token_key: s3cret-5}\n";
    let dir = temp_dir();
    std::fs::write(dir.path().join("f.yaml"), yaml).expect("writable");
    let environment = [("PASSWORD", "s3cret-4")];
    let told = run(dir.path(), &["check", "-c", "f.yaml"], &environment);
    assert_eq!(told.code, Some(CONFIGURATION));
    assert!(told.err.lines().count() >= 4, "{}", told.err);
    assert!(!told.err.contains("s3cret"), "{}", told.err);
}

/// `-c`, then the environment, then `conf/roadstead.yaml`, then the defaults.
#[test]
fn configuration_path_precedence() {
    let dir = temp_dir();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("writable");
    };
    let check = |arguments: &[&str], environment: &[(&str, &str)]| {
        run(dir.path(), &[&["check"], arguments].concat(), environment)
    };
    check(&[], &[]).assert_good();
    write("conf/roadstead.yaml", MARKED);
    check(&[], &[]).assert_refused(&["conf/roadstead.yaml:1:1: "]);
    write("other.yaml", MARKED);
    let environment = [("ROADSTEAD_CONFIG", "other.yaml")];
    check(&[], &environment).assert_refused(&["other.yaml:1:1: "]);
    write("good.yaml", "");
    check(&["-c", "good.yaml"], &environment).assert_good();
    check(&["-c", "good.yaml"], &[]).assert_good();
    check(&["--config", "good.yaml"], &environment).assert_good();
    check(&["--config=good.yaml"], &environment).assert_good();
    check(&[], &[("ROADSTEAD_CONFIG", "good.yaml")]).assert_good();
    // A file that was named must exist.
    for (arguments, environment) in [
        (&["-c", "absent.yaml"][..], &[][..]),
        (&[], &[("ROADSTEAD_CONFIG", "absent.yaml")]),
    ] {
        let told = check(arguments, environment);
        told.assert_refused(&["absent.yaml:1:1: cannot be read"]);
        let served = run(dir.path(), &[&["serve"], arguments].concat(), environment);
        assert_eq!(told, served);
    }
    // A folder is no file.
    check(&["-c", "conf"], &[]).assert_refused(&["conf:1:1: cannot be read"]);
}

/// A file that is not there may be on another machine; one that cannot be used is a fault. Positions are those of the keys.
#[test]
fn check_opens_the_files_that_are_named() {
    let dir = temp_dir();
    let at = |name: &str| dir.path().join(name);
    let write = |name: &str, text: &str| std::fs::write(at(name), text).expect("writable");
    let ca = testkit::tls::Ca::new();
    let copy = |from: &Path, to: &str| std::fs::copy(from, at(to)).map(drop).expect("copied");
    let (gateway, other) = (ca.issue(&["gateway.example"]), ca.issue(&["other.example"]));
    copy(&gateway.certificate, "gateway.pem");
    copy(&gateway.key, "gateway.key");
    copy(&other.key, "other.key");
    copy(&ca.path(), "ca.pem");
    write("broken.pem", "no pem");
    write("empty", "\n");
    write("password", "secret\n");
    std::fs::create_dir(at("folder")).expect("a folder");
    write("folder/hosts", "");
    let check = |yaml: &str| {
        write("f.yaml", yaml);
        run(dir.path(), &["check", "-c", "f.yaml"], &[])
    };
    let tls = |certificate: &str, key: &str, more: &str| {
        format!(
            "listen: [{{address: \"unix:a\", tls: {{{more}certificates: [{{certificate: {certificate}, key: {key}}}]}}}}]\n"
        )
    };
    let registry = |more: &str| format!("registries: [{{name: a.example, {more}}}]\n");
    let account = |file: &str| {
        registry(&format!(
            "visibility: public, credentials: {{username: me, password_file: {file}}}"
        ))
    };
    check(&tls("gateway.pem", "gateway.key", "client_ca: ca.pem, ")).assert_good();
    check(&registry("ca: ca.pem")).assert_good();
    check(&account("password")).assert_good();
    for (yaml, refused) in [
        (
            tls("broken.pem", "gateway.key", ""),
            "1:65: broken.pem holds no certificate",
        ),
        (
            tls("gateway.pem", "broken.pem", ""),
            "1:83: broken.pem holds no private key",
        ),
        (
            tls("gateway.pem", "other.key", ""),
            "1:83: other.key holds no private key in PEM form that fits",
        ),
        (
            tls("gateway.pem", "gateway.key", "client_ca: broken.pem, "),
            "1:47: broken.pem holds no certificate",
        ),
        (
            registry("ca: broken.pem"),
            "1:36: broken.pem holds no certificate",
        ),
        (
            account("empty"),
            "1:95: empty is empty; write the password into it",
        ),
        (
            "keys: folder\n".to_owned(),
            "1:7: folder has other files (hosts)",
        ),
    ] {
        check(&yaml).assert_refused(&[&format!("f.yaml:{refused}")]);
    }
    for (yaml, warned) in [
        (
            tls("none.pem", "gateway.key", ""),
            "1:65: none.pem cannot be read: there is no such file",
        ),
        (
            tls("gateway.pem", "none.key", ""),
            "1:83: none.key cannot be read: there is no such file",
        ),
        (registry("ca: none.pem"), "1:36: none.pem cannot be read"),
        (account("none"), "1:95: none cannot be read"),
    ] {
        let told = check(&yaml);
        assert_eq!((told.code, &*told.out), (Some(0), GOOD), "{told:?}");
        let start = format!("warning: f.yaml:{warned}");
        assert!(
            told.err.starts_with(&start) && told.err.lines().count() == 1,
            "{told:?}"
        );
    }
}

/// Certificates that expire, and hosts that none of them names.
#[test]
fn check_warns_of_certificates() {
    let dir = temp_dir();
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).expect("writable");
    };
    let day = Duration::from_secs(24 * 3600);
    let certificate = |stem: &str, end: std::time::SystemTime| {
        let mut params = rcgen::CertificateParams::new(vec!["*.gateway.example".to_owned()]);
        let params = params.as_mut().expect("names");
        params.not_before = (end - 90 * day).into();
        params.not_after = end.into();
        let key = rcgen::KeyPair::generate().expect("a key");
        write(
            &format!("{stem}.pem"),
            &params.self_signed(&key).expect("a certificate").pem(),
        );
        write(&format!("{stem}.key"), &key.serialize_pem());
    };
    let now = std::time::SystemTime::now();
    certificate("good", now + 60 * day);
    certificate("soon", now + 2 * day);
    certificate("old", now - day);
    let check_with = |listeners: &str, host: &str| {
        write(
            "f.yaml",
            &format!(
                "listen: [{listeners}]\nregistries: [{{name: a.example, hosts: [\"{host}\"]}}]\n"
            ),
        );
        run(dir.path(), &["check", "-c", "f.yaml"], &[])
    };
    let files = |stem: &str| {
        format!(
            "{{address: \"unix:a\", tls: {{certificates: [{{certificate: {stem}.pem, key: {stem}.key}}]}}}}"
        )
    };
    let check = |stem: &str, host: &str| check_with(&files(stem), host);
    let ordered = "{address: \"unix:b\", tls: {acme: {hosts: [b.example, c.example]}}}";
    check_with(ordered, "c.example").assert_good();
    let both = format!("{}, {ordered}", files("good"));
    check_with(&both, "b.example").assert_good();
    check_with(&both, "a.gateway.example").assert_good();
    for listeners in [ordered, &both] {
        let told = check_with(listeners, "d.example:443");
        assert_eq!((told.code, &*told.out), (Some(0), GOOD), "{told:?}");
        let words = "warning: f.yaml:2:40: no certificate of the listeners is for \"d.example\"";
        assert!(told.err.starts_with(words), "{told:?}");
    }
    assert!(
        !dir.path().join("var").exists(),
        "nothing is ordered or written"
    );
    for host in ["a.gateway.example", "a.gateway.example:5000"] {
        check("good", host).assert_good();
    }
    for (stem, host, warned) in [
        (
            "soon",
            "a.gateway.example",
            "1:65: the certificate in soon.pem expires in 47 hours",
        ),
        (
            "old",
            "a.gateway.example",
            "1:65: the certificate in old.pem has expired",
        ),
        (
            "good",
            "a.b.gateway.example",
            "2:40: no certificate of the listeners is for \"a.b.gateway.example\"",
        ),
        (
            "good",
            "gateway.example:5000",
            "2:40: no certificate of the listeners is for \"gateway.example\"",
        ),
        (
            "good",
            "10.0.0.1",
            "2:40: no certificate of the listeners is for \"10.0.0.1\"",
        ),
    ] {
        let told = check(stem, host);
        assert_eq!((told.code, &*told.out), (Some(0), GOOD), "{told:?}");
        let start = format!("warning: f.yaml:{warned}");
        assert!(told.err.starts_with(&start), "{told:?}");
    }
}

/// Warnings have positions, and do not change the exit code.
#[test]
fn check_warns_of_access_that_nobody_has() {
    let dir = temp_dir();
    let yaml = "listen: [{address: \":5000\", tls: off}]\n\
                registries:\n\
                - {name: a.example, push: true}\n\
                - {name: b.example, credentials: {username: u, password: p}}\n";
    std::fs::write(dir.path().join("f.yaml"), yaml).expect("writable");
    let told = run(dir.path(), &["check", "-c", "f.yaml"], &[]);
    assert_eq!((told.code, &*told.out), (Some(0), GOOD), "{told:?}");
    let lines: Vec<&str> = told.err.lines().collect();
    let [push, credentials] = lines[..] else {
        panic!("{told:?}")
    };
    assert!(
        push.starts_with("warning: f.yaml:3:27: without access nobody can push"),
        "{push}"
    );
    let start = "warning: f.yaml:4:34: without access nobody can pull with the credentials";
    assert!(credentials.starts_with(start), "{credentials}");

    std::fs::write(dir.path().join("htpasswd"), "").expect("writable");
    let access = "access:\n  htpasswd: htpasswd\n  scheme: basic\n  rules:\n  \
                  - {users: [anonymous], repositories: [\"a.example/**\"], actions: [pull]}\n";
    std::fs::write(dir.path().join("f.yaml"), format!("{yaml}{access}")).expect("writable");
    let told = run(dir.path(), &["check", "-c", "f.yaml"], &[]);
    assert_eq!((told.code, &*told.out), (Some(0), GOOD), "{told:?}");
    for warned in [
        "1:34: passwords cross the network unencrypted here",
        "4:3: no rule lets anybody pull from b.example",
        "7:11: with basic Docker, containerd and Podman pull nothing without a login",
    ] {
        let line = format!("warning: f.yaml:{warned}");
        assert!(
            told.err.lines().any(|it| it.starts_with(&line)),
            "{line}: {told:?}"
        );
    }
}

/// A build without v1 refuses a registry's v1 side instead of ignoring it.
#[cfg(not(feature = "v1"))]
#[test]
fn v1_is_refused_without_the_feature() {
    let text = "registries: [{name: a, v1: \"http://h\", v2: \"http://h\"}]\n";
    let message = "this program was built without v1; remove v1, or build it with the feature v1";
    let dir = temp_dir();
    std::fs::write(dir.path().join("old.yaml"), text).expect("writable");
    for command in ["check", "serve"] {
        let told = run(dir.path(), &[command, "-c", "old.yaml"], &[]);
        told.assert_refused(&[&format!("old.yaml:1:28: {message}")]);
    }
}

#[test]
fn example_configurations_pass_check() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
    let dir = temp_dir();
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("conf/") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            let told = run(
                dir.path(),
                &["check", "-c", path.to_str().expect("UTF-8")],
                &[],
            );
            let text = std::fs::read_to_string(&path).expect("readable");
            if cfg!(not(feature = "v1")) && text.contains("\n    v1: ") {
                assert_eq!(told.code, Some(CONFIGURATION), "{told:?}");
                assert!(told.err.contains("was built without v1"), "{told:?}");
                continue;
            }
            assert_eq!(
                (told.code, &*told.out),
                (Some(0), GOOD),
                "{}: {told:?}",
                path.display()
            );
            count += 1;
        }
    }
    assert!(count >= 2, "{count} examples");
}

#[test]
fn completions_and_manual_pages_are_those_of_the_commands() {
    let dir = temp_dir();
    for shell in ["bash", "zsh", "fish"] {
        let told = run(dir.path(), &["completions", shell], &[]);
        assert_eq!(told.code, Some(0), "{told:?}");
        assert!(
            told.out.contains("setup") && told.out.contains("ca-fingerprint"),
            "{shell}"
        );
    }
    let told = run(dir.path(), &["man", "."], &[]);
    assert_eq!((told.code, &*told.err), (Some(0), ""), "{told:?}");
    for (page, words) in [
        ("roadstead.1", "roadstead\\-setup(1)"),
        ("roadstead-setup.1", "ca\\-fingerprint"),
        ("roadstead-passwd.1", "\\-\\-delete"),
    ] {
        let text = process::read_lossy(&dir.path().join(page));
        assert!(text.contains(words), "{page}: {text}");
    }
    assert!(!dir.path().join("roadstead-reference.1").exists());
    assert_eq!(run(dir.path(), &["man", "absent"], &[]).code, Some(1));
}

#[test]
fn usage() {
    let dir = temp_dir();
    for (arguments, words) in [
        (&[][..], "Usage: roadstead"),
        (&["sevre"], "unrecognized subcommand 'sevre'"),
        (&["serve", "--nope"], "unexpected argument '--nope'"),
        (
            &["check", "-c"],
            "a value is required for '--config <FILE>'",
        ),
        (&["check", "a", "b"], "unexpected argument 'a'"),
        (
            &["check", "-c", "a", "-c", "b"],
            "cannot be used multiple times",
        ),
    ] {
        let told = run(dir.path(), arguments, &[]);
        assert_eq!((told.code, &*told.out), (Some(USAGE), ""), "{told:?}");
        assert!(told.err.contains(words), "{arguments:?}: {told:?}");
    }
    let version = run(dir.path(), &["--version"], &[]);
    let expected = concat!("roadstead ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((version.code, &*version.out), (Some(0), expected));
    let help = run(dir.path(), &["--help"], &[]);
    assert_eq!(help.code, Some(0));
    for command in [
        "serve", "check", "passwd", "stats", "purge", "warm", "verify", "import",
    ] {
        let listed = help
            .out
            .lines()
            .any(|line| line.trim_start().starts_with(command));
        assert!(listed, "{command}: {}", help.out);
    }
}
