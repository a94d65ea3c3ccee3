//! The PROXY protocol, by which a balancer of TCP connections says whose connection it passes on
//! (haproxy's doc/proxy-protocol.txt, versions 1 and 2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, in bytes, as the specification has it.
const MAX_V1: usize = 107;
/// The longest header of version 2 that is read, in bytes: an address, and some attributes, which are skipped.
const MAX_V2: usize = 4096;
/// The longest header, in bytes.
pub const MAX_HEADER: usize = MAX_V2;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The versions that a listener accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// The text of version 1.
    V1,
    /// The binary version 2.
    V2,
    /// Either.
    Any,
}

/// The beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// More bytes are needed; there are fewer than [`MAX_HEADER`].
    Incomplete,
    /// The whole header.
    Complete {
        /// Its length in bytes; what follows is the client's.
        length: usize,
        /// The client's address; `None` for the balancer's own connection, such as a health check, and for one that has no
        /// address.
        source: Option<SocketAddr>,
    },
}

/// A connection that begins with no valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no valid header of the PROXY protocol")]
pub struct InvalidHeader;

/// Parses the first bytes of a connection.
///
/// # Errors
/// [`InvalidHeader`]: they cannot become a header of an accepted version.
pub fn parse(bytes: &[u8], versions: Versions) -> Result<ProxyHeader, InvalidHeader> {
    let begins = |signature: &[u8]| {
        let length = bytes.len().min(signature.len());
        bytes[..length] == signature[..length]
    };
    let has_v1 = versions != Versions::V2 && begins(SIGNATURE_V1);
    let has_v2 = versions != Versions::V1 && begins(SIGNATURE_V2);
    match (has_v1, has_v2) {
        (true, true) => Ok(ProxyHeader::Incomplete),
        (true, false) => text(bytes),
        (false, true) => binary(bytes),
        (false, false) => Err(InvalidHeader),
    }
}

/// `PROXY TCP4 192.0.2.7 192.0.2.1 56324 443\r\n`
fn text(bytes: &[u8]) -> Result<ProxyHeader, InvalidHeader> {
    let within = &bytes[..bytes.len().min(MAX_V1)];
    let Some(end) = within.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < MAX_V1 {
            Ok(ProxyHeader::Incomplete)
        } else {
            Err(InvalidHeader)
        };
    };
    let line = str::from_utf8(&bytes[SIGNATURE_V1.len().min(end)..end]);
    let mut words = line.map_err(|_| InvalidHeader)?.split(' ');
    let source = match words.next() {
        // The rest of the line may be anything.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(endpoint::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(endpoint::<Ipv6Addr>(words)?),
        _ => return Err(InvalidHeader),
    };
    Ok(ProxyHeader::Complete {
        length: end + 2,
        source,
    })
}

/// The source among: source, destination, and their ports.
fn endpoint<'a, A: std::str::FromStr + Into<IpAddr>>(
    words: impl Iterator<Item = &'a str>,
) -> Result<SocketAddr, InvalidHeader> {
    let words: Vec<&str> = words.take(5).collect();
    let [source, destination, source_port, destination_port] = words[..] else {
        return Err(InvalidHeader);
    };
    let address = |text: &str| text.parse::<A>().map_err(|_| InvalidHeader);
    let port = |text: &str| {
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let is_plain = text == "0" || (is_number && !text.starts_with('0'));
        let port = text.parse().ok().filter(|_| is_plain);
        port.ok_or(InvalidHeader)
    };
    address(destination)?;
    let _: u16 = port(destination_port)?;
    let ip: IpAddr = address(source)?.into();
    Ok(SocketAddr::new(ip.to_canonical(), port(source_port)?))
}

fn binary(bytes: &[u8]) -> Result<ProxyHeader, InvalidHeader> {
    const HEAD: usize = 16;
    let Some(&[version_and_command, family, high, low]) = bytes.get(SIGNATURE_V2.len()..HEAD)
    else {
        return Ok(ProxyHeader::Incomplete);
    };
    let length = HEAD + usize::from(u16::from_be_bytes([high, low]));
    if version_and_command >> 4 != 2 || length > MAX_V2 {
        return Err(InvalidHeader);
    }
    let Some(body) = bytes.get(HEAD..length) else {
        return Ok(ProxyHeader::Incomplete);
    };
    let source = match (version_and_command & 15, family) {
        // LOCAL; or a family that has no address here: unspecified, or a Unix socket.
        (0, _) | (1, 0x00 | 0x31) => None,
        (1, 0x11) => Some(inet::<4, 12>(body)?),
        (1, 0x21) => Some(inet::<16, 36>(body)?),
        _ => return Err(InvalidHeader),
    };
    Ok(ProxyHeader::Complete { length, source })
}

