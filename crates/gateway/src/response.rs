//! The head of a response.

use std::io::Write as _;

use bytes::Bytes;
use http::header::InvalidHeaderValue;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use pingora_core::{Error, ErrorType, OrErr as _, Result};
use pingora_http::ResponseHeader;

use super::cache_control::CacheControl;
use oci::cache_status::CacheStatus;
use oci::digest::Digest;

/// How many header fields a response has room for before its list grows.
const FIELDS: usize = 14;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The most frequent cache status.
const HIT: HeaderValue = HeaderValue::from_static("roadstead; hit");

/// The head of a response with its cache status, from which the header field, the log and the metrics are rendered.
///
/// Its fields are a list and not a map: there are a dozen, and each is written once.
#[derive(Clone, Debug)]
pub struct Response {
    status: StatusCode,
    fields: Vec<(FieldName, FieldValue)>,
    cache: CacheStatus,
}

/// The name of a header field.
#[derive(Clone, Debug)]
pub enum FieldName {
    Registered(HeaderName),
    /// As HTTP/1 is to show it.
    Spelled(&'static str),
}

impl FieldName {
    fn is(&self, other: &Self) -> bool {
        self.text().eq_ignore_ascii_case(other.text())
    }

    fn text(&self) -> &str {
        match self {
            Self::Registered(name) => name.as_str(),
            Self::Spelled(name) => name,
        }
    }
}

impl From<HeaderName> for FieldName {
    fn from(name: HeaderName) -> Self {
        Self::Registered(name)
    }
}

impl From<&HeaderName> for FieldName {
    fn from(name: &HeaderName) -> Self {
        Self::Registered(name.clone())
    }
}

impl From<&'static str> for FieldName {
    fn from(name: &'static str) -> Self {
        Self::Spelled(name)
    }
}

/// The value of a header field. Those that are rendered from numbers and digests are valid, and are written without
/// being rendered by themselves before.
#[derive(Clone, Debug)]
pub enum FieldValue {
    Text(HeaderValue),
    Number(u64),
    Digest(Digest),
    /// A digest as an entity tag (RFC 9110 §8.8.3).
    EntityTag(Digest),
}

impl FieldValue {
    fn write(&self, head: &mut Vec<u8>) {
        match self {
            Self::Text(value) => head.extend_from_slice(value.as_bytes()),
            // Writing to a vector does not fail.
            Self::Number(number) => drop(write!(head, "{number}")),
            Self::Digest(digest) => digest.write(head),
            Self::EntityTag(digest) => {
                head.push(b'"');
                digest.write(head);
                head.push(b'"');
            }
        }
    }

    /// The value by itself.
    fn rendered(self) -> Result<HeaderValue> {
        let length = match &self {
            Self::Text(_) | Self::Number(_) => 0,
            Self::Digest(digest) => digest.text_len(),
            Self::EntityTag(digest) => digest.text_len() + 2,
        };
        match self {
            Self::Text(value) => Ok(value),
            Self::Number(number) => Ok(number.into()),
            Self::Digest(_) | Self::EntityTag(_) => {
                // Without spare capacity, the buffer need not be copied.
                let mut text = Vec::with_capacity(length);
                self.write(&mut text);
                HeaderValue::from_maybe_shared(Bytes::from(text))
                    .or_err(ErrorType::InvalidHTTPHeader, "a response's field")
            }
        }
    }
}

impl From<HeaderValue> for FieldValue {
    fn from(value: HeaderValue) -> Self {
        Self::Text(value)
    }
}

impl From<u64> for FieldValue {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<Digest> for FieldValue {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl TryFrom<&str> for FieldValue {
    type Error = InvalidHeaderValue;

    fn try_from(text: &str) -> std::result::Result<Self, InvalidHeaderValue> {
        text.try_into().map(Self::Text)
    }
}

impl TryFrom<String> for FieldValue {
    type Error = InvalidHeaderValue;

    fn try_from(text: String) -> std::result::Result<Self, InvalidHeaderValue> {
        text.try_into().map(Self::Text)
    }
}

impl Response {
    /// A head with `Cache-Status` alone.
    ///
    /// # Errors
    /// [`ErrorType::InvalidHTTPHeader`]: a `detail` that is no field's value.
    pub fn new(status: StatusCode, cache: CacheStatus) -> Result<Self> {
        let mut response = Self {
            status,
            fields: Vec::with_capacity(FIELDS),
            cache,
        };
        if cache == CacheStatus::HIT {
            response.append_header("Cache-Status", HIT)?;
        } else {
            response.append_header("Cache-Status", cache.to_string())?;
        }
        Ok(response)
    }

    /// Sets a field, in place of those of its name.
    ///
    /// # Errors
    /// [`ErrorType::InvalidHTTPHeader`]: the value is none of a field.
    pub fn insert_header(
        &mut self,
        name: impl Into<FieldName>,
        value: impl TryInto<FieldValue>,
    ) -> Result<()> {
        let name = name.into();
        self.fields.retain(|(known, _)| !known.is(&name));
        self.append_header(name, value)
    }

    /// Adds a field to those of its name.
    ///
    /// # Errors
    /// [`ErrorType::InvalidHTTPHeader`]: the value is none of a field.
    pub fn append_header(
        &mut self,
        name: impl Into<FieldName>,
        value: impl TryInto<FieldValue>,
    ) -> Result<()> {
        let Ok(value) = value.try_into() else {
            return Error::e_explain(ErrorType::InvalidHTTPHeader, "a response's field");
        };
        self.fields.push((name.into(), value));
        Ok(())
    }

    /// Sets the media type to JSON, and how caches may use it.
    pub fn set_json(&mut self, cache_control: CacheControl) -> Result<()> {
        self.insert_header(header::CONTENT_TYPE, JSON)?;
        self.set_cache_control(cache_control)
    }

