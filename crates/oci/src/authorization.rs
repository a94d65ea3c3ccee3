//! The `Authorization` header (RFC 9110 §11.6.2): Basic (RFC 7617), Bearer (RFC 6750) and the v1
//! registry's `Token`, as Docker's clients send them in practice.

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The longest accepted header, in bytes: tokens with many scopes take a few thousand.
const MAX_HEADER: usize = 32 << 10;

/// Accepts missing padding, which some clients omit.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credentials of a request.
#[derive(Clone, PartialEq, Eq)]
pub enum Authorization {
    /// None: no header, `Basic Og==` (an empty user and password, which old Docker sends if it has none) or a
    /// scheme without credentials, such as old Docker's bare `Token`.
    Anonymous,
    /// `Basic base64(user:password)` (RFC 7617).
    Basic {
        /// The text before the first colon.
        user: String,
        /// Any bytes except NUL, at which password hashes stop.
        password: Vec<u8>,
    },
    /// A token of the v2 API.
    Bearer(String),
    /// A token of the v1 API, without the word `Token` that clients may send twice.
    Token(String),
}

impl fmt::Debug for Authorization {
    /// Names the scheme only, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Basic { .. } => "Basic(…)",
            Self::Bearer(_) => "Bearer(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// A header with an unknown scheme or malformed credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Authorization header is neither Basic, Bearer nor Token")]
pub struct Malformed;

/// Parses the header's value; several values are joined by commas.
///
/// # Errors
/// [`Malformed`] for any other scheme, for Basic credentials that are not base64 of `user:password`, and
/// for a header that is not ASCII or exceeds 32 KiB.
pub fn parse(header: &[u8]) -> Result<Authorization, Malformed> {
    let text = std::str::from_utf8(header).map_err(|_| Malformed)?.trim();
    if text.len() > MAX_HEADER || !text.is_ascii() {
        return Err(Malformed);
    }
    let (scheme, rest) = split(text);
    if scheme.eq_ignore_ascii_case("basic") {
        basic(rest)
    } else if scheme.eq_ignore_ascii_case("bearer") {
        Ok(opaque(rest, Authorization::Bearer))
    } else if scheme.eq_ignore_ascii_case("token") {
        // The client puts `Token ` before the value it was given, which may begin with it already.
        let value = match split(rest) {
            (again, value) if again.eq_ignore_ascii_case("token") => value,
            _ => rest,
        };
        Ok(opaque(value, Authorization::Token))
    } else if text.starts_with("signature=") {
        // The value alone, without any prefix.
        Ok(Authorization::Token(text.to_owned()))
    } else if text.is_empty() {
        Ok(Authorization::Anonymous)
    } else {
        Err(Malformed)
    }
}

/// Splits off the first word.
fn split(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (word, rest.trim_start())
}

fn opaque(text: &str, of: impl Fn(String) -> Authorization) -> Authorization {
    if text.is_empty() {
        Authorization::Anonymous
    } else {
        of(text.to_owned())
    }
}

fn basic(credentials: &str) -> Result<Authorization, Malformed> {
    if credentials.is_empty() {
        return Ok(Authorization::Anonymous);
    }
    let bytes = LENIENT.decode(credentials).map_err(|_| Malformed)?;
    let colon = bytes.iter().position(|&byte| byte == b':');
    let (user, password) = bytes.split_at(colon.ok_or(Malformed)?);
    let (user, password) = (std::str::from_utf8(user), &password[1..]);
    let user = user.map_err(|_| Malformed)?;
    if user.contains(char::is_control) || password.contains(&0) {
        return Err(Malformed);
    }
    if user.is_empty() && password.is_empty() {
        return Ok(Authorization::Anonymous);
    }
    Ok(Authorization::Basic {
        user: user.to_owned(),
        password: password.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose;
    use proptest::prelude::*;

    use super::Authorization::*;
    use super::*;

    fn of(user: &str, password: &[u8]) -> Authorization {
        Basic {
            user: user.to_owned(),
            password: password.to_vec(),
        }
    }

    #[test]
    fn headers_of_real_clients() {
        let token = || Token("signature=a,repository=\"x/y\",access=read".to_owned());
        for (header, expected) in [
            (&b""[..], Ok(Anonymous)),
            (b"Basic Og==", Ok(Anonymous)),
            (b"Basic", Ok(Anonymous)),
            (b"Basic ", Ok(Anonymous)),
            (b"Token", Ok(Anonymous)),
            (b"Token ", Ok(Anonymous)),
            (b"Token Token ", Ok(Anonymous)),
            (b"Bearer", Ok(Anonymous)),
            (
                b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
                Ok(of("Aladdin", b"open sesame")),
            ),
            (
                b"basic   QWxhZGRpbjpvcGVuIHNlc2FtZQ",
                Ok(of("Aladdin", b"open sesame")),
            ),
            (b"Basic YTpiOmM=", Ok(of("a", b"b:c"))),
            (b"Basic YTo=", Ok(of("a", b""))),
            (b"Basic OmE=", Ok(of("", b"a"))),
            (b"Basic YTr/", Ok(of("a", b"\xff"))),
            // No colon, a user that is no text, a control character, NUL.
            (b"Basic YQ==", Err(Malformed)),
            (b"Basic /zph", Err(Malformed)),
            (b"Basic YQo6YQ==", Err(Malformed)),
            (b"Basic YTphAGI=", Err(Malformed)),
            (b"Basic a:b", Err(Malformed)),
            (b"Basic YTpi YTpi", Err(Malformed)),
            (b"Bearer abc.def-_=", Ok(Bearer("abc.def-_=".to_owned()))),
            (b"BEARER x", Ok(Bearer("x".to_owned()))),
            (
                b"Token signature=a,repository=\"x/y\",access=read",
                Ok(token()),
            ),
            (
                b"Token Token signature=a,repository=\"x/y\",access=read",
                Ok(token()),
            ),
            (b"signature=a,repository=\"x/y\",access=read", Ok(token())),
            (b"Digest username=\"a\"", Err(Malformed)),
            (b"Basically", Err(Malformed)),
            (b"Bearer \xff", Err(Malformed)),
        ] {
            let shown = String::from_utf8_lossy(header);
            assert!(parse(header) == expected, "{shown}: {:?}", parse(header));
        }
        let long = format!("Bearer {}", "x".repeat(MAX_HEADER));
        assert_eq!(parse(long.as_bytes()), Err(Malformed));
        assert_eq!(format!("{:?}", of("user", b"password")), "Basic(…)");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(
            header in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..80),
                "(?i:basic|bearer|token)? ?(token)? ?[A-Za-z0-9+/=:, \"]{0,60}".prop_map(String::into_bytes),
            ]
        ) {
            let _ = parse(&header);
        }

        #[test]
        fn what_is_encoded_is_read_back(user in "[^:\\x00-\\x1f\\x7f-\\x9f]{1,20}", password in prop::collection::vec(1_u8.., 0..40)) {
            let mut plain = format!("{user}:").into_bytes();
            plain.extend(&password);
            let header = format!("Basic {}", general_purpose::STANDARD.encode(plain));
            prop_assert!(parse(header.as_bytes()) == Ok(of(&user, &password)));
        }
    }
}
