//! One order of a certificate: prove the hosts, request, fetch.

use std::collections::BTreeSet;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Identifier, NewOrder, Order, OrderStatus,
    RetryPolicy,
};

use super::AcmeError;
use super::certificate::{is_of_key, request};
use super::challenges::{Challenges, Publication};
use super::client::Refusal;

/// How long the authority may take to verify the hosts, and to issue the certificate.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(90);

/// How the authority verifies that a host is this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A certificate on port 443 (RFC 8737).
    TlsAlpn01,
    /// A file on port 80 (RFC 8555 §8.3).
    Http01,
}

impl Method {
    /// The name of the challenge.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }

    fn challenge_type(self) -> ChallengeType {
        match self {
            Self::TlsAlpn01 => ChallengeType::TlsAlpn01,
            Self::Http01 => ChallengeType::Http01,
        }
    }
}

/// Why an order failed.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The authority cannot be reached, or refuses.
    #[error("a request to the ACME authority failed")]
    Acme(#[from] instant_acme::Error),
    /// The authority verifies by other methods only.
    #[error("the authority offers no {} for {host}", method.as_str())]
    NotOffered {
        /// The method.
        method: Method,
        /// The host.
        host: String,
    },
    /// The authority could not verify a host.
    #[error("the authority could not verify by {}: {}", method.as_str(), reasons.join("; "))]
    Unverified {
        /// The method.
        method: Method,
        /// What it says of each host.
        reasons: Vec<String>,
    },
    /// The certificate is of other hosts, self-signed, or due for renewal already: another order would not help at once.
    #[error(
        "the authority issued a certificate that is not of these hosts, or is due for renewal already"
    )]
    Unusable,
    /// The certificate is not of the key that it was requested with.
    #[error("the authority issued a certificate of another key")]
    OtherKey,
    /// The authority can verify a host by none of the methods.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    NoMethod(Vec<OrderError>),
    /// A certificate or a request of one cannot be made.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// A certificate cannot be used.
    #[error("cannot use a certificate")]
    Tls(#[from] rustls::Error),
    /// A file cannot be written.
    #[error(transparent)]
    File(#[from] AcmeError),
    /// The account cannot be written as JSON.
    #[error("cannot write the account")]
    Account(#[from] serde_json::Error),
}

impl OrderError {
    /// Whether the authority does not know the account, as after a change of its database.
    pub fn is_unknown_account(&self) -> bool {
        let Self::Acme(instant_acme::Error::Api(problem)) = self else {
            return false;
        };
        let kind = problem.r#type.as_deref().unwrap_or_default();
        kind.ends_with(":accountDoesNotExist")
    }

    /// Whether another method may succeed.
    pub fn is_of_method(&self) -> bool {
        matches!(self, Self::NotOffered { .. } | Self::Unverified { .. })
    }

    /// How long the authority asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        let Self::Acme(instant_acme::Error::Other(error)) = self else {
            return None;
        };
        error.downcast_ref::<Refusal>()?.retry_after
    }
}

/// Orders a certificate; returns it with those of its issuers and its key, as PEM.
pub async fn order(
    account: &Account,
    hosts: &BTreeSet<String>,
    method: Method,
    challenges: &Challenges,
) -> Result<String, OrderError> {
    let identifiers: Vec<Identifier> = hosts.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await?;
    let retries = RetryPolicy::default().timeout(VERIFY_TIMEOUT);
    let mut publication = challenges.publication();
    // An authority that is quick tells that it could not verify in its answer already.
    let ready = match answer(&mut order, method, &mut publication).await {
        Ok(()) => order.poll_ready(&retries).await,
        Err(OrderError::Acme(error)) => Err(error),
        Err(error) => return Err(error),
    };
    if !matches!(ready, Ok(OrderStatus::Ready)) {
        let mut reasons = reasons(&mut order, method).await;
        if reasons.is_empty() {
            ready?;
            reasons.push("it does not say why".to_owned());
        }
        return Err(OrderError::Unverified { method, reasons });
    }
    drop(publication);
    let (request, key) = request(hosts)?;
    order.finalize_csr(&request).await?;
    let chain = order.poll_certificate(&retries).await?;
    if !is_of_key(&chain, &key) {
        return Err(OrderError::OtherKey);
    }
    Ok(format!("{}\n{}", chain.trim_end(), key.serialize_pem()))
}

