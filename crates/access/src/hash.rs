//! Password hashes of htpasswd files: bcrypt, apr1 and `{SHA}`. Pure; comparisons take constant time.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;

/// The accepted costs of bcrypt. `htpasswd` writes at most cost 17; a check above that takes over ten seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=17;
/// The cost of new hashes: a tenth of a second on a small machine, once in five minutes for each
/// user, since successes are remembered. A guesser with the file makes ten guesses a second and core.
pub(super) const OUR_COST: u32 = 10;
/// The longest password that is checked; a longer one is wrong. Apache's tool takes 255 bytes.
const MAX_PASSWORD: usize = 1024;
/// How many bytes of a password bcrypt reads; as in Apache, the rest does not count.
pub(super) const BCRYPT_READS: usize = 72;

const APR1: &str = "$apr1$";
const SHA: &str = "{SHA}";
/// The digits of crypt(3), the least significant first.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// The order in which apr1 writes the digest's bytes, three to a group.
const ORDER: [[usize; 3]; 5] = [[12, 6, 0], [13, 7, 1], [14, 8, 2], [15, 9, 3], [5, 10, 4]];

/// A password's hash.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Hash {
    /// As written, known to be well-formed.
    Bcrypt {
        cost: u32,
        text: Box<str>,
    },
    Apr1 {
        salt: Box<str>,
        digest: [u8; 22],
    },
    Sha1([u8; 20]),
}

/// The cost of a check, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Sha1,
    Apr1,
    Bcrypt(u32),
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}(…)", self.kind())
    }
}

impl Hash {
    /// # Errors
    /// What the text is instead, to follow "NAME's".
    pub fn parse(text: &str) -> Result<Self, HashError> {
        if let Some(rest) = text.strip_prefix(APR1) {
            return apr1(rest).ok_or(HashError::Broken("apr1"));
        }
        if let Some(rest) = text.strip_prefix(SHA) {
            let digest = STANDARD.decode(rest).ok();
            let digest = digest.and_then(|digest| digest.try_into().ok());
            return digest.map(Self::Sha1).ok_or(HashError::Broken("{SHA}"));
        }
        if ["$2a$", "$2b$", "$2y$"]
            .iter()
            .any(|id| text.starts_with(id))
        {
            return bcrypt(text);
        }
        let known = FOREIGN.iter().find(|(id, _)| text.starts_with(id));
        Err(HashError::Foreign(known.map_or(
            "neither bcrypt, apr1 nor {SHA}, but plain text or crypt",
            |(_, name)| *name,
        )))
    }

    /// Whether this is the hash of the password. It takes as long as [`Hash::kind`] says, seconds even.
    pub fn verify(&self, password: &[u8]) -> bool {
        let fits = password.len() <= MAX_PASSWORD && !password.contains(&0);
        let password = if fits { password } else { b"" };
        let same = match self {
            Self::Bcrypt { text, .. } => bcrypt::verify(password, text).unwrap_or(false),
            Self::Apr1 { salt, digest } => {
                apr1_digest(password, salt.as_bytes()).ct_eq(digest).into()
            }
            Self::Sha1(digest) => Sha1::digest(password).as_slice().ct_eq(digest).into(),
        };
        same && fits
    }

    pub fn kind(&self) -> Kind {
        match self {
            Self::Bcrypt { cost, .. } => Kind::Bcrypt(*cost),
            Self::Apr1 { .. } => Kind::Apr1,
            Self::Sha1(_) => Kind::Sha1,
        }
    }

    /// The hash to compare with where there are no accounts, of the cost of new hashes. It may match any password, since
    /// an unknown user is refused anyway.
    pub fn nobodys() -> Self {
        let (salt, digest) = (".".repeat(22), ".".repeat(31));
        Self::Bcrypt {
            cost: OUR_COST,
            text: format!("$2y${OUR_COST}${salt}{digest}").into(),
        }
    }
}

