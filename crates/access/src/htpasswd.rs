//! htpasswd files, in Apache's format: `name:hash` in each line, empty lines and comments that begin
//! with `#`. Hashes are bcrypt (`$2a$`, `$2b$`, `$2y$`), apr1 and `{SHA}`; a file with any other line is
//! refused as a whole. Pure: bytes in, accounts out.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::hash::{Hash, HashError};

/// The largest file that is read, in bytes: some 100,000 accounts.
pub const MAX_BYTES: u64 = 8 << 20;
/// The longest name, in bytes; Apache's tool takes no longer one.
const MAX_NAME: usize = 255;
/// How many faulty lines a message lists.
const MAX_TOLD: usize = 10;

/// One user of the file.
pub struct Account {
    name: Arc<str>,
    /// `name:hash`. Tokens and remembered successes are bound to it, so that a change ends them.
    line: Box<str>,
    pub(super) hash: Hash,
}

impl Account {
    /// The user name, as rules and logs have it.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The line that tokens and remembered successes are bound to. It is secret.
    pub(super) fn line(&self) -> &str {
        &self.line
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Account({:?})", self.name)
    }
}

/// The accounts of one file.
#[derive(Debug)]
pub struct Htpasswd {
    accounts: HashMap<Arc<str>, Arc<Account>>,
    /// The hash that an unknown user's password is compared with, so that it takes as long as a known one's: of the kind
    /// that most lines have.
    pub(super) decoy: Hash,
}

impl Htpasswd {
    /// Reads a whole file.
    ///
    /// # Errors
    /// [`HtpasswdError`], with every line that is no account.
    pub fn parse(bytes: &[u8]) -> Result<Self, HtpasswdError> {
        let mut places: HashMap<Arc<str>, usize> = HashMap::new();
        let mut accounts = HashMap::new();
        let mut faults = Vec::new();
        for (number, line) in lines(bytes) {
            let account = match account(line) {
                Ok(None) => continue,
                Ok(Some(account)) => account,
                Err(reason) => {
                    faults.push(LineFault {
                        line: number,
                        reason,
                    });
                    continue;
                }
            };
            if let Some(first) = places.insert(account.name.clone(), number) {
                let reason = Reason::Twice { first };
                faults.push(LineFault {
                    line: number,
                    reason,
                });
            }
            accounts.insert(account.name.clone(), Arc::new(account));
        }
        if faults.is_empty() {
            let decoy = usual(&accounts);
            Ok(Self { accounts, decoy })
        } else {
            Err(HtpasswdError(faults))
        }
    }

    /// The account of this name, upper and lower case distinguished.
    pub fn account(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.get(name)
    }

    /// The names, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.accounts.keys().map(|name| &**name)
    }

    /// The number of accounts.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Whether there is no account.
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }
}

/// The hash of an account whose kind and cost most accounts share.
fn usual(accounts: &HashMap<Arc<str>, Arc<Account>>) -> Hash {
    let mut kinds: HashMap<_, (usize, &Account)> = HashMap::new();
    for account in accounts.values() {
        kinds.entry(account.hash.kind()).or_insert((0, account)).0 += 1;
    }
    // Among equals the costliest, so that the choice does not depend on the map's order.
    let usual = kinds
        .into_iter()
        .max_by_key(|(kind, (count, _))| (*count, *kind));
    usual.map_or_else(Hash::nobodys, |(_, (_, account))| account.hash.clone())
}

/// The lines and their numbers, from 1.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
    (1..).zip(bytes.split(|&byte| byte == b'\n'))
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// One line; `None` for an empty one and for a comment.
fn account(line: &[u8]) -> Result<Option<Account>, Reason> {
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    let line = std::str::from_utf8(line).map_err(|_| Reason::NotText)?;
    let (name, rest) = line.split_once(':').ok_or(Reason::NoColon)?;
    check_name(name)?;
    // As in Apache, everything after a second colon is ignored.
    let hash = rest.split_once(':').map_or(rest, |(hash, _)| hash);
    let name: Arc<str> = name.into();
    Ok(Some(Account {
        line: format!("{name}:{hash}").into(),
        hash: Hash::parse(hash).map_err(|reason| Reason::Hash {
            name: name.clone(),
            reason,
        })?,
        name,
    }))
}

