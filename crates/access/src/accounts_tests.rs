//! Passwords verified, files read again, guessers slowed.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::accounts::{Accounts, Wrong};

/// The hash of `password`.
const SHA: &str = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
/// The hash of nothing we know.
const OTHER: &str = "{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=";

struct Scene {
    accounts: Accounts,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("htpasswd");
        replace(&path, text);
        let accounts = Accounts::open(&path, [1; 32]).expect("a good file");
        Self {
            accounts,
            path,
            _dir: dir,
        }
    }

    /// The file says something else, and has been looked at.
    fn change(&self, text: &str) {
        replace(&self.path, text);
        self.accounts.look();
    }

    async fn verify(&self, user: &str, password: &str, last: u8) -> Result<String, Wrong> {
        let account = self
            .accounts
            .verify(user, password.as_bytes(), at(last))
            .await?;
        Ok(account.name().to_string())
    }
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("writable");
    std::fs::rename(new, path).expect("replaced");
}

fn at(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn is_slow(verdict: &Result<String, Wrong>) -> bool {
    matches!(verdict, Err(Wrong::SlowDown(pause)) if *pause > Duration::ZERO)
}

#[tokio::test]
async fn the_right_password_and_no_other() {
    let scene = Scene::new(&format!("alice:{SHA}\nbob:{OTHER}\n"));
    for (user, password, expected) in [
        ("alice", "password", Ok("alice".to_owned())),
        ("alice", "Password", Err(Wrong::Password)),
        ("alice", "", Err(Wrong::Password)),
        ("bob", "password", Err(Wrong::Password)),
        // The decoy is a hash of `password` too; an unknown user is refused all the same.
        ("carol", "password", Err(Wrong::Password)),
        ("", "password", Err(Wrong::Password)),
        ("alice", "password", Ok("alice".to_owned())),
    ] {
        let verdict = scene.verify(user, password, 1).await;
        assert_eq!(verdict, expected, "{user}:{password}");
    }
    let empty = Scene::new("");
    assert_eq!(
        empty.verify("alice", "password", 1).await,
        Err(Wrong::Password)
    );
}

#[tokio::test]
async fn a_changed_file_acts_and_a_broken_one_does_not() {
    let scene = Scene::new(&format!("alice:{SHA}\n"));
    let alice = || scene.verify("alice", "password", 1);
    let bob = || scene.verify("bob", "password", 2);
    assert!(alice().await.is_ok() && bob().await.is_err());
    scene.change(&format!("alice:{OTHER}\nbob:{SHA}\n"));
    // It was remembered, but for another line.
    assert!(alice().await.is_err() && bob().await.is_ok());
    scene.change(&format!("alice:{SHA}\nbob:$6$no\n"));
    assert!(alice().await.is_err() && bob().await.is_ok());
    std::fs::remove_file(&scene.path).expect("removed");
    scene.accounts.look();
    assert!(bob().await.is_ok());
    scene.change(&format!("alice:{SHA}\n"));
    assert!(alice().await.is_ok() && bob().await.is_err());
    scene.change("");
    assert!(alice().await.is_err());
}

/// Without being told to look: requests make it look.
#[tokio::test]
async fn requests_find_the_change() {
    let scene = Scene::new("");
    replace(&scene.path, &format!("alice:{SHA}\n"));
    let deadline = Instant::now() + Duration::from_secs(20);
    while scene.accounts.current().await.is_empty() {
        assert!(Instant::now() < deadline, "the change was not found");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(scene.verify("alice", "password", 1).await.is_ok());
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_wrong_with_the_file_is_said_once() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone());
    let said = || {
        let mut bytes = log.0.lock().expect("no panic");
        String::from_utf8(std::mem::take(&mut *bytes)).expect("UTF-8")
    };
    let scene = Scene::new(&format!("alice:{SHA}\n"));
    // With one subscriber alone, a line that another test's thread comes to first is off for good.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::subscriber::with_default(subscriber.finish(), || {
        scene.change(&format!("alice:{SHA}\n"));
        assert_eq!(said(), "");
        scene.change("alice:$6$hash\n");
        let line = said();
        assert!(
            line.contains("ERROR") && line.contains("line 1: alice's hash is SHA-512 crypt"),
            "{line}"
        );
        assert!(
            !line.contains("$6$hash") && line.lines().count() == 1,
            "{line}"
        );
        scene.accounts.look();
        assert_eq!(said(), "");
        std::fs::remove_file(&scene.path).expect("removed");
        scene.accounts.look();
        scene.accounts.look();
        let line = said();
        assert!(
            line.contains("cannot be read")
                && line.matches("No such file").count() == 1
                && line.lines().count() == 1,
            "{line}"
        );
        scene.change(&format!("bob:{SHA}\n"));
        let line = said();
        assert!(
            line.contains("INFO") && line.contains("accounts=1"),
            "{line}"
        );
    });
}

