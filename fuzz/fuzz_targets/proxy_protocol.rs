//! The first bytes of a connection: a header is within its bounds, needs all of its bytes, and is the same whatever follows it.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::proxy_protocol::{InvalidHeader, MAX_HEADER, ProxyHeader, Versions, parse};

fuzz_target!(|bytes: &[u8]| {
    let any = parse(bytes, Versions::Any);
    let each = [Versions::V1, Versions::V2].map(|versions| parse(bytes, versions));
    match any {
        Ok(ProxyHeader::Complete { length, .. }) => {
            assert!(length <= MAX_HEADER && length <= bytes.len());
            let one = each.into_iter().filter(|parsed| *parsed == any).count();
            assert_eq!(one, 1, "of one version");
            assert_eq!(parse(&bytes[..length], Versions::Any), any);
            let part = parse(&bytes[..length - 1], Versions::Any);
            assert_eq!(part, Ok(ProxyHeader::Incomplete));
        }
        Ok(ProxyHeader::Incomplete) => assert!(bytes.len() < MAX_HEADER),
        Err(InvalidHeader) => {
            assert_eq!(each, [Err(InvalidHeader); 2]);
            // More bytes make nothing valid.
            let more = [bytes, b"\r\n"].concat();
            assert_eq!(parse(&more, Versions::Any), Err(InvalidHeader));
        }
    }
});
