//! `roadstead passwd`: adds an account to an htpasswd file, changes its password, or deletes it.

use std::io;
use std::path::Path;

use super::disk;
use super::hash::{self, BCRYPT_READS};
use super::htpasswd::{
    Htpasswd, HtpasswdError, NameError, check_name, with_account, without_account,
};

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
    /// The file has no account of the name that is to be deleted.
    #[error("it has no such user")]
    Absent,
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

/// Deletes every line of an account; every other line stays byte for byte. The file is replaced as by [`passwd`]. Returns
/// the lines for which the file is still refused.
///
/// # Errors
/// [`PasswdError::Absent`] where no line names the account, or if the file cannot be changed.
pub fn delete(path: &Path, name: &str) -> Result<Option<HtpasswdError>, PasswdError> {
    check_name(name)?;
    if !path.try_exists()? {
        return Err(PasswdError::File(io::ErrorKind::NotFound.into()));
    }
    let mut faults = None;
    disk::change_accounts(path, |old| -> Result<Vec<u8>, PasswdError> {
        let new = without_account(old, name).ok_or(PasswdError::Absent)?;
        faults = Htpasswd::parse(&new).err();
        Ok(new)
    })?;
    Ok(faults)
}
