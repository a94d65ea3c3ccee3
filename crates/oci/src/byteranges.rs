//! Several ranges in one body: `multipart/byteranges` (RFC 9110 §14.6, RFC 2046 §5.1). Every byte except the
//! content is fixed, so that the length is known before the body begins.

use super::range::Span;

/// The media type of every part, as of every blob.
pub const PART_TYPE: &str = "application/octet-stream";

/// The framing of a body with several parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Byteranges {
    boundary: String,
    parts: Vec<Span>,
    /// The size of the whole representation, in bytes.
    size: u64,
}

impl Byteranges {
    /// `nonce` must be random: 128 bits of it keep the boundary from occurring in the content.
    pub fn new(nonce: u128, parts: Vec<Span>, size: u64) -> Self {
        Self {
            boundary: format!("{nonce:032x}"),
            parts,
            size,
        }
    }

    /// `Content-Type` of the 206.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// `Content-Length` of the 206, in bytes.
    pub fn length(&self) -> u64 {
        let parts = self.parts().map(|(head, span)| span.len() + size(&head));
        parts.sum::<u64>() + size(&self.end())
    }

    /// The boundary and headers before each part, and the part's bytes.
    pub fn parts(&self) -> impl Iterator<Item = (String, Span)> {
        self.parts.iter().enumerate().map(|(place, span)| {
            let line_end = if place == 0 { "" } else { "\r\n" };
            let head = format!(
                "{line_end}--{}\r\nContent-Type: {PART_TYPE}\r\nContent-Range: {}\r\n\r\n",
                self.boundary,
                span.content_range(self.size)
            );
            (head, *span)
        })
    }

    /// The closing boundary.
    pub fn end(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }
}

fn size(text: &str) -> u64 {
    text.len() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::PART_OVERHEAD;

    #[test]
    fn a_body_of_two_parts() {
        let span = |first, end| Span { first, end };
        let frame = Byteranges::new(0xabc, vec![span(0, 5), span(990, 1000)], 1000);
        let boundary = "00000000000000000000000000000abc";
        assert_eq!(
            frame.content_type(),
            format!("multipart/byteranges; boundary={boundary}")
        );
        let mut body = String::new();
        for (head, span) in frame.parts() {
            assert!(size(&head) >= PART_OVERHEAD, "a part costs {}", head.len());
            body.push_str(&head);
            body.extend((span.first..span.end).map(|_| 'x'));
        }
        body.push_str(&frame.end());
        let expected = format!(
            "--{boundary}\r\n\
             Content-Type: application/octet-stream\r\n\
             Content-Range: bytes 0-4/1000\r\n\
             \r\n\
             xxxxx\r\n\
             --{boundary}\r\n\
             Content-Type: application/octet-stream\r\n\
             Content-Range: bytes 990-999/1000\r\n\
             \r\n\
             xxxxxxxxxx\r\n\
             --{boundary}--\r\n"
        );
        assert_eq!(body, expected);
        assert_eq!(frame.length(), size(&expected));
    }
}