    pub fn set_cache_control(&mut self, cache_control: CacheControl) -> Result<()> {
        self.insert_header(header::CACHE_CONTROL, cache_control.header_value())
    }

    pub fn remove_header(&mut self, name: &'static str) {
        self.fields.retain(|(known, _)| !known.is(&name.into()));
    }

    #[cfg(feature = "v1")]
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = status;
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn cache(&self) -> CacheStatus {
        self.cache
    }

    /// Whether the response to such a request has a body (RFC 9110 §6.4.1).
    pub fn has_body(&self, method: &Method) -> bool {
        let without = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
        method != Method::HEAD && !without.contains(&self.status)
    }

    /// The value of `Content-Length`.
    pub fn content_length(&self) -> Option<u64> {
        match self.find(&header::CONTENT_LENGTH)? {
            FieldValue::Number(length) => Some(*length),
            FieldValue::Text(length) => length.to_str().ok()?.parse().ok(),
            FieldValue::Digest(_) | FieldValue::EntityTag(_) => None,
        }
    }

    /// Whether it has a field of this name.
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.find(name).is_some()
    }

    /// The value of a field, the first of its name.
    fn find(&self, name: &HeaderName) -> Option<&FieldValue> {
        let named = |(known, _): &&(FieldName, FieldValue)| match known {
            FieldName::Registered(known) => known == name,
            FieldName::Spelled(known) => known.eq_ignore_ascii_case(name.as_str()),
        };
        self.fields.iter().rev().find(named).map(|(_, value)| value)
    }

    /// Its fields as HTTP/1 has them, a line each.
    pub fn write_fields(&self, head: &mut Vec<u8>) {
        for (name, value) in &self.fields {
            match name {
                FieldName::Registered(header::CACHE_CONTROL) => head.extend(b"Cache-Control"),
                FieldName::Registered(header::CONTENT_LENGTH) => head.extend(b"Content-Length"),
                FieldName::Registered(header::CONTENT_TYPE) => head.extend(b"Content-Type"),
                FieldName::Registered(header::ETAG) => head.extend(b"ETag"),
                FieldName::Registered(name) => write_capitalised(name.as_str(), head),
                FieldName::Spelled(name) => head.extend(name.as_bytes()),
            }
            head.extend_from_slice(b": ");
            value.write(head);
            head.extend_from_slice(b"\r\n");
        }
    }

    /// The same head for pingora's HTTP/1.
    ///
    /// # Errors
    /// None that is known: the fields are valid.
    pub fn into_pingora(self) -> Result<Box<ResponseHeader>> {
        let mut header = ResponseHeader::build(self.status, Some(FIELDS))?;
        for (name, value) in self.fields {
            let value = value.rendered()?;
            match name {
                FieldName::Registered(name) => header.append_header(name, value)?,
                FieldName::Spelled(name) => header.append_header(name, value)?,
            };
        }
        Ok(Box::new(header))
    }

    /// The same head for HTTP/2, which has no spelling of names to keep, and no fields of connections (RFC 9113 §8.2.2).
    ///
    /// # Errors
    /// As [`Self::into_pingora`].
    pub fn into_http2(self) -> Result<http::Response<()>> {
        let mut response = http::Response::new(());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.reserve(self.fields.len());
        for (name, value) in self.fields {
            let name = match name {
                FieldName::Registered(name) => name,
                FieldName::Spelled(name) => HeaderName::from_bytes(name.as_bytes())
                    .or_err(ErrorType::InvalidHTTPHeader, "a response's field")?,
            };
            if !matches!(name, header::CONNECTION | header::TRANSFER_ENCODING) {
                headers.append(name, value.rendered()?);
            }
        }
        Ok(response)
    }
}

/// A name as is usual in HTTP/1: `content-type` becomes `Content-Type`.
fn write_capitalised(name: &str, head: &mut Vec<u8>) {
    let start = head.len();
    head.extend_from_slice(name.as_bytes());
    let mut first = true;
    for byte in &mut head[start..] {
        if first {
            byte.make_ascii_uppercase();
        }
        first = *byte == b'-';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_set_added_and_written() {
        assert_eq!(HIT, CacheStatus::HIT.to_string().as_str());
        let mut response = Response::new(StatusCode::OK, CacheStatus::HIT).expect("a head");
        response.insert_header("X-Two", "1").expect("a field");
        response.append_header("x-two", "2").expect("a field");
        response
            .insert_header(header::CONTENT_LENGTH, 1_u64)
            .expect("a field");
        response
            .insert_header("content-length", 2_u64)
            .expect("a field");
        let mut head = Vec::new();
        response.write_fields(&mut head);
        let head = String::from_utf8(head).expect("text");
        let expected =
            "Cache-Status: roadstead; hit\r\nX-Two: 1\r\nx-two: 2\r\ncontent-length: 2\r\n";
        assert_eq!(head, expected);
        let header = response.clone().into_pingora().expect("a head");
        let http2 = response.into_http2().expect("a head");
        for fields in [&header.headers, http2.headers()] {
            assert_eq!(fields["content-length"], "2");
            assert_eq!(fields.get_all("x-two").iter().count(), 2);
        }
    }

    #[test]
    fn names_are_capitalised() {
        let mut head = Vec::new();
        write_capitalised("docker-content-digest", &mut head);
        assert_eq!(head, b"Docker-Content-Digest");
    }

    #[test]
    fn a_value_with_a_line_break_is_no_field() {
        let mut response = Response::new(StatusCode::OK, CacheStatus::HIT).expect("a head");
        assert!(response.insert_header("X", "a\r\nb").is_err());
    }
}