/// Publishes the answers to the challenges of all hosts, and lets the authority verify them.
async fn answer(
    order: &mut Order,
    method: Method,
    publication: &mut Publication,
) -> Result<(), OrderError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let host = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(method.challenge_type()) else {
            return Err(OrderError::NotOffered { method, host });
        };
        let key_authorization = challenge.key_authorization();
        match method {
            Method::TlsAlpn01 => {
                publication.certificate(&host, key_authorization.digest().as_ref())?;
            }
            Method::Http01 => publication.token(&challenge.token, key_authorization.as_str()),
        }
        challenge.set_ready().await?;
    }
    Ok(())
}

/// What the authority says of the hosts that it could not verify.
async fn reasons(order: &mut Order, method: Method) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_err() {
            continue;
        }
        let host = authorization.identifier().to_string();
        let mut of_method = authorization.challenges.iter();
        let challenge = of_method.find(|it| it.r#type == method.challenge_type());
        if let Some(error) = challenge.and_then(|it| it.error.as_ref()) {
            let detail = error.detail.clone().unwrap_or_else(|| error.to_string());
            // The authority shows what it got, which may be anything.
            reasons.push(format!("{host}: {}", telemetry::harmless(&detail, 256)));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http::{Request, Response};
    use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, NewAccount};
    use serde_json::{Value, json};

    use super::*;

    const HOST: &str = "registry.example.com";

    /// An authority that verifies at once, and fails.
    struct Quick {
        /// How many answers tell that the challenge is still to be verified.
        pending: usize,
        /// How often it has told of the challenge.
        told: AtomicUsize,
    }

    impl Quick {
        fn challenge(&self) -> Value {
            let mut challenge = json!({
                "type": "tls-alpn-01", "url": "https://a/challenge", "token": "t", "status": "pending",
            });
            if self.told.fetch_add(1, Ordering::Relaxed) >= self.pending {
                challenge["status"] = json!("invalid");
                challenge["error"] = json!({
                    "type": "urn:ietf:params:acme:error:connection", "detail": "connection refused",
                });
            }
            challenge
        }

        fn authorization(&self) -> Value {
            let challenge = self.challenge();
            json!({
                "identifier": {"type": "dns", "value": HOST},
                "status": challenge["status"], "challenges": [challenge],
            })
        }
    }

    impl HttpClient for Quick {
        fn request(
            &self,
            request: Request<BodyWrapper<Bytes>>,
        ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
            let body = match request.uri().path() {
                "/directory" => json!({
                    "newNonce": "https://a/nonce", "newAccount": "https://a/account",
                    "newOrder": "https://a/order",
                }),
                "/account" => json!({"status": "valid"}),
                "/order" => json!({
                    "status": "pending", "authorizations": ["https://a/authorization"],
                    "finalize": "https://a/finalize",
                }),
                // The URL that it gives the account, and the order.
                "/made" => json!({
                    "status": "invalid", "authorizations": ["https://a/authorization"],
                    "finalize": "https://a/finalize",
                }),
                "/authorization" => self.authorization(),
                "/challenge" => self.challenge(),
                _ => json!({}),
            };
            let answer = Response::builder()
                .header("Replay-Nonce", "n")
                .header("Location", "https://a/made");
            let (parts, ()) = answer.body(()).expect("an answer").into_parts();
            let body = Box::new(Bytes::from(body.to_string()));
            Box::pin(std::future::ready(Ok(BytesResponse { parts, body })))
        }
    }

    #[tokio::test]
    async fn host_that_cannot_be_verified_is_told_however_soon_it_fails() {
        // The first answer is the authorization, the second that to the client's readiness.
        for (pending, reason) in [
            (1, "registry.example.com: connection refused"),
            (2, "registry.example.com: connection refused"),
            (usize::MAX, "it does not say why"),
        ] {
            let told = AtomicUsize::new(0);
            let account = Account::builder_with_http(Box::new(Quick { pending, told }));
            let new = NewAccount {
                contact: &[],
                terms_of_service_agreed: true,
                only_return_existing: false,
            };
            let made = account.create(&new, "https://a/directory".to_owned(), None);
            let (account, _) = made.await.expect("an account");
            let hosts = BTreeSet::from([HOST.to_owned()]);
            let challenges = Challenges::default();
            let ordered = order(&account, &hosts, Method::TlsAlpn01, &challenges).await;
            let error = ordered.expect_err("a failure");
            assert_eq!(
                error.to_string(),
                format!("the authority could not verify by tls-alpn-01: {reason}")
            );
            assert!(error.is_of_method());
        }
    }
}
