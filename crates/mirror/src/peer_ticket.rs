//! Tickets: how the gateways of a bucket authenticate their requests to each other.
//!
//! A ticket is a MAC over one request to one gateway, valid for a minute, under a key that is derived from the bucket's
//! secret. The bucket's credentials themselves are never sent. Pure.

use std::fmt::{self, Write as _};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use oci::digest::Digest;

/// The scheme of the `Authorization` header.
const SCHEME: &str = "Roadstead-Peer ";
/// Separates this key from all others derived from the secret.
const KEY_LABEL: &str = "roadstead peer key 1";
/// How long a ticket is valid, in seconds.
const LIFETIME: u64 = 60;
/// How far the nodes' clocks may differ, in seconds.
const MAX_CLOCK_SKEW: u64 = 60;
/// The length of a MAC, in hexadecimal digits.
const MAC_DIGITS: usize = 64;

/// The key of the gateways that share a bucket.
#[derive(Clone)]
pub struct PeerKey([u8; 32]);

/// The request that a ticket is for.
#[derive(Clone, Copy, Debug)]
pub struct TicketScope<'a> {
    /// The URL of the gateway that is asked, as it advertises itself: no other accepts the ticket.
    pub holder: &'a str,
    pub digest: &'a Digest,
    /// The value of `Range`, if any.
    pub range: Option<&'a str>,
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerKey")
    }
}

impl PeerKey {
    /// Derives the key from the bucket's secret key. Gateways of other buckets and prefixes get other keys.
    pub fn derive(secret_key: &str, bucket: &str, prefix: &str) -> Self {
        let text = format!("{KEY_LABEL}\n{bucket}\n{prefix}");
        let mac = mac(secret_key.as_bytes()).chain_update(text.as_bytes());
        Self(mac.finalize().into_bytes().into())
    }

    /// The `Authorization` of a request that is sent `now`, in seconds since 1970.
    pub fn sign(&self, scope: TicketScope<'_>, now: u64) -> String {
        let expires_at = now + LIFETIME;
        let mac = self.mac_of(scope, expires_at).finalize().into_bytes();
        let mut ticket = format!("{SCHEME}{expires_at}.");
        for byte in mac {
            let _ = write!(ticket, "{byte:02x}");
        }
        ticket
    }

    /// Whether an `Authorization` is a valid ticket for this request. Compares MACs in constant time.
    pub fn accepts(&self, scope: TicketScope<'_>, authorization: &str, now: u64) -> bool {
        let Some((expires_at, mac)) = parse(authorization) else {
            return false;
        };
        let is_current = (now.saturating_sub(MAX_CLOCK_SKEW) + 1
            ..=now.saturating_add(LIFETIME + MAX_CLOCK_SKEW))
            .contains(&expires_at);
        is_current && self.mac_of(scope, expires_at).verify_slice(&mac).is_ok()
    }

    fn mac_of(&self, scope: TicketScope<'_>, expires_at: u64) -> Hmac<Sha256> {
        let TicketScope {
            holder,
            digest,
            range,
        } = scope;
        let path = path(digest);
        // None of these contains a line feed.
        let text = format!(
            "GET\n{holder}\n{path}\n{}\n{expires_at}",
            range.unwrap_or("-")
        );
        mac(&self.0).chain_update(text.as_bytes())
    }
}

/// The path of a blob at the gateway that fetches it.
pub fn path(digest: &Digest) -> String {
    format!("/_peer/blobs/{digest}")
}

/// The expiry and the MAC of an `Authorization`.
fn parse(authorization: &str) -> Option<(u64, [u8; MAC_DIGITS / 2])> {
    let (expires_at, digits) = authorization.strip_prefix(SCHEME)?.split_once('.')?;
    if digits.len() != MAC_DIGITS || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut mac = [0; MAC_DIGITS / 2];
    for (byte, at) in mac.iter_mut().zip((0..MAC_DIGITS).step_by(2)) {
        *byte = u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()?;
    }
    Some((expires_at.parse().ok()?, mac))
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::digest::Algorithm;

    const NOW: u64 = 1_000_000;

    #[test]
    fn ticket_is_for_one_request_to_one_gateway_for_a_minute() {
        let [digest, other] = [b"one", b"two"].map(|body| Digest::of(Algorithm::Sha256, body));
        let key = PeerKey::derive("secret", "bucket", "tier");
        let scope = |holder, digest, range| TicketScope {
            holder,
            digest,
            range,
        };
        let asked = scope("https://a", &digest, Some("bytes=5-"));
        let ticket = key.sign(asked, NOW);
        let keys = [
            PeerKey::derive("other", "bucket", "tier"),
            PeerKey::derive("secret", "other", "tier"),
            PeerKey::derive("secret", "bucket", "other"),
        ];
        assert!(keys.iter().all(|key| !key.accepts(asked, &ticket, NOW)));
        for (scope, now, accepted) in [
            (asked, NOW, true),
            // The clocks may differ by a minute.
            (asked, NOW - 60, true),
            (asked, NOW + 119, true),
            (asked, NOW - 61, false),
            (asked, NOW + 120, false),
            (scope("https://b", &digest, Some("bytes=5-")), NOW, false),
            (scope("https://a", &other, Some("bytes=5-")), NOW, false),
            (scope("https://a", &digest, Some("bytes=6-")), NOW, false),
            (scope("https://a", &digest, None), NOW, false),
        ] {
            assert_eq!(
                key.accepts(scope, &ticket, now),
                accepted,
                "{scope:?} {now}"
            );
        }
    }

    #[test]
    fn malformed_tickets_are_refused() {
        let digest = Digest::of(Algorithm::Sha256, b"one");
        let key = PeerKey::derive("secret", "bucket", "");
        let scope = TicketScope {
            holder: "https://a",
            digest: &digest,
            range: None,
        };
        let ticket = key.sign(scope, NOW);
        assert!(key.accepts(scope, &ticket, NOW));
        let later = ticket.replace(&(NOW + 60).to_string(), &(NOW + 61).to_string());
        let mut changed = ticket.clone();
        let last = changed.pop();
        changed.push(if last == Some('0') { '1' } else { '0' });
        for wrong in [
            "",
            "Roadstead-Peer ",
            "Roadstead-Peer 1000060.",
            &ticket.replace("Roadstead-Peer", "Bearer"),
            &ticket[..ticket.len() - 2],
            &format!("{ticket}00"),
            &ticket.replace('.', ".é"),
            &later,
            &changed,
        ] {
            assert!(!key.accepts(scope, wrong, NOW), "{wrong}");
        }
    }
}
