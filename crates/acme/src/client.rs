//! The HTTP client of the authority: over TLS, within limits of time and size.

use std::pin::Pin;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt as _;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The limit of a request with its response.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The largest response, in bytes: a certificate with those of its issuers takes a few kilobytes.
const MAX_BODY: usize = 1 << 20;

/// Trusts the system's roots. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

impl Client {
    pub fn new() -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("roadstead/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(TIMEOUT)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none());
        Ok(Self(builder.build()?))
    }
}

impl HttpClient for Client {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move { send(client, request).await })
    }
}

/// An unsuccessful answer that is not the protocol's own, or asks to wait.
#[derive(Debug, thiserror::Error)]
#[error("it answered {status}{}", problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default())]
pub struct Refusal {
    status: StatusCode,
    /// What it says.
    problem: Option<Problem>,
    /// How long it asks to wait.
    pub retry_after: Option<Duration>,
}

async fn send(
    client: reqwest::Client,
    request: http::Request<BodyWrapper<Bytes>>,
) -> Result<BytesResponse, Error> {
    let other = |error: reqwest::Error| Error::Other(Box::new(error));
    let (mut parts, body) = request.into_parts();
    // The client's own names the program that the authority's operators see.
    parts.headers.remove(http::header::USER_AGENT);
    let method = parts.method.clone();
    let Ok(body) = body.collect().await;
    let request = http::Request::from_parts(parts, body.to_bytes());
    let request = reqwest::Request::try_from(request).map_err(other)?;
    let mut response = client.execute(request).await.map_err(other)?;
    let mut body = BytesMut::new();
    while let Some(piece) = response.chunk().await.map_err(other)? {
        if body.len() + piece.len() > MAX_BODY {
            return Err(Error::Str("a response is longer than 1 MiB"));
        }
        body.extend_from_slice(&piece);
    }
    let (mut parts, ()) = http::Response::new(()).into_parts();
    parts.status = response.status();
    parts.headers = response.headers().clone();
    match refusal(&method, parts.status, &parts.headers, &body) {
        Some(refusal) => Err(Error::Other(Box::new(refusal))),
        None => Ok(BytesResponse {
            parts,
            body: Box::new(body.freeze()),
        }),
    }
}

/// What instant-acme would not tell from a successful answer, or from one without a reason.
fn refusal(
    method: &Method,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Option<Refusal> {
    if status.is_success() {
        return None;
    }
    let problem = serde_json::from_slice::<Problem>(body);
    let problem = problem.ok().filter(|problem| problem.r#type.is_some());
    let retry_after = oci::retry_after::of(headers, SystemTime::now());
    // It knows these alone, and what they mean.
    let is_known = *method == Method::POST && problem.is_some() && retry_after.is_none();
    (!is_known).then_some(Refusal {
        status,
        problem,
        retry_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_the_authority_says() {
        const LIMITED: &str =
            r#"{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}"#;

        for (method, status, retry_after, body, told) in [
            (Method::GET, 200, None, "no JSON", None),
            (Method::POST, 201, Some("5"), "", None),
            (Method::POST, 429, None, LIMITED, None),
            (
                Method::POST,
                429,
                Some("7200"),
                LIMITED,
                Some((
                    "429 Too Many Requests: API error: too many (urn:ietf:params:acme:error:rateLimited)",
                    Some(7200),
                )),
            ),
            (
                Method::GET,
                429,
                None,
                LIMITED,
                Some((
                    "429 Too Many Requests: API error: too many (urn:ietf:params:acme:error:rateLimited)",
                    None,
                )),
            ),
            (
                Method::HEAD,
                503,
                Some("60"),
                "",
                Some(("503 Service Unavailable", Some(60))),
            ),
            (
                Method::POST,
                502,
                None,
                "<html>",
                Some(("502 Bad Gateway", None)),
            ),
            (
                Method::POST,
                400,
                None,
                "{}",
                Some(("400 Bad Request", None)),
            ),
            (Method::GET, 302, None, "", Some(("302 Found", None))),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(value) = retry_after {
                headers.insert(http::header::RETRY_AFTER, value.parse().expect("a value"));
            }
            let status = StatusCode::from_u16(status).expect("a status");
            let found = refusal(&method, status, &headers, body.as_bytes());
            let found = found.map(|it| (it.to_string(), it.retry_after.map(|wait| wait.as_secs())));
            let told = told.map(|(words, wait)| (format!("it answered {words}"), wait));
            assert_eq!(found, told, "{method} {status}");
        }
    }
}
