//! Content digests: OCI image-spec, descriptor.md "Digests".
//!
//! Only the two registered algorithms in use are accepted. A `Digest` is always well formed and safe as a file
//! name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

/// The registered digest algorithms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// `sha256`: 32 bytes, 64 digits.
    Sha256,
    /// `sha512`: 64 bytes, 128 digits.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

/// A parsed digest; `Display` gives the canonical `algorithm:hex` form, and so does serde, which parses as
/// strictly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Digest {
    /// Of `sha256:` and 64 digits.
    Sha256([u8; 32]),
    /// Of `sha512:` and 128 digits.
    Sha512([u8; 64]),
}

/// Why a text is not a digest (`DIGEST_INVALID`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no colon.
    #[error("a digest is <algorithm>:<hex>")]
    Form,
    /// Before the colon is neither `sha256` nor `sha512`.
    #[error("the digest algorithm is not supported; sha256 and sha512 are")]
    Algorithm,
    /// After the colon is an upper-case or other character, or the wrong number of digits.
    #[error("a digest has exactly 64 (sha256) or 128 (sha512) lower-case hex digits")]
    Hex,
}

impl Digest {
    /// The digest of `bytes` under `algorithm`.
    pub fn of(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm, which decides the number of bytes.
    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The encoded part: 64 or 128 lower-case hex digits.
    pub fn hex(&self) -> String {
        let mut digits = [0; 128];
        self.hex_in(&mut digits).to_owned()
    }

    /// Appends the canonical form.
    pub fn write(&self, text: &mut Vec<u8>) {
        text.extend_from_slice(self.algorithm().as_str().as_bytes());
        text.push(b':');
        text.extend_from_slice(self.hex_bytes(&mut [0; 128]));
    }

    /// The length of the canonical form, in bytes.
    pub fn text_len(&self) -> usize {
        self.algorithm().as_str().len() + 1 + 2 * self.bytes().len()
    }

    /// The hex digits, in `digits`.
    fn hex_in<'a>(&self, digits: &'a mut [u8; 128]) -> &'a str {
        str::from_utf8(self.hex_bytes(digits)).unwrap_or_default()
    }

    fn hex_bytes<'a>(&self, digits: &'a mut [u8; 128]) -> &'a [u8] {
        let bytes = self.bytes();
        for (byte, pair) in bytes.iter().zip(digits.as_chunks_mut().0) {
            *pair = DIGITS[usize::from(*byte)];
        }
        &digits[..bytes.len() * 2]
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        if let Some(hex) = text.strip_prefix("sha256:") {
            decode(hex).map(Self::Sha256)
        } else if let Some(hex) = text.strip_prefix("sha512:") {
            decode(hex).map(Self::Sha512)
        } else if text.contains(':') {
            Err(DigestError::Algorithm)
        } else {
            Err(DigestError::Form)
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The two hex digits of each byte.
const DIGITS: [[u8; 2]; 256] = {
    let mut digits = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        digits[byte] = [
            b"0123456789abcdef"[byte >> 4],
            b"0123456789abcdef"[byte & 15],
        ];
        byte += 1;
    }
    digits
};

/// The value of a byte that is not a lower-case hex digit has this bit.
const NO_DIGIT: u8 = 0x80;
/// The values of bytes as hex digits.
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut value = 0;
    while value < 16 {
        values[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    values
};

fn decode<const N: usize>(hex: &str) -> Result<[u8; N], DigestError> {
    if hex.len() != N * 2 {
        return Err(DigestError::Hex);
    }
    let mut bytes = [0; N];
    let mut invalid = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().as_chunks().0) {
        let [high, low] = pair.map(|digit| VALUES[usize::from(digit)]);
        invalid |= (high | low) & NO_DIGIT;
        *byte = high << 4 | low & 15;
    }
    if invalid != 0 {
        return Err(DigestError::Hex);
    }
    Ok(bytes)
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().as_str())?;
        f.write_str(":")?;
        f.write_str(self.hex_in(&mut [0; 128]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Hashes a body as it streams.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// The state of SHA-256.
    Sha256(sha2::Sha256),
    /// The state of SHA-512, which is larger.
    Sha512(Box<sha2::Sha512>),
}

impl Hasher {
    /// A hasher that has hashed nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::default()),
        }
    }

    /// Hashes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes so far.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hasher) => Digest::Sha256(hasher.finalize().into()),
            Self::Sha512(hasher) => Digest::Sha512(hasher.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vectors_round_trip() {
        for (algorithm, text) in [
            (
                Algorithm::Sha256,
                "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                Algorithm::Sha512,
                "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
                 2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ] {
            let digest = Digest::of(algorithm, b"abc");
            assert_eq!(digest.to_string(), text);
            assert_eq!(text.parse(), Ok(digest));
        }
    }

    #[test]
    fn malformed_digests_are_refused() {
        let good = "a".repeat(64);
        for (text, error) in [
            (good.clone(), DigestError::Form),
            (format!("md5:{good}"), DigestError::Algorithm),
            (format!("SHA256:{good}"), DigestError::Algorithm),
            (format!("sha256:{}", "A".repeat(64)), DigestError::Hex),
            (format!("sha256:{}", "g".repeat(64)), DigestError::Hex),
            (format!("sha256:{good}0"), DigestError::Hex),
            (format!("sha256:{}", &good[1..]), DigestError::Hex),
            (format!("sha512:{good}"), DigestError::Hex),
            (format!("sha256:{good}:"), DigestError::Hex),
            ("sha256:".into(), DigestError::Hex),
            (":".into(), DigestError::Algorithm),
            (format!("sha256:{}é", &good[2..]), DigestError::Hex),
        ] {
            assert_eq!(text.parse::<Digest>(), Err(error), "{text}");
        }
    }
}
