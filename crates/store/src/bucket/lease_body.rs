//! The content of a lease in the bucket, and what a node that finds it may do. Pure.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// How long a lease is valid, in seconds.
pub(super) const LIFETIME: u64 = 60;
/// The difference of the nodes' clocks, in seconds, up to which a lease that names its holder is followed: that node says
/// itself whether it still fetches.
const MAX_CLOCK_SKEW: u64 = 600;

/// The node that holds a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Identifies its process.
    pub node: String,
    /// How other nodes reach it.
    pub url: String,
}

/// A lease in the bucket.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LeaseBody {
    /// Identifies the process that holds it.
    pub node: String,
    /// Random, since a node may hold one lease of a blob after the other.
    #[serde(default)]
    pub number: u64,
    /// In seconds since 1970.
    pub expires_at: u64,
    /// The URL of a node that advertises itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

/// The node that finds a lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct ThisNode<'a> {
    /// Identifies its process.
    pub id: &'a str,
    /// Its URL, if it advertises itself.
    pub url: Option<&'a str>,
}

/// What a node may do with the lease that it found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Own,
    HeldByPeer(Option<LeaseHolder>),
    /// Expired, or of a lost node: it may be taken over.
    Free,
}

impl LeaseBody {
    /// Whether this process wrote it as the lease of this number.
    pub fn is_of(&self, process: &str, number: u64) -> bool {
        self.node == process && self.number == number
    }
}

/// What this node may do with a lease; `None` is an invalid one. Those of the nodes in `lost` may be taken over.
pub(super) fn standing(
    body: Option<LeaseBody>,
    this_node: ThisNode<'_>,
    now: u64,
    lost: &HashSet<String>,
) -> Standing {
    let Some(body) = body else {
        return Standing::Free;
    };
    if body.node == this_node.id {
        return Standing::Own;
    }
    if lost.contains(&body.node) {
        return Standing::Free;
    }
    match (this_node.url, body.holder) {
        // An earlier process of this node: it fetches nothing any more.
        (Some(own), Some(url)) if own == url => Standing::Free,
        (Some(_), Some(url)) if now.abs_diff(body.expires_at) <= MAX_CLOCK_SKEW => {
            let node = body.node;
            Standing::HeldByPeer(Some(LeaseHolder { node, url }))
        }
        _ if is_valid(body.expires_at, now) => Standing::HeldByPeer(None),
        _ => Standing::Free,
    }
}

/// Whether a lease is valid. One from too far in the future is not.
fn is_valid(expires_at: u64, now: u64) -> bool {
    (now + 1..=now + 2 * LIFETIME).contains(&expires_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(node: &str, expires_at: u64, holder: Option<&str>) -> LeaseBody {
        LeaseBody {
            node: node.to_owned(),
            number: 7,
            expires_at,
            holder: holder.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn leases_expire() {
        for (expires_at, expected) in [
            (0, false),
            (99, false),
            (100, false),
            (101, true),
            (160, true),
            (220, true),
            (221, false),
            (u64::MAX, false),
        ] {
            assert_eq!(is_valid(expires_at, 100), expected, "{expires_at}");
        }
    }

    #[test]
    fn found_leases_are_followed_waited_for_or_taken_over() {
        let node = |url| ThisNode { id: "own", url };
        let (alone, named) = (node(None), node(Some("http://me")));
        let peer = |url: &str| {
            Standing::HeldByPeer(Some(LeaseHolder {
                node: "n".to_owned(),
                url: url.to_owned(),
            }))
        };
        let (n, me) = (Some("http://n"), Some("http://me"));
        let lost = HashSet::from(["gone".to_owned()]);
        let at = 1_000;
        assert_eq!(standing(None, alone, at, &lost), Standing::Free);
        for (this_node, found, expected) in [
            (alone, body("n", at + 1, None), Standing::HeldByPeer(None)),
            (alone, body("n", at, None), Standing::Free),
            // A node that is not reachable itself does not read from others.
            (alone, body("n", at + 1, n), Standing::HeldByPeer(None)),
            (named, body("n", at + 1, None), Standing::HeldByPeer(None)),
            (named, body("n", at + 1, n), peer("http://n")),
            // The clocks may differ: the holder says whether it still fetches.
            (named, body("n", at - 600, n), peer("http://n")),
            (named, body("n", at + 660, n), Standing::Free),
            (named, body("n", at - 601, n), Standing::Free),
            // An earlier process of the same node.
            (named, body("n", at + 1, me), Standing::Free),
            (named, body("gone", at + 1, n), Standing::Free),
            (named, body("own", at - 600, me), Standing::Own),
        ] {
            let found_standing = standing(Some(found.clone()), this_node, at, &lost);
            assert_eq!(found_standing, expected, "{found:?}");
        }
    }

    /// Leases of older versions name neither a holder nor a number.
    #[test]
    fn leases_of_older_versions_are_read() {
        let old = br#"{"node":"n","expires_at":1}"#;
        let read: LeaseBody = serde_json::from_slice(old).expect("a lease");
        assert_eq!((read.number, read.holder), (0, None));
    }

    #[test]
    fn lease_is_of_one_process_and_number() {
        let found = body("own", 1, None);
        assert!(found.is_of("own", 7));
        assert!(!found.is_of("own", 8) && !found.is_of("n", 7));
    }
}
