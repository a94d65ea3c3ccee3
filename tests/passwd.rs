//! `roadstead passwd`: its writes, the bytes that it preserves, its refusals, and Apache's tool on its output.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use testkit::real::{found, program};
use testkit::{process, temp_dir};

const WITHIN: Duration = Duration::from_secs(30);
const SHA: &str = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";

/// The result of a run: exit code, standard output, standard error.
type Told = (Option<i32>, String, String);

fn told(output: Output) -> Told {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Runs the command with this standard input.
fn passwd(dir: &Path, arguments: &[&str], input: &[u8]) -> Told {
    let mut command = process::command(testkit::binary());
    command.current_dir(dir).arg("passwd").args(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    // It may exit before it reads.
    let _ = child.stdin.take().expect("piped").write_all(input);
    told(child.wait_with_output().expect("it ends"))
}

fn good(words: &str) -> Told {
    (Some(0), format!("{words}\n"), String::new())
}

fn read(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("htpasswd")).expect("a file")
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("it is there").mode() & 0o7777
}

#[test]
fn passwd_creates_adds_and_changes() {
    let dir = temp_dir();
    let dir = dir.path();
    let file = dir.join("htpasswd");
    assert_eq!(
        passwd(dir, &["htpasswd", "alice"], b"one\n"),
        good("added alice in htpasswd")
    );
    assert_eq!(mode(&file), 0o600);
    let first = read(dir);
    assert!(
        first.starts_with("alice:$2y$10$") && first.ends_with('\n'),
        "{first}"
    );
    assert_eq!(first.len(), "alice:\n".len() + 60);

    // Every other byte stays.
    let other = format!("# ours\r\nbob:{SHA}:note\r\n\r\n");
    std::fs::write(&file, format!("{other}alice:{SHA}\r\nlast:{SHA}")).expect("writable");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("ours");
    assert_eq!(
        passwd(dir, &["htpasswd", "alice"], b"two\r\n"),
        good("changed alice in htpasswd")
    );
    let second = read(dir);
    let rest = second
        .strip_prefix(&format!("{other}alice:$2y$10$"))
        .expect("a stored file");
    assert_eq!(&rest[53..], format!("\r\nlast:{SHA}"));
    assert_eq!(
        passwd(dir, &["htpasswd", "new"], b"three"),
        good("added new in htpasswd")
    );
    assert!(
        read(dir).starts_with(&format!("{second}\r\nnew:$2y$10$")),
        "{}",
        read(dir)
    );
    assert_eq!(mode(&file), 0o640);
    assert_eq!(
        std::fs::read_dir(dir).expect("a folder").count(),
        1,
        "something was left"
    );
}

#[test]
fn passwd_deletes() {
    let dir = temp_dir();
    let dir = dir.path();
    let before = format!("# ours\nalice:{SHA}\nbob:$6$salt$hash\nalice:{SHA}\n");
    std::fs::write(dir.join("htpasswd"), &before).expect("writable");
    let (status, out, err) = passwd(dir, &["--delete", "htpasswd", "carol"], b"");
    assert_eq!((status, &*out), (Some(1), ""));
    assert!(err.contains("htpasswd: it has no such user"), "{err}");
    assert_eq!(read(dir), before);
    // No password is asked for, and faults that remain are reported.
    let (status, out, err) = passwd(dir, &["htpasswd", "alice", "--delete"], b"");
    assert_eq!((status, &*out), (Some(0), "deleted alice from htpasswd\n"));
    assert!(err.contains("line 2: bob's hash is SHA-512 crypt"), "{err}");
    assert_eq!(read(dir), "# ours\nbob:$6$salt$hash\n");
    assert_eq!(
        passwd(dir, &["--delete", "htpasswd", "bob"], b""),
        good("deleted bob from htpasswd")
    );
    assert_eq!(read(dir), "# ours\n");
    let (status, _, err) = passwd(dir, &["--delete", "absent", "bob"], b"");
    assert_eq!(status, Some(1));
    assert!(
        err.contains("absent: the file cannot be changed: "),
        "{err}"
    );
    assert!(!dir.join("absent").exists());
}

#[test]
fn apache_htpasswd_verifies_the_file() {
    let Some(htpasswd) = found(program("htpasswd")) else {
        return;
    };
    let dir = temp_dir();
    let dir = dir.path();
    let verifies = |user: &str, password: &str| {
        let mut command = process::command(&htpasswd);
        command
            .current_dir(dir)
            .args(["-vb", "htpasswd", user, password]);
        let output = process::run(&mut command, WITHIN).expect("it runs");
        output.status.success()
    };
    let long = "x".repeat(72);
    for (user, password) in [
        ("alice", "one"),
        ("bob@example.com", "a b:c\u{e9}\"'"),
        ("c", &long),
    ] {
        passwd(dir, &["htpasswd", user], format!("{password}\n").as_bytes());
        assert!(verifies(user, password), "{user}");
        assert!(!verifies(user, "other"), "{user}");
    }
    passwd(dir, &["htpasswd", "alice"], b"changed\n");
    assert!(verifies("alice", "changed") && !verifies("alice", "one"));

    // The gateway reads Apache's output: `passwd` warns of hashes that the gateway would refuse.
    for (kind, refused) in [
        ("-B", false),
        ("-m", false),
        ("-s", false),
        ("-d", true),
        ("-5", true),
    ] {
        let mut command = process::command(&htpasswd);
        command
            .current_dir(dir)
            .args(["-b", kind, "htpasswd", "theirs", "password"]);
        assert!(
            process::run(&mut command, WITHIN)
                .expect("it runs")
                .status
                .success()
        );
        let (code, _, err) = passwd(dir, &["htpasswd", "alice"], b"again\n");
        assert_eq!(code, Some(0));
        assert_eq!(err.contains("theirs's hash is"), refused, "{kind}: {err}");
    }
}

#[test]
fn passwd_refuses_bad_input() {
    let dir = temp_dir();
    let dir = dir.path();
    let before = format!("alice:{SHA}\nalice:{SHA}\nbob:$6$salt$hash\n");
    std::fs::write(dir.join("htpasswd"), &before).expect("writable");
    let long = [b'x'; 73];
    for (user, input, code, words) in [
        (
            "anonymous",
            &b"x\n"[..],
            2,
            "mean any client and any logged-in user",
        ),
        ("*", b"x\n", 2, "mean any client and any logged-in user"),
        ("", b"x\n", 2, "the name is empty"),
        ("a:b", b"x\n", 2, "a name has no colon"),
        ("#a", b"x\n", 2, "a name has no colon"),
        ("a\nb", b"x\n", 2, "a name has no colon"),
        ("carol", b"", 1, "the password is empty"),
        ("carol", b"\n", 1, "the password is empty"),
        ("carol", b"a\0b\n", 1, "control character"),
        ("carol", &long, 1, "longer than 72 bytes"),
        (
            "alice",
            b"x\n",
            1,
            "the name is in several lines (1, 2); keep one of them",
        ),
    ] {
        let (status, out, err) = passwd(dir, &["htpasswd", user], input);
        assert_eq!((status, &*out), (Some(code), ""), "{user:?}: {err}");
        assert!(err.contains(words), "{user:?}: {err}");
        assert_eq!(read(dir), before, "{user:?}");
    }
    // An unwritable file is reported.
    let (status, _, err) = passwd(dir, &["absent/htpasswd", "carol"], b"x\n");
    assert_eq!(status, Some(1));
    assert!(
        err.contains("absent/htpasswd: the file cannot be changed: "),
        "{err}"
    );
    // A line with the user's name is replaced, and other faults are reported.
    let (status, out, err) = passwd(dir, &["htpasswd", "bob"], b"x\n");
    assert_eq!((status, &*out), (Some(0), "changed bob in htpasswd\n"));
    assert!(
        err.contains("line 2: the name is in line 1 already"),
        "{err}"
    );
    assert!(!err.contains("bob"), "{err}");
}

/// Whether the terminal that `script` made for its command echoes nothing.
fn is_silent(script: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children"));
    let children = children.unwrap_or_default();
    let command = children.split_whitespace().next().unwrap_or("self");
    let terminal = std::fs::read_link(format!("/proc/{command}/fd/0"));
    let mut stty = process::command("stty");
    let said = terminal.and_then(|path| stty.arg("-aF").arg(path).output());
    said.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains(" -echo "))
}