/// Whether an account may have this name.
///
/// # Errors
/// [`NameError`], with the cause.
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        Err(NameError::Empty)
    } else if name.len() > MAX_NAME {
        Err(NameError::Long)
    } else if name == "anonymous" || name == "*" {
        Err(NameError::Reserved)
    } else if name.contains(':')
        || name.contains(char::is_control)
        || name.starts_with('#')
        || name.trim() != name
    {
        Err(NameError::Letters)
    } else {
        Ok(())
    }
}

/// Why a text cannot be the name of an account: the end of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is no character before the colon.
    #[error("the name is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("the name is longer than {MAX_NAME} bytes")]
    Long,
    /// `anonymous` or `*`, which have a meaning in rules.
    #[error(
        "`anonymous` and `*` mean any client and any logged-in user in rules; write another name"
    )]
    Reserved,
    /// A colon or a control character, or `#` or a space where the file's format gives it a meaning.
    #[error("a name has no colon, no control character, no `#` before it and no space around it")]
    Letters,
}

/// Why a line is no account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("it is not UTF-8; save the file as UTF-8")]
    NotText,
    #[error("it has no colon; write name:hash, or remove it")]
    NoColon,
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("the name is in line {first} already; keep one of them")]
    Twice { first: usize },
    #[error("{name}'s {reason}; write it anew with `roadstead passwd`")]
    Hash { name: Arc<str>, reason: HashError },
}

/// An invalid line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineFault {
    /// From 1.
    pub line: usize,
    /// Contains no hash.
    pub reason: Reason,
}

/// Every line that is no account, in the order of the file; at least one. Displays as one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HtpasswdError(Vec<LineFault>);

impl HtpasswdError {
    /// The faults, one for each of these lines.
    pub fn as_slice(&self) -> &[LineFault] {
        &self.0
    }
}

impl fmt::Display for HtpasswdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, LineFault { line, reason }) in self.0.iter().take(MAX_TOLD).enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}line {line}: {reason}")?;
        }
        match self.0.len().saturating_sub(MAX_TOLD) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for HtpasswdError {}

/// The file with `name`'s line added or replaced, and whether it was added; every other byte stays. The
/// file may have faults elsewhere.
///
/// # Errors
/// The numbers of the lines that name the account, where there are several.
pub(super) fn with_account(
    file: &[u8],
    name: &str,
    hash: &str,
) -> Result<(Vec<u8>, bool), Vec<usize>> {
    let start = start(file);
    let found: Vec<_> = lines_of(file, name).collect();
    let line = format!("{name}:{hash}");
    match found.as_slice() {
        [] => {
            let crlf = file.windows(2).any(|pair| pair == b"\r\n");
            let newline: &[u8] = if crlf { b"\r\n" } else { b"\n" };
            let unfinished = file.len() > start && !file.ends_with(b"\n");
            let before: &[u8] = if unfinished { newline } else { b"" };
            Ok(([file, before, line.as_bytes(), newline].concat(), true))
        }
        [(_, range)] => {
            let old = &file[range.clone()];
            let indent = old.len() - old.trim_ascii_start().len();
            let (before, after) = (
                &file[..range.start + indent],
                &file[range.start + old.trim_ascii_end().len()..],
            );
            Ok(([before, line.as_bytes(), after].concat(), false))
        }
        several => Err(several.iter().map(|(number, _)| *number).collect()),
    }
}

/// The file without the lines of `name`; `None` if there is none. Every other byte stays.
pub(super) fn without_account(file: &[u8], name: &str) -> Option<Vec<u8>> {
    let mut rest = Vec::with_capacity(file.len());
    let mut at = 0;
    for (_, range) in lines_of(file, name) {
        rest.extend_from_slice(&file[at..range.start]);
        // With the end of the line.
        at = file.len().min(range.end + 1);
    }
    (at > 0).then(|| {
        rest.extend_from_slice(&file[at..]);
        rest
    })
}

/// Where the first line begins.
fn start(file: &[u8]) -> usize {
    if file.starts_with(BOM) { BOM.len() } else { 0 }
}

/// The numbers and places of the lines that name an account, without their ends.
fn lines_of(file: &[u8], name: &str) -> impl Iterator<Item = (usize, Range<usize>)> {
    let mut at = start(file);
    lines(file).filter_map(move |(number, line)| {
        let range = at..at + line.len();
        at = range.end + 1;
        let named = line.trim_ascii().strip_prefix(name.as_bytes())?;
        named.starts_with(b":").then_some((number, range))
    })
}
