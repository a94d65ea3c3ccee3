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
    pub const fn header_value(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::PublicImmutable => "public, max-age=31536000, immutable",
            #[cfg(feature = "v1")]
            Self::Public => "public, max-age=31536000",
            #[cfg(feature = "v1")]
            Self::NoCache => "no-cache",
            Self::Private => "private",
            Self::PrivateNoStore => "private, no-store",
            Self::NoStore => "no-store",
        })
    }
}
