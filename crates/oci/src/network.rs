//! Networks in CIDR notation (RFC 4632 §3.1, RFC 4291 §2.3).

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// A network of IP addresses. An address alone is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(IpNet);

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// It has no address, or a prefix that is longer than its address.
    #[error("is not a network; write an address or a prefix, such as 10.0.0.7 or 10.0.0.0/8")]
    Malformed,
    /// Bits behind the prefix are set, so that one of the two is a mistake.
    #[error("has bits behind its prefix; write {network}")]
    HostBits {
        /// The network without these bits.
        network: IpNet,
    },
}

impl Network {
    /// Whether an address is in the network. A mapped IPv4 address counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }

    /// Whether all addresses of a family are in the network.
    pub fn is_everything(&self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
        let parsed = text.parse().ok().or_else(alone);
        let network: IpNet = parsed.ok_or(NetworkError::Malformed)?;
        if network.trunc() == network {
            Ok(Self(network))
        } else {
            Err(NetworkError::HostBits {
                network: network.trunc(),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_networks() {
        for (network, address, contained) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.6", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
            ("::1", "::1", true),
            ("::1", "127.0.0.1", false),
        ] {
            let parsed: Network = network.parse().expect("a network");
            let address = address.parse().expect("an address");
            assert_eq!(parsed.contains(address), contained, "{network} {address}");
            assert_eq!(parsed.is_everything(), network.ends_with("/0"), "{network}");
        }
    }

    #[test]
    fn texts_that_are_no_networks() {
        for text in [
            "",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "10.0.0/8",
            "proxy.lan",
            "10.0.0.0/8/8",
        ] {
            assert_eq!(
                text.parse::<Network>(),
                Err(NetworkError::Malformed),
                "{text}"
            );
        }
        let error = "10.1.0.0/8".parse::<Network>().expect_err("host bits");
        assert_eq!(
            error.to_string(),
            "has bits behind its prefix; write 10.0.0.0/8"
        );
    }
}