/// The source of an address block of `BLOCK` bytes, in which addresses take `ADDRESS`.
fn inet<const ADDRESS: usize, const BLOCK: usize>(body: &[u8]) -> Result<SocketAddr, InvalidHeader>
where
    IpAddr: From<[u8; ADDRESS]>,
{
    let block: &[u8; BLOCK] = body.first_chunk().ok_or(InvalidHeader)?;
    let source: &[u8; ADDRESS] = block.first_chunk().ok_or(InvalidHeader)?;
    let port: &[u8; 2] = block[2 * ADDRESS..].first_chunk().ok_or(InvalidHeader)?;
    let ip = IpAddr::from(*source).to_canonical();
    Ok(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(bytes: &[u8]) -> (usize, Option<String>) {
        match parse(bytes, Versions::Any) {
            Ok(ProxyHeader::Complete { length, source }) => {
                (length, source.map(|source| source.to_string()))
            }
            other => panic!("{bytes:?}: {other:?}"),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        [SIGNATURE_V2, &[command, family], &length, body].concat()
    }

    /// Source 192.0.2.7:56324, destination 192.0.2.1:443.
    const V4: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xdc, 4, 1, 0xbb];

    #[test]
    fn headers_of_version_1() {
        for (line, source) in [
            (
                "PROXY TCP4 192.0.2.7 192.0.2.1 56324 443",
                Some("192.0.2.7:56324"),
            ),
            ("PROXY TCP6 2001:db8::7 ::1 1 0", Some("[2001:db8::7]:1")),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2", Some("192.0.2.7:1")),
            ("PROXY UNKNOWN", None),
            ("PROXY UNKNOWN ffff::1 and more", None),
        ] {
            let bytes = format!("{line}\r\n\x16\x03\x01");
            let expected = (line.len() + 2, source.map(str::to_owned));
            assert_eq!(complete(bytes.as_bytes()), expected, "{line}");
            for end in 0..line.len() + 2 {
                let part = parse(&bytes.as_bytes()[..end], Versions::Any);
                assert_eq!(part, Ok(ProxyHeader::Incomplete), "{line} {end}");
            }
            assert!(parse(bytes.as_bytes(), Versions::V2).is_err(), "{line}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1 - 16));
        assert_eq!(complete(long.as_bytes()).0, MAX_V1);
        for bad in [
            "GET / HTTP/1.1",
            "PROXY TCP4 192.0.2.7 192.0.2.1 56324",
            "PROXY TCP4 192.0.2.7 192.0.2.1 56324 443 1",
            "PROXY TCP4  192.0.2.7 192.0.2.1 56324 443",
            "PROXY TCP4 192.0.2.7 192.0.2.1 056 443",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +56 443",
            "PROXY TCP4 192.0.2.7 192.0.2.1 65536 443",
            "PROXY TCP4 192.0.2.07 192.0.2.1 1 443",
            "PROXY TCP4 ::1 192.0.2.1 1 443",
            "PROXY TCP6 192.0.2.7 192.0.2.1 1 443",
            "PROXY UDP4 192.0.2.7 192.0.2.1 1 443",
            "PROXY tcp4 192.0.2.7 192.0.2.1 1 443",
            "PROXY TCP4 192.0.2.7\n192.0.2.1 1 443",
            "PROXY ",
        ] {
            let line = format!("{bad}\r\n");
            let parsed = parse(line.as_bytes(), Versions::Any);
            assert_eq!(parsed, Err(InvalidHeader), "{bad}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(MAX_V1 - 15));
        assert!(parse(long.as_bytes(), Versions::Any).is_err());
        assert!(parse(b"PROXY \xff\r\n", Versions::Any).is_err());
    }

    #[test]
    fn headers_of_version_2() {
        let v6 = [
            &[0x20, 1, 0xd, 0xb8][..],
            &[0; 11],
            &[7],
            &[0; 16],
            &[0, 1, 0, 2],
        ]
        .concat();
        let attributes = [&V4[..], &[4, 0, 1, 0]].concat();
        for (command, family, body, source) in [
            (0x21, 0x11, &V4[..], Some("192.0.2.7:56324")),
            (0x21, 0x11, &attributes, Some("192.0.2.7:56324")),
            (0x21, 0x21, &v6, Some("[2001:db8::7]:1")),
            (0x20, 0x00, &[], None),
            (0x20, 0x11, &V4, None),
            (0x21, 0x00, &[1, 2], None),
            (0x21, 0x31, &[0; 216], None),
        ] {
            let header = v2(command, family, body);
            let bytes = [&header[..], b"GET"].concat();
            let expected = (header.len(), source.map(str::to_owned));
            assert_eq!(complete(&bytes), expected, "{header:?}");
            for end in 0..header.len() {
                let part = parse(&header[..end], Versions::Any);
                assert_eq!(part, Ok(ProxyHeader::Incomplete), "{header:?} {end}");
            }
            assert!(parse(&bytes, Versions::V1).is_err(), "{header:?}");
            assert!(parse(&bytes, Versions::V2).is_ok(), "{header:?}");
        }
        for (command, family, body) in [
            (0x11, 0x11, &V4[..]),
            (0x22, 0x11, &V4),
            (0x21, 0x12, &V4),
            (0x21, 0x41, &V4),
            (0x21, 0x11, &V4[..11]),
            (0x21, 0x21, &V4),
            (0x21, 0x11, &[0; MAX_V2]),
        ] {
            let parsed = parse(&v2(command, family, body), Versions::Any);
            assert_eq!(parsed, Err(InvalidHeader), "{command:x} {family:x}");
        }
    }
}
