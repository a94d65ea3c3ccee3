//! Passwords verified, files read again, guessers slowed.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::accounts::{Accounts, Wrong};

const ALICE: &str = "alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n";
const SOON: Duration = Duration::from_secs(20);

fn at(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("writable");
    std::fs::rename(new, path).expect("replaced");
}

fn opened(text: &str) -> (tempfile::TempDir, Accounts) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("htpasswd");
    write(&path, text);
    let accounts = Accounts::open(&path, [1; 32]).expect("good");
    (dir, accounts)
}
