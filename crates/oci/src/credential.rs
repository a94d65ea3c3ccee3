//! The output of a credential helper: the JSON that `docker-credential-… get` prints
//! (docker-credential-helpers, "Development").

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The longest lifetime of an answer, and the lifetime of one without an expiry.
pub const LONGEST_LIFE: Duration = Duration::from_secs(600);

/// A user name and a secret. The secret is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Answer {
    /// `Username`; `<token>` marks the secret as an identity token.
    #[serde(rename = "Username")]
    pub username: String,
    /// `Secret`: a password or an identity token.
    #[serde(rename = "Secret")]
    pub secret: String,
    /// RFC 3339; absent if the helper gives no expiry.
    #[serde(rename = "ExpiresAt", default)]
    expires_at: Option<String>,
}

/// Output that is no answer. It quotes nothing of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its answer is not the JSON of a credential helper")]
pub struct AnswerError;

/// The server URL under which a helper has a registry's credentials. Docker has always stored Docker Hub's under that of
/// its first index.
pub fn server_of(registry: &str) -> &str {
    match registry {
        "docker.io" => "https://index.docker.io/v1/",
        registry => registry,
    }
}

/// Parses the output of a credential helper.
///
/// # Errors
/// [`AnswerError`] if it is not the JSON of a credential helper.
pub fn parse(output: &[u8]) -> Result<Answer, AnswerError> {
    serde_json::from_slice(output).map_err(|_| AnswerError)
}

impl Answer {
    /// How long the answer may be reused from `now` on. An expiry that cannot be parsed counts as absent.
    pub fn lifetime(&self, now: OffsetDateTime) -> Duration {
        let text = self.expires_at.as_deref();
        let end = text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
        end.map_or(LONGEST_LIFE, |end| {
            Duration::try_from(end - now)
                .unwrap_or_default()
                .min(LONGEST_LIFE)
        })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Answer({:?}, [redacted])", self.username)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn credential_helper_output() {
        let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).expect("a time");
        let parsed = |text: &str| {
            let answer = parse(text.as_bytes()).ok()?;
            let seconds = answer.lifetime(now).as_secs();
            Some((answer.username, answer.secret, seconds))
        };
        let some = |ttl| Some(("u".to_owned(), "s".to_owned(), ttl));
        for (text, expected) in [
            (
                r#"{"ServerURL":"x","Username":"u","Secret":"s"}"#,
                some(600),
            ),
            (
                r#"{"Username":"u","Secret":"s","ExpiresAt":"2027-01-15T08:01:00Z"}"#,
                some(60),
            ),
            (
                r#"{"Username":"u","Secret":"s","ExpiresAt":"2027-01-15T09:00:00Z"}"#,
                some(600),
            ),
            (
                r#"{"Username":"u","Secret":"s","ExpiresAt":"2020-01-01T00:00:00Z"}"#,
                some(0),
            ),
            (
                r#"{"Username":"u","Secret":"s","ExpiresAt":"soon"}"#,
                some(600),
            ),
            (r#"{"Username":"u"}"#, None),
            ("credentials not found in native keychain", None),
        ] {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn debug_output_redacts_the_secret() {
        let answer = parse(br#"{"Username":"me","Secret":"s3cret"}"#).expect("valid");
        assert_eq!(format!("{answer:?}"), r#"Answer("me", [redacted])"#);
    }

    proptest! {
        #[test]
        fn any_answer_is_read(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&bytes);
        }
    }
}