/// The line's hash for a new password.
///
/// # Errors
/// If the system's random generator fails.
pub(super) fn of(password: &[u8]) -> Result<String, bcrypt::BcryptError> {
    let parts = bcrypt::hash_with_result(password, OUR_COST)?;
    Ok(parts.format_for_version(bcrypt::Version::TwoY))
}

const FOREIGN: &[(&str, &str)] = &[
    ("$1$", "MD5 crypt, which is too weak"),
    ("$2x$", "bcrypt of a version with a known fault"),
    ("$5$", "SHA-256 crypt, which is not supported"),
    ("$6$", "SHA-512 crypt, which is not supported"),
    ("$7$", "scrypt, which is not supported"),
    ("$y$", "yescrypt, which is not supported"),
    ("$argon2", "Argon2, which is not supported"),
    ("{SSHA", "salted SHA, which is not supported"),
    ("{PLAIN}", "plain text"),
];

/// Why a text is not a supported hash: the end of a sentence that begins with the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    #[error("hash is {0}")]
    Foreign(&'static str),
    #[error("{0} hash is cut short or mistyped")]
    Broken(&'static str),
    #[error("bcrypt hash has cost {0}; 4 to 17 can be checked")]
    Cost(u32),
}

fn bcrypt(text: &str) -> Result<Hash, HashError> {
    const BROKEN: HashError = HashError::Broken("bcrypt");
    // The crate takes `+5` for a cost.
    let cost = text
        .get(4..6)
        .filter(|cost| cost.bytes().all(|byte| byte.is_ascii_digit()));
    let cost = cost.and_then(|cost| cost.parse().ok()).ok_or(BROKEN)?;
    text.parse::<bcrypt::HashParts>().map_err(|_| BROKEN)?;
    if !COSTS.contains(&cost) {
        return Err(HashError::Cost(cost));
    }
    let text = text.into();
    Ok(Hash::Bcrypt { cost, text })
}

/// `salt$digest`: a salt of 1 to 8 digits, a digest of 22, the last of which holds two bits.
fn apr1(text: &str) -> Option<Hash> {
    let (salt, digest) = text.split_once('$')?;
    let digest: [u8; 22] = digest.as_bytes().try_into().ok()?;
    let mut digits = salt.bytes().chain(digest);
    let whole = (1..=8).contains(&salt.len())
        && digits.all(|digit| DIGITS.contains(&digit))
        && DIGITS[..4].contains(&digest[21]);
    let salt = salt.into();
    whole.then_some(Hash::Apr1 { salt, digest })
}

/// Apache's variant of MD5 crypt: a thousand rounds that mix password, salt and the digest so far.
fn apr1_digest(password: &[u8], salt: &[u8]) -> [u8; 22] {
    let inner = Md5::new().chain_update(password).chain_update(salt);
    let inner = inner.chain_update(password).finalize();
    let mut first = Md5::new().chain_update(password);
    first.update(APR1);
    first.update(salt);
    for piece in password.chunks(inner.len()) {
        first.update(&inner[..piece.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        first.update(if bits & 1 == 1 { &[0] } else { &password[..1] });
        bits >>= 1;
    }
    let mut digest = first.finalize();
    for round in 0..1000 {
        let (before, after) = if round % 2 == 1 {
            (password, digest.as_slice())
        } else {
            (digest.as_slice(), password)
        };
        let mut next = Md5::new().chain_update(before);
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(after);
        digest = next.finalize();
    }
    let mut text = [0; 22];
    let groups = ORDER.map(|group| group.map(|at| digest[at]));
    for (digits, [low, middle, high]) in text.chunks_mut(4).zip(groups) {
        write(digits, u32::from_be_bytes([0, high, middle, low]));
    }
    write(&mut text[20..], u32::from(digest[11]));
    text
}

/// Writes a number in six-bit digits.
fn write(digits: &mut [u8], mut number: u32) {
    for digit in digits {
        *digit = DIGITS[(number & 63) as usize];
        number >>= 6;
    }
}
