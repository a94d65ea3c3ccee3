//! The head of a response.

use std::ops::{Deref, DerefMut};

use http::{HeaderValue, StatusCode, header};
use pingora_core::Result;
use pingora_http::ResponseHeader;

use super::cache_control::CacheControl;
use oci::cache_status::CacheStatus;

/// How many header fields a response has room for before its table grows.
const FIELDS: usize = 14;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The head of a response with its cache status, from which the header field, the log and the metrics are rendered.
#[derive(Debug)]
pub struct Response {
    header: Box<ResponseHeader>,
    cache: CacheStatus,
}

impl Response {
    /// A head with `Cache-Status` alone.
    pub fn new(status: StatusCode, cache: CacheStatus) -> Result<Self> {
        let mut header = Box::new(ResponseHeader::build(status, Some(FIELDS))?);
        header.insert_header("Cache-Status", cache.to_string())?;
        Ok(Self { header, cache })
    }

    /// Sets the media type to JSON, and how caches may use it.
    pub fn set_json(&mut self, cache_control: CacheControl) -> Result<()> {
        self.insert_header(header::CONTENT_TYPE, JSON)?;
        self.set_cache_control(cache_control)
    }

    pub fn set_cache_control(&mut self, cache_control: CacheControl) -> Result<()> {
        self.insert_header(header::CACHE_CONTROL, cache_control.header_value())
    }

    pub fn into_parts(self) -> (Box<ResponseHeader>, CacheStatus) {
        (self.header, self.cache)
    }
}

impl Deref for Response {
    type Target = ResponseHeader;

    fn deref(&self) -> &ResponseHeader {
        &self.header
    }
}

impl DerefMut for Response {
    fn deref_mut(&mut self) -> &mut ResponseHeader {
        &mut self.header
    }
}