#[tokio::test]
async fn a_right_password_is_remembered_as_long_as_its_line_stands() {
    let scene = Scene::new(&format!("alice:{SHA}\n"));
    assert!(scene.verify("alice", "password", 1).await.is_ok());
    scene.accounts.guessed("alice", at(1), 30);
    assert!(is_slow(&scene.verify("alice", "guess", 1).await));
    // Nothing is verified: else it would have to wait.
    assert!(scene.verify("alice", "password", 1).await.is_ok());
    scene.change(&format!("alice:{SHA}:another line is another hash\n"));
    assert!(
        scene.verify("alice", "password", 1).await.is_ok(),
        "the same hash"
    );
    scene.change(&format!("alice:{OTHER}\n"));
    assert!(is_slow(&scene.verify("alice", "password", 1).await));
}

#[tokio::test]
async fn guesses_are_slowed_without_lockout() {
    let scene = Scene::new(&format!("alice:{SHA}\nbob:{SHA}\n"));
    let verdict = scene.verify("alice", "guess", 1).await;
    assert_eq!(verdict, Err(Wrong::Password));
    scene.accounts.guessed("alice", at(1), 30);
    assert!(is_slow(&scene.verify("alice", "another guess", 1).await));
    // What is known to be wrong costs nothing, and tells nothing new.
    assert_eq!(
        scene.verify("alice", "guess", 1).await,
        Err(Wrong::Password)
    );
    // Even the right one: else guessing would go on at full speed.
    assert!(is_slow(&scene.verify("alice", "password", 1).await));
    // Not at another address, nor another user.
    assert!(scene.verify("alice", "password", 2).await.is_ok());
    assert!(scene.verify("bob", "password", 1).await.is_ok());
    // Many users at one address.
    for user in 0..216 {
        scene.accounts.guessed(&format!("user {user}"), at(3), 1);
    }
    assert!(is_slow(&scene.verify("one more", "guess", 3).await));
    assert!(scene.verify("alice", "password", 4).await.is_ok());
}

#[tokio::test]
async fn a_flood_of_guesses_is_slowed_like_one_after_the_other() {
    let scene = Arc::new(Scene::new(&format!("alice:{SHA}\n")));
    let guesses: Vec<_> = (0..200)
        .map(|guess| {
            let scene = scene.clone();
            tokio::spawn(async move { scene.verify("alice", &format!("guess {guess}"), 1).await })
        })
        .collect();
    let mut looked_at = 0;
    for guess in guesses {
        match guess.await.expect("no panic") {
            Err(Wrong::Password) => looked_at += 1,
            verdict => assert!(is_slow(&verdict), "{verdict:?}"),
        }
    }
    // Ten, those that were being verified meanwhile, and one more for each pause that is waited for.
    assert!((10..50).contains(&looked_at), "{looked_at} of 200");
}

/// On a runtime of one thread, so that a verification on it would let nothing else run.
#[tokio::test]
async fn verification_stops_nothing_else() {
    let hash = bcrypt::hash_with_salt("password", 10, [7; 16]).expect("a hash");
    let hash = hash.format_for_version(bcrypt::Version::TwoY);
    let scene = Arc::new(Scene::new(&format!("alice:{hash}\n")));
    let verifying = tokio::spawn({
        let scene = scene.clone();
        async move { scene.verify("alice", "password", 1).await }
    });
    let mut others = 0_u32;
    while !verifying.is_finished() {
        tokio::task::yield_now().await;
        others += 1;
    }
    assert!(verifying.await.expect("no panic").is_ok());
    assert!(others > 20, "others ran {others} times");
}
