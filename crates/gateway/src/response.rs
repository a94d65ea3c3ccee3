//! The head of an answer.

use std::ops::{Deref, DerefMut};

use http::StatusCode;
use pingora_core::Result;
use pingora_http::ResponseHeader;

use oci::cache_status::CacheStatus;

/// How many header fields an answer has room for before its table grows.
const FIELDS: usize = 14;

/// The head of an answer, with the cache's part in it: the header field, the log and the metrics tell the same.
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
