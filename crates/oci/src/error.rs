//! Error codes and their JSON body (distribution-spec 1.1, "Error codes").

use http::StatusCode;

/// The specification's codes, each with its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// `BLOB_UNKNOWN` (code-1): the repository has no blob of this digest.
    BlobUnknown,
    /// `DENIED` (code-12): the client is known, and may not do this.
    Denied,
    /// `DIGEST_INVALID` (code-4): no digest, or one that the bytes do not match.
    DigestInvalid,
    /// `MANIFEST_INVALID` (code-6): a pushed manifest cannot be read.
    ManifestInvalid,
    /// `MANIFEST_UNKNOWN` (code-7): the repository has no such tag, and no manifest of this digest.
    ManifestUnknown,
    /// `NAME_INVALID` (code-8): the repository's name breaks the grammar of `<name>`.
    NameInvalid,
    /// `NAME_UNKNOWN` (code-9): there is no such repository, or the registry of `?ns=` is not served.
    NameUnknown,
    /// `PAGINATION_NUMBER_INVALID`: `n` is not a number. Not in the specification; the reference registry has it.
    PaginationNumberInvalid,
    /// `RANGE_INVALID`: a chunk does not begin where the upload stands, or a range lies behind the blob's end. Not in
    /// the specification; the reference registry has it.
    RangeInvalid,
    /// `SIZE_INVALID` (code-10): a body has another length than was announced.
    SizeInvalid,
    /// `TAG_INVALID`: the tag breaks its grammar. Not in the specification; the reference registry has it.
    TagInvalid,
    /// `TOOMANYREQUESTS` (code-14): the registry or the gateway limits the client's requests.
    TooManyRequests,
    /// `UNAUTHORIZED` (code-11): the client must log in; sent with a challenge.
    Unauthorized,
    /// `UNAVAILABLE`: the registry or the store cannot be reached now. Not in the specification; the reference registry
    /// has it.
    Unavailable,
    /// `UNKNOWN`: the gateway failed. Not in the specification; the reference registry has it.
    Unknown,
    /// `UNSUPPORTED` (code-13): the endpoint does not take this method, or the registry no pushes.
    Unsupported,
}

impl ErrorCode {
    /// The `code` of the error's JSON: `BLOB_UNKNOWN`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }

    /// The status that the reference implementation uses with this code.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::ManifestUnknown | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::PaginationNumberInvalid
            | Self::SizeInvalid
            | Self::TagInvalid => StatusCode::BAD_REQUEST,
            Self::RangeInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

/// The error body: `{"errors":[{"code":…,"message":…}]}`, to be sent as `application/json`.
pub fn body(code: ErrorCode, message: &str) -> String {
    serde_json::json!({"errors": [{"code": code.as_str(), "message": message}]}).to_string()
}

/// The error body with `detail`, whose form is the server's own.
pub fn detailed_body(code: ErrorCode, message: &str, detail: &serde_json::Value) -> String {
    let error = serde_json::json!({"code": code.as_str(), "message": message, "detail": detail});
    serde_json::json!({"errors": [error]}).to_string()
}

/// Whether an error body names a code.
pub fn names(body: &[u8], code: ErrorCode) -> bool {
    #[derive(serde::Deserialize)]
    struct Body {
        errors: Vec<CodedError>,
    }
    #[derive(serde::Deserialize)]
    struct CodedError {
        code: String,
    }
    let body = serde_json::from_slice::<Body>(body);
    body.is_ok_and(|body| body.errors.iter().any(|error| error.code == code.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_in_bodies() {
        let unknown = |body: &str| names(body.as_bytes(), ErrorCode::NameUnknown);
        assert!(unknown(&body(ErrorCode::NameUnknown, "x")));
        let two = r#"{"errors":[{"code":"X","detail":{}},{"code":"NAME_UNKNOWN"}]}"#;
        assert!(unknown(two));
        for other in ["404 page not found", "", "{}", "{\"errors\":[]}", "[]"] {
            assert!(!unknown(other), "{other}");
        }
        assert!(!unknown(&body(ErrorCode::ManifestUnknown, "NAME_UNKNOWN")));
    }

    #[test]
    fn body_escapes_its_message() {
        assert_eq!(
            body(ErrorCode::NameInvalid, "not \"a\"\n"),
            r#"{"errors":[{"code":"NAME_INVALID","message":"not \"a\"\n"}]}"#
        );
    }
}
