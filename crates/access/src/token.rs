//! Tokens of ours: who came, and what the client asked the token for. They carry no rights.
//!
//! A token is base64url of a payload and an HMAC-SHA256 over the payload and the user's line of the htpasswd
//! file, so that it ends with the password. The payload is one byte each for the version and the kind of
//! token, the expiry in seconds since 1970 in eight, the length of the user's name in one (0 is nobody),
//! the name, and the scopes as text. Pure: the time and the accounts are arguments.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::htpasswd::Account;
use super::scope::Scopes;

const VERSION: u8 = 1;
/// Before everything that is signed, so that no other use of the key can make a token.
const DOMAIN: &[u8] = b"roadstead access token\0";
/// The longest token that is read, in characters.
const MAX_TOKEN: usize = 16 << 10;
const MAC: usize = 32;
/// Version, kind, expiry and the name's length.
const HEAD: usize = 11;

/// Which protocol a token is for; one is never taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `Authorization: Token …` of the v1 API. Clients fetch one for each operation and use it to its
    /// end, so it has to outlive the longest push.
    V1 = 1,
    /// `Authorization: Bearer …` of the v2 API.
    V2 = 2,
}

impl Kind {
    /// How long a token is good.
    pub const fn life(self) -> Duration {
        Duration::from_secs(match self {
            Self::V1 => 6 * 3600,
            Self::V2 => 300,
        })
    }
}

/// What tokens are signed with. Nodes that share it accept each other's tokens, if their files say the
/// same of the user.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a good token says.
#[derive(Clone, Debug)]
pub struct Token {
    /// `None`: anonymous.
    pub account: Option<Arc<Account>>,
    pub scopes: Scopes,
}

/// A token that is not ours, not of this kind, too old, or of a password that has changed since. Which
/// of these is nobody's concern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is not valid any more, or never was")]
pub struct BadToken;

impl TokenKey {
    /// Any secret bytes; at least 32 make it worth its name.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }

    /// A new token, good until `now` and [`Kind::life`].
    pub(super) fn mint(&self, kind: Kind, token: &Token, now: SystemTime) -> String {
        let name = token
            .account
            .as_deref()
            .map_or("", |account| account.name());
        let length = u8::try_from(name.len()).expect("the file has no longer name");
        let mut bytes = vec![VERSION, kind as u8];
        bytes.extend((seconds(now) + kind.life().as_secs()).to_be_bytes());
        bytes.push(length);
        bytes.extend(name.as_bytes());
        bytes.extend(token.scopes.to_string().as_bytes());
        let mac = self.mac(&bytes, token.account.as_deref()).finalize();
        bytes.extend(mac.into_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads a token; `account` looks the user up as the file is now.
    ///
    /// # Errors
    /// [`BadToken`].
    pub(super) fn read(
        &self,
        kind: Kind,
        text: &str,
        now: SystemTime,
        account: impl FnOnce(&str) -> Option<Arc<Account>>,
    ) -> Result<Token, BadToken> {
        if text.len() > MAX_TOKEN {
            return Err(BadToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken)?;
        let (payload, mac) = bytes.split_last_chunk::<MAC>().ok_or(BadToken)?;
        let (head, rest) = payload.split_first_chunk::<HEAD>().ok_or(BadToken)?;
        let [version, of, expiry @ .., length] = *head;
        let (name, scopes) = rest.split_at_checked(length.into()).ok_or(BadToken)?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| BadToken);
        let (name, scopes) = (text(name)?, text(scopes)?);
        let account = match name {
            "" => None,
            name => Some(account(name).ok_or(BadToken)?),
        };
        // In constant time, and before anything of it is believed.
        let signed = self.mac(payload, account.as_deref());
        signed.verify_slice(mac).map_err(|_| BadToken)?;
        if version != VERSION || of != kind as u8 || u64::from_be_bytes(expiry) <= seconds(now) {
            return Err(BadToken);
        }
        let scopes = Scopes::parse([scopes]);
        Ok(Token { account, scopes })
    }

    fn mac(&self, payload: &[u8], account: Option<&Account>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(DOMAIN);
        // Its length, so that nothing moves between payload and line.
        mac.update(&(payload.len() as u64).to_be_bytes());
        mac.update(payload);
        mac.update(account.map_or("", Account::line).as_bytes());
        mac
    }
}

/// A v1 token as old Docker is given it: it sends the whole value back, and may log the repository.
pub(super) fn v1_value(token: &str, repository: &str, access: &str) -> String {
    format!("signature={token},repository=\"{repository}\",access={access}")
}

/// The token in what old Docker sends back. Of several values, which it joins by commas, the first; what
/// stands beside the token is not believed.
pub(super) fn v1_token(value: &str) -> Option<&str> {
    let (_, token) = value.split_once("signature=")?;
    let token = token.trim_start_matches('"');
    let end = token.find([',', '"', ' ']).unwrap_or(token.len());
    Some(&token[..end])
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}
