//! The tokens that the gateway issues. They name the user and the requested scopes, and carry no rights.
//!
//! A token is base64url of a payload and an HMAC-SHA256 over the payload and the user's line of the htpasswd
//! file, so that a changed password invalidates it. The payload is one byte each for the version and the kind of
//! token, the expiry in seconds since 1970 in eight, the length of the user's name in one (0 is anonymous),
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
/// Prefixes all signed data, so that no other use of the key can produce a token.
const DOMAIN: &[u8] = b"roadstead access token\0";
/// The longest token that is read, in characters.
const MAX_TOKEN: usize = 16 << 10;
const MAC: usize = 32;
/// Version, kind, expiry and the name's length.
const HEAD: usize = 11;

/// The authentication scheme that a token is issued for. A token of one kind is never accepted as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// `Authorization: Token …`, from `X-Docker-Token`. Clients fetch one for each operation and never renew it, so it
    /// has to outlive the longest push.
    Docker = 1,
    /// `Authorization: Bearer …`, from `/token`.
    Bearer = 2,
}

impl TokenKind {
    /// How long a token is valid.
    pub const fn life(self) -> Duration {
        Duration::from_secs(match self {
            Self::Docker => 6 * 3600,
            Self::Bearer => 300,
        })
    }
}

/// The key that signs tokens. Gateways that share it accept each other's tokens where their htpasswd files have the
/// same line for the user.
#[derive(Clone)]
pub struct TokenKey(Hmac<Sha256>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The content of a valid token.
#[derive(Clone, Debug)]
pub struct Token {
    /// `None`: anonymous.
    pub account: Option<Arc<Account>>,
    pub scopes: Scopes,
}

/// A token that is forged, of the other kind, expired, or issued before the password changed. Which of these is
/// not disclosed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token is invalid or expired")]
pub struct BadToken;

impl TokenKey {
    /// A key of any secret bytes; use at least 32.
    pub fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes keys of any length"))
    }

    /// Issues a token that is valid for [`TokenKind::life`] from `now` on.
    pub(super) fn mint(&self, kind: TokenKind, token: &Token, now: SystemTime) -> String {
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

    /// Verifies a token, and returns it with the end of its validity; `account` looks the user up in the current
    /// htpasswd file.
    ///
    /// # Errors
    /// [`BadToken`] for any token that is not valid now.
    pub(super) fn read(
        &self,
        kind: TokenKind,
        text: &str,
        now: SystemTime,
        account: impl FnOnce(&str) -> Option<Arc<Account>>,
    ) -> Result<(Token, SystemTime), BadToken> {
        if text.len() > MAX_TOKEN {
            return Err(BadToken);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| BadToken)?;
        let (payload, mac) = bytes.split_last_chunk::<MAC>().ok_or(BadToken)?;
        let (head, rest) = payload.split_first_chunk::<HEAD>().ok_or(BadToken)?;
        let [version, token_kind, expiry @ .., length] = *head;
        let (name, scopes) = rest.split_at_checked(length.into()).ok_or(BadToken)?;
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| BadToken);
        let (name, scopes) = (text(name)?, text(scopes)?);
        let account = match name {
            "" => None,
            name => Some(account(name).ok_or(BadToken)?),
        };
        // In constant time, and before any field is trusted.
        let signed = self.mac(payload, account.as_deref());
        signed.verify_slice(mac).map_err(|_| BadToken)?;
        if version != VERSION
            || token_kind != kind as u8
            || u64::from_be_bytes(expiry) <= seconds(now)
        {
            return Err(BadToken);
        }
        let scopes = Scopes::parse([scopes]);
        let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from_be_bytes(expiry));
        Ok((Token { account, scopes }, expires))
    }

    fn mac(&self, payload: &[u8], account: Option<&Account>) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(DOMAIN);
        // The length, so that no byte can move between payload and line.
        mac.update(&(payload.len() as u64).to_be_bytes());
        mac.update(payload);
        mac.update(account.map_or("", Account::line).as_bytes());
        mac
    }
}

/// The value of `X-Docker-Token`. Docker sends all of it back, and may log the repository.
pub(super) fn docker_token_value(token: &str, repository: &str, access: &str) -> String {
    format!("signature={token},repository=\"{repository}\",access={access}")
}

/// The token in the value that Docker sends back: the first of several, which Docker joins by commas. The fields
/// beside it are not trusted.
pub(super) fn token_in_docker_value(value: &str) -> Option<&str> {
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
