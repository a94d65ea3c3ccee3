//! `roadstead passwd`: adds an account to an htpasswd file, or changes its password.

use std::io;
use std::path::Path;

use super::disk;
use super::hash::{self, BCRYPT_READS};
use super::htpasswd::{Htpasswd, HtpasswdError, NameError, check_name, with_account};

/// Why an account cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum PasswdError {
    /// No account can have this name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An empty password would let every client in.
    #[error("the password is empty")]
    Empty,
    /// bcrypt would ignore its end.
    #[error("the password is longer than {BCRYPT_READS} bytes, and bcrypt reads no more")]
    Long,
    /// A control character, such as the end of a line.
    #[error("the password has a control character, which no client can send")]
    Control,
    /// The file has several accounts of this name, in these lines, counted from 1.
    #[error("the name is in several lines ({}); keep one of them", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<usize>),
    /// The file cannot be read, locked or replaced.
    #[error("the file cannot be changed: {0}")]
    File(#[from] io::Error),
    /// There is no salt for the hash.
    #[error("the system's random generator failed: {0}")]
    Random(#[from] bcrypt::BcryptError),
}

/// The outcome of a change.
#[derive(Debug)]
pub struct Changed {
    /// Whether the account is new.
    pub added: bool,
    /// Other lines, for which the file is still refused.
    pub faults: Option<HtpasswdError>,
}

/// Writes the account's line, with bcrypt at cost 10; every other line stays byte for byte. The file is replaced
/// atomically, keeps its mode and owner, and is created with mode 0600 where there is none.
///
/// # Errors
/// [`PasswdError`] for an unusable name or password, or a file that cannot be changed.
pub fn passwd(path: &Path, name: &str, password: &[u8]) -> Result<Changed, PasswdError> {
    check_name(name)?;
    if password.is_empty() {
        return Err(PasswdError::Empty);
    }
    if password.len() > BCRYPT_READS {
        return Err(PasswdError::Long);
    }
    if password.iter().any(u8::is_ascii_control) {
        return Err(PasswdError::Control);
    }
    let hash = hash::of(password)?;
    let mut changed = Changed {
        added: true,
        faults: None,
    };
    disk::change_accounts(path, |old| -> Result<Vec<u8>, PasswdError> {
        let (new, added) = with_account(old, name, &hash).map_err(PasswdError::Several)?;
        changed.added = added;
        changed.faults = Htpasswd::parse(&new).err();
        Ok(new)
    })?;
    Ok(changed)
}
