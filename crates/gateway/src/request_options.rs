//! The options of a read: its method, range and conditions, and the part of a blob that they select.

use std::sync::Arc;

use http::{HeaderMap, Method, header};

use oci::byteranges::Byteranges;
use oci::conditional;
use oci::digest::Digest;
use oci::range::{self, Selection, Span};

/// The fields of a request that shape its response.
#[derive(Clone, Debug)]
pub struct RequestOptions {
    /// HEAD: everything but the body.
    pub head: bool,
    pub range: Option<Box<str>>,
    pub if_range: Option<Box<str>>,
    pub if_none_match: Option<Box<str>>,
    /// `ns`, echoed as `OCI-Namespace`.
    pub namespace: Option<Arc<str>>,
}

/// The part of a blob to send. Sizes are the whole blob's, in bytes.
pub enum BodySelection {
    Whole { size: Option<u64> },
    Part { span: Span, size: u64 },
    Parts(Byteranges),
}

/// A Range that selects no byte of a blob of `size` bytes.
#[derive(Debug)]
pub struct Unsatisfiable {
    pub size: u64,
}

impl RequestOptions {
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        // Lines of one field are one list (RFC 9110 §5.3). A line that is not text matches nothing, but a
        // condition that is present must not count as absent.
        let text = |name| {
            headers.get(&name)?;
            let lines = headers.get_all(name).iter();
            let lines: Vec<_> = lines.map(|line| line.to_str().unwrap_or("")).collect();
            (!lines.is_empty()).then(|| lines.join(", ").into())
        };
        Self {
            head: method == Method::HEAD,
            range: text(header::RANGE),
            if_range: text(header::IF_RANGE),
            if_none_match: text(header::IF_NONE_MATCH),
            namespace: None,
        }
    }

    /// Whether If-None-Match lists the entity tag, which is the digest.
    pub fn matches(&self, digest: &Digest) -> bool {
        self.if_none_match
            .as_deref()
            .is_some_and(|header| conditional::if_none_match(header, &digest.to_string()))
    }

    /// The part of a blob of `size` bytes to send; of unknown size, always the whole. A Range whose If-Range
    /// does not match is ignored.
    ///
    /// # Errors
    /// [`Unsatisfiable`]: the Range selects no byte.
    pub fn select(
        &self,
        size: Option<u64>,
        digest: &Digest,
    ) -> Result<BodySelection, Unsatisfiable> {
        let Some(size) = size else {
            return Ok(BodySelection::Whole { size });
        };
        let applies = self
            .if_range
            .as_deref()
            .is_none_or(|header| conditional::if_range(header, &digest.to_string()));
        let ranges = self
            .range
            .as_deref()
            .filter(|_| applies)
            .and_then(range::parse);
        match range::select(ranges.as_deref(), size) {
            Selection::Whole => Ok(BodySelection::Whole { size: Some(size) }),
            Selection::Part(span) => Ok(BodySelection::Part { span, size }),
            Selection::Parts(spans) => {
                let frame = Byteranges::new(fastrand::u128(..), spans, size);
                Ok(BodySelection::Parts(frame))
            }
            Selection::Unsatisfiable => Err(Unsatisfiable { size }),
        }
    }
}

impl BodySelection {
    /// The `Content-Length`, where it is known.
    pub fn length(&self) -> Option<u64> {
        match self {
            Self::Whole { size } => *size,
            Self::Part { span, .. } => Some(span.len()),
            Self::Parts(frame) => Some(frame.length()),
        }
    }
}
