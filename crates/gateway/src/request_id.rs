//! The id of a request: clients get it as `X-Request-Id`, and the logs name the request by it.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The name of the header field, as HTTP/1 shows it.
pub const SPELLED: &str = "X-Request-Id";
/// The name of the header field.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest id accepted from a proxy, in bytes.
const MAX_ID_LENGTH: usize = 64;

/// The id of a request.
#[derive(Clone, Debug)]
pub enum RequestId {
    /// Random, which tells a client nothing about the requests of others, as a counter would.
    Generated([u8; 16]),
    /// From a trusted proxy. In a box, so that a request carries little.
    Received(Box<HeaderValue>),
}

impl RequestId {
    /// A new id.
    pub fn new() -> Self {
        Self::Generated(fastrand::u128(..).to_be_bytes())
    }

    /// The id that a proxy sent: 1 to 64 letters, digits, `-`, `_` and `.`; `None` for anything else.
    pub fn received(headers: &HeaderMap) -> Option<Self> {
        let mut lines = headers.get_all(X_REQUEST_ID).iter();
        let id = lines.next().filter(|_| lines.next().is_none())?;
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        let text = id.as_bytes();
        ((1..=MAX_ID_LENGTH).contains(&text.len()) && text.iter().all(valid))
            .then(|| Self::Received(Box::new(id.clone())))
    }

    /// Appends the id to the head of a response.
    pub fn write(&self, head: &mut Vec<u8>) {
        match self {
            Self::Generated(bytes) => head.extend_from_slice(&hex(*bytes)),
            Self::Received(id) => head.extend_from_slice(id.as_bytes()),
        }
    }

    /// The value of the header field. Each is sent once, so that HPACK must not index it (RFC 7541 §6.2.3).
    pub fn header_value(&self) -> HeaderValue {
        let mut value = match self {
            // Hexadecimal digits are valid.
            Self::Generated(bytes) => HeaderValue::from_bytes(&hex(*bytes))
                .unwrap_or_else(|_| HeaderValue::from_static("-")),
            Self::Received(id) => HeaderValue::clone(id),
        };
        value.set_sensitive(true);
        value
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generated(bytes) => f.write_str(str::from_utf8(&hex(*bytes)).unwrap_or("-")),
            Self::Received(id) => f.write_str(id.to_str().unwrap_or("-")),
        }
    }
}

/// Bytes in hexadecimal digits. Each request needs this, and `format!` would take as long as all the rest.
fn hex(bytes: [u8; 16]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (digits, byte) in text.chunks_exact_mut(2).zip(bytes) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            let value = HeaderValue::from_str(line).expect("a value");
            headers.append(X_REQUEST_ID, value);
        }
        RequestId::received(&headers).map(|id| id.to_string())
    }

    #[test]
    fn only_short_ids_of_few_characters_are_accepted() {
        let longest = "a".repeat(64);
        for id in ["7", "0f8a-1.B_z", &longest] {
            assert_eq!(received(&[id]).as_deref(), Some(id));
        }
        let longer = "a".repeat(65);
        for lines in [
            &[][..],
            &[""],
            &[&*longer],
            &["a b"],
            &["a,b"],
            &["a;b"],
            &["ä"],
            &["a\tb"],
            &["a", "a"],
        ] {
            assert_eq!(received(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn generated_ids_are_written_alike_everywhere() {
        assert_eq!(SPELLED.to_lowercase(), X_REQUEST_ID.as_str());
        for number in [0, 0x0123_4567_89ab_cdef, u128::MAX] {
            let id = RequestId::Generated(u128::to_be_bytes(number));
            let mut head = Vec::new();
            id.write(&mut head);
            assert_eq!(head, id.to_string().as_bytes());
            assert_eq!(id.header_value().as_bytes(), head);
        }
        assert_ne!(RequestId::new().to_string(), RequestId::new().to_string());
    }
}
