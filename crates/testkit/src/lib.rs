//! The harness of the integration tests.
//!
//! Its modules:
//!
//! - [`gateway`]: the real `roadstead` binary in a temporary directory
//! - [`origin`]: a scripted v2 upstream over real sockets, whose faults are switched while it runs
//! - [`http`]: a raw HTTP/1.1 client that reports exactly how a body ended, and reqwest for h1 and h2
//! - [`v1`]: a scripted v1 registry
//! - [`image`]: deterministic OCI images, generated from a seed
//! - [`s3`]: a scripted object store
//! - [`store`]: files of a store with many repositories
//! - [`real`]: real registries and real clients from Debian's packages
//!
//! Rules: nothing sleeps to synchronise (a condition is polled under a deadline, or a line is read), no
//! port is fixed, every wait has a timeout, every child process is killed when its handle is dropped.

#![allow(
    clippy::disallowed_methods,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::new_without_default,
    clippy::return_self_not_must_use,
    reason = "tests are its only users, and read the code; their threads are their own"
)]

pub mod disk;
pub mod gateway;
pub mod http;
pub mod image;
pub mod origin;
pub mod process;
pub mod real;
pub mod s3;
pub mod store;
pub mod tls;
pub mod v1;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use sha2::Digest as _;
use tempfile::TempDir;

/// A directory that is removed when it is dropped.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new()
        .prefix("roadstead-")
        .tempdir()
        .expect("a temporary directory")
}

/// The timeout for anything that should happen at once.
pub const SOON: Duration = Duration::from_secs(20);

/// Polls `look` until it returns a value. Panics with `what` after `within`.
#[track_caller]
pub fn eventually_within<T>(
    within: Duration,
    what: &str,
    mut look: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "waited {within:?} in vain for: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// [`eventually_within`] [`SOON`].
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(SOON, what, look)
}

/// [`eventually`] for a condition.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// A private address for a program that cannot report the port it chose: a loopback address that no
/// other caller of this process gets, and a port that was just free on it.
///
/// The middle octets are the process id's, so another test process cannot take the port meanwhile.
pub fn private_address() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(2);
    let last = NEXT.fetch_add(1, Ordering::Relaxed).clamp(2, 250);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = Ipv4Addr::new(127, high % 250 + 1, low, last);
    free_port_on(ip)
}

/// A port of `ip` that was just free.
pub fn free_port_on(ip: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((ip, 0))
        .and_then(|listener| listener.local_addr())
        .unwrap_or_else(|error| panic!("no free port on {ip}: {error}"))
}

/// `sha256:…` of some bytes.
pub fn sha256(bytes: &[u8]) -> String {
    digest_text("sha256", &sha2::Sha256::digest(bytes))
}

/// `sha512:…` of some bytes.
pub fn sha512(bytes: &[u8]) -> String {
    digest_text("sha512", &sha2::Sha512::digest(bytes))
}

fn digest_text(algorithm: &str, hash: &[u8]) -> String {
    use std::fmt::Write as _;
    hash.iter().fold(format!("{algorithm}:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether `text` matches `pattern`, where every `*` stands for any characters, `/` included.
pub fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    loop {
        if matches(rest, text) {
            return true;
        }
        let mut letters = text.chars();
        if letters.next().is_none() {
            return false;
        }
        text = letters.as_str();
    }
}

/// The value of an `Authorization` header for a Basic account.
pub fn basic(user: &str, password: &str) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("Basic ");
    for three in format!("{user}:{password}").as_bytes().chunks(3) {
        let at = |index: usize| u32::from(*three.get(index).unwrap_or(&0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for (index, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let letter = LETTERS[(bits >> shift & 63) as usize];
            text.push(if index > three.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

/// A gzip file of these bytes, stored without compression.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut pieces = bytes.chunks(0xffff).peekable();
    if bytes.is_empty() {
        file.extend([1, 0, 0, 0xff, 0xff]);
    }
    while let Some(piece) = pieces.next() {
        let length = u16::try_from(piece.len()).expect("at most 65535");
        file.push(u8::from(pieces.peek().is_none()));
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(piece);
    }
    let crc = !bytes.iter().fold(!0_u32, |crc, &byte| {
        let index = crc.to_le_bytes()[0] ^ byte;
        crc >> 8 ^ CRC[usize::from(index)]
    });
    file.extend(crc.to_le_bytes());
    let length = u32::try_from(bytes.len()).expect("under 4 GiB");
    file.extend(length.to_le_bytes());
    file
}

/// The CRC-32 of every byte.
const CRC: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            bit += 1;
        }
        table[byte as usize] = crc;
        byte += 1;
    }
    table
};

/// The program under test, which Cargo builds one folder above the integration test.
pub fn binary() -> &'static std::path::Path {
    static BINARY: std::sync::LazyLock<std::path::PathBuf> = std::sync::LazyLock::new(|| {
        let test = std::env::current_exe().expect("the test's own path");
        let folder = test.parent().and_then(std::path::Path::parent);
        folder.expect("a target folder").join("roadstead")
    });
    &BINARY
}

/// The repository's top folder.
pub fn root() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
