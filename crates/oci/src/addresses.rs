//! IP addresses: whether one is globally reachable (IANA's registries of special-purpose addresses, RFC 6890),
//! and which network one customer has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 prefixes that are not globally reachable unicast: network and length.
const SPECIAL_V4: [([u8; 4], u32); 15] = [
    // "This network".
    ([0, 0, 0, 0], 8),
    ([10, 0, 0, 0], 8),
    // Carrier-grade NAT.
    ([100, 64, 0, 0], 10),
    ([127, 0, 0, 0], 8),
    // Link-local; cloud metadata.
    ([169, 254, 0, 0], 16),
    ([172, 16, 0, 0], 12),
    // IETF protocol assignments.
    ([192, 0, 0, 0], 24),
    // Documentation.
    ([192, 0, 2, 0], 24),
    // 6to4 relays, deprecated.
    ([192, 88, 99, 0], 24),
    ([192, 168, 0, 0], 16),
    // Benchmarking.
    ([198, 18, 0, 0], 15),
    // Documentation.
    ([198, 51, 100, 0], 24),
    ([203, 0, 113, 0], 24),
    // Multicast.
    ([224, 0, 0, 0], 4),
    // Reserved, and broadcast.
    ([240, 0, 0, 0], 4),
];

/// Prefixes within `2000::/3`, the only IPv6 addresses that are global unicast, that are not globally
/// reachable, or that embed an IPv4 address of the sender's choice.
const SPECIAL_V6: [([u16; 2], u32); 4] = [
    // IETF protocol assignments: Teredo (2001::/32), benchmarking, ORCHID.
    ([0x2001, 0], 23),
    // Documentation.
    ([0x2001, 0xdb8], 32),
    // 6to4.
    ([0x2002, 0], 16),
    // Documentation.
    ([0x3fff, 0], 20),
];

/// Whether an address is globally reachable. An IPv6 address that embeds an IPv4 address (mapped, or NAT64's
/// `64:ff9b::/96`) is judged by the IPv4 address.
pub fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_global_v4(v4),
        IpAddr::V6(v6) => match inner_v4(v6) {
            Some(v4) => is_global_v4(v4),
            None => is_global_v6(v6),
        },
    }
}

fn is_global_v4(v4: Ipv4Addr) -> bool {
    !SPECIAL_V4.iter().any(|(network, length)| {
        let network = Ipv4Addr::from(*network).to_bits();
        v4.to_bits() >> (32 - length) == network >> (32 - length)
    })
}

fn is_global_v6(v6: Ipv6Addr) -> bool {
    let [first, second, ..] = v6.segments();
    let head = u32::from(first) << 16 | u32::from(second);
    let within = |[first, second]: [u16; 2], length: u32| {
        let network = u32::from(first) << 16 | u32::from(second);
        head >> (32 - length) == network >> (32 - length)
    };
    // ::/96, 64:ff9b:1::/48, 100::/64, 5f00::/16, fc00::/7, fe80::/10 and ff00::/8 fall outside 2000::/3.
    within([0x2000, 0], 3)
        && !SPECIAL_V6
            .iter()
            .any(|(network, length)| within(*network, *length))
}

/// The IPv4 address that an IPv6 address embeds, wherever that is routed.
fn inner_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = matches!(v6.segments(), [0x64, 0xff9b, 0, 0, 0, 0, _, _]);
    let [.., a, b, c, d] = v6.octets();
    v6.to_ipv4_mapped()
        .or(nat64.then_some(Ipv4Addr::new(a, b, c, d)))
}

/// The network of one customer: an IPv4 address, or an IPv6 /64. A mapped IPv4 address counts as IPv4.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_addresses() {
        for (address, global) in [
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.15.255.255", true),
            ("172.16.0.1", false),
            ("172.31.255.255", false),
            ("172.32.0.1", true),
            ("192.168.1.1", false),
            ("169.254.169.254", false),
            ("100.63.255.255", true),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.1", true),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("192.0.0.1", false),
            ("192.0.1.1", true),
            ("192.0.2.1", false),
            ("192.88.99.1", false),
            ("198.17.255.255", true),
            ("198.18.0.1", false),
            ("198.19.255.255", false),
            ("198.51.100.7", false),
            ("203.0.113.7", false),
            ("223.255.255.255", true),
            ("224.0.0.1", false),
            ("240.0.0.1", false),
            ("255.255.255.255", false),
            ("8.8.8.8", true),
            ("::", false),
            ("::1", false),
            ("::8.8.8.8", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:8.8.8.8", true),
            ("::ffff:0:10.0.0.1", false),
            ("64:ff9b::10.0.0.1", false),
            ("64:ff9b::169.254.169.254", false),
            ("64:ff9b::8.8.8.8", true),
            ("64:ff9b:1::8.8.8.8", false),
            ("64:ff9b:1:fffe::1", false),
            ("100::1", false),
            ("1fff:ffff::1", false),
            ("2000::1", true),
            ("2001::1", false),
            ("2001:0:7f00:1::", false),
            ("2001:2::1", false),
            ("2001:1ff:ffff::1", false),
            ("2001:200::1", true),
            ("2001:db8::1", false),
            ("2001:db9::1", true),
            ("2002:7f00:1::", false),
            ("2002:a00:1::1", false),
            ("2003::1", true),
            ("2606:4700::1", true),
            ("3ffe::1", true),
            ("3fff::1", false),
            ("3fff:1000::1", true),
            ("4000::1", false),
            ("5f00::1", false),
            ("fc00::1", false),
            ("fd00::1", false),
            ("fe80::1", false),
            ("fec0::1", false),
            ("ff02::1", false),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(is_global(parsed), global, "{address}");
        }
    }

    #[test]
    fn customer_networks() {
        for (address, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(network(address).to_string(), expected);
        }
    }
}
