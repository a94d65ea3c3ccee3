//! The `Cache-Control` field of responses (RFC 9111 §5.2).

use http::HeaderValue;

/// How caches between the gateway and the client may use a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheControl {
    /// Content addressed by digest, of a registry that anonymous clients may read.
    PublicImmutable,
    /// Content addressed by a v1 image id, of a registry that anonymous clients may read.
    #[cfg(feature = "v1")]
    Public,
    /// It may change at any time: revalidated before each use.
    #[cfg(feature = "v1")]
    NoCache,
    Private,
    PrivateNoStore,
    NoStore,
}

impl CacheControl {
    pub fn header_value(self) -> HeaderValue {
        // Inline constants are checked when they are compiled, not for each response.
        match self {
            Self::PublicImmutable => {
                const { HeaderValue::from_static("public, max-age=31536000, immutable") }
            }
            #[cfg(feature = "v1")]
            Self::Public => const { HeaderValue::from_static("public, max-age=31536000") },
            #[cfg(feature = "v1")]
            Self::NoCache => const { HeaderValue::from_static("no-cache") },
            Self::Private => const { HeaderValue::from_static("private") },
            Self::PrivateNoStore => const { HeaderValue::from_static("private, no-store") },
            Self::NoStore => const { HeaderValue::from_static("no-store") },
        }
    }
}
