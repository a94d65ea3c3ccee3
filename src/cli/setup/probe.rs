//! Checks that a client that was set up trusts and reaches the gateway: the same requests, with the CA that it has on disk.

use std::time::Duration;

use reqwest::{Certificate, StatusCode};

use ::setup::{Client, Gateway};

/// The timeout of a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The header of every registry.
const VERSION: &str = "docker-distribution-api-version";

/// Why a client cannot use the gateway.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("the CA cannot be used: {0}")]
    Ca(reqwest::Error),
    #[error(
        "{url} cannot be reached, or its certificate is not trusted; check that the gateway runs, and name its CA with --ca-fingerprint if it has one of its own"
    )]
    Unreachable { url: String, source: reqwest::Error },
    #[error("{0} is not a registry; write the URL that the gateway prints at start")]
    NotARegistry(String),
    #[error(
        "{url} has no registry {registry}; add it to registries in the gateway's configuration"
    )]
    UnknownRegistry { url: String, registry: String },
    #[error(
        "{0} asks for a login, and Docker would answer with the password for Docker Hub; write the URL of a listener with read_only: true and registry: docker.io"
    )]
    AsksForALogin(String),
    #[error("{url} answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("system error: {0}")]
    System(#[from] std::io::Error),
}

/// Asks the gateway for each registry. `ca` is the PEM text of the CA that the client has.
///
/// # Errors
/// [`ProbeError`]
pub fn check(client: Client, gateway: &Gateway, ca: Option<&str>) -> Result<(), ProbeError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none());
        if let Some(ca) = ca {
            let ca = Certificate::from_pem(ca.as_bytes()).map_err(ProbeError::Ca)?;
            http = http.tls_certs_only([ca]);
        }
        let http = http.build().map_err(ProbeError::Ca)?;
        for registry in &gateway.registries {
            check_registry(&http, client, gateway, registry).await?;
        }
        Ok(())
    })
}

async fn check_registry(
    http: &reqwest::Client,
    client: Client,
    gateway: &Gateway,
    registry: &str,
) -> Result<(), ProbeError> {
    let url = gateway.url();
    let sent = http.get(format!("{url}/v2/?ns={registry}")).send().await;
    let answer = sent.map_err(|source| ProbeError::Unreachable {
        url: url.clone(),
        source,
    })?;
    if !answer.headers().contains_key(VERSION) {
        return Err(ProbeError::NotARegistry(url));
    }
    match answer.status() {
        StatusCode::UNAUTHORIZED if client == Client::Docker && registry == "docker.io" => {
            Err(ProbeError::AsksForALogin(url))
        }
        StatusCode::OK | StatusCode::UNAUTHORIZED => Ok(()),
        StatusCode::NOT_FOUND => Err(ProbeError::UnknownRegistry {
            url,
            registry: registry.to_owned(),
        }),
        status => Err(ProbeError::Status { url, status }),
    }
}