#[test]
fn terminal_prompts_twice_without_echo() {
    let Some(script) = found(program("script")) else {
        return;
    };
    let dir = temp_dir();
    let dir = dir.path();
    for (again, code, words) in [
        ("s3cret-1", 0, "added alice in htpasswd"),
        ("s3cret-2", 1, "the two are not the same"),
    ] {
        let _ = std::fs::remove_file(dir.join("htpasswd"));
        let mut command = process::command(&script);
        command.current_dir(dir).args([
            "-qefc",
            &format!("{} passwd htpasswd alice", testkit::binary().display()),
        ]);
        command
            .arg("typescript")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut keyboard = child.stdin.take().expect("piped");
        let typescript = dir.join("typescript");
        // Input before the prompt is echoed, as with any program.
        for (prompt, line) in [("New password: ", "s3cret-1"), ("The same again: ", again)] {
            testkit::until(prompt, || {
                process::read_lossy(&typescript).contains(prompt) && is_silent(child.id())
            });
            writeln!(keyboard, "{line}").expect("it listens");
        }
        let (status, out, _) = told(child.wait_with_output().expect("it ends"));
        assert_eq!(status, Some(code), "{out}");
        assert!(out.contains(words) && !out.contains("s3cret"), "{out}");
        assert_eq!(dir.join("htpasswd").exists(), code == 0);
        let _ = std::fs::remove_file(typescript);
    }
}
