//! The inputs of routing: the registries, the listener, and the parts of a request that routing reads.

use std::net::{IpAddr, Ipv4Addr};

use http::{Method, StatusCode, header};
use pingora_http::RequestHeader;

use super::error_response::ErrorResponse;
use super::host::host;
use super::old_clients::OldClients;
use super::resolver::{NameContext, Resolver};
use oci::error::ErrorCode;
use oci::name::Registry;
use oci::network::Network;
use oci::proxy_protocol::Versions;

/// The registries, and the clients served only v1.
#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    /// The registries with their names and hosts.
    pub resolver: Resolver,
    /// The clients that are served v1 only.
    pub old_clients: OldClients,
}

/// The properties of a listener that routing reads.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Whether only GET and HEAD are answered, and every client is anonymous.
    pub read_only: bool,
    /// The only registry this listener serves.
    pub registry: Option<Registry>,
    /// The scheme that clients use: `http` or `https`.
    pub scheme: &'static str,
    /// The URL that clients use behind another proxy: scheme and authority.
    pub public_url: Option<String>,
    /// The proxies that are believed what they say of the clients behind them.
    pub trusted_proxies: Vec<Network>,
    /// The versions of the PROXY protocol that trusted proxies begin their connections with; `None`: they do not.
    pub proxy_protocol: Option<Versions>,
}

/// The parts of a request that routing reads.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    pub method: &'a Method,
    /// Still encoded.
    pub path: &'a str,
    /// Still encoded, without `?`.
    pub query: &'a str,
    /// Host or `:authority`, with its port if it has one.
    pub host: Option<&'a str>,
    /// User-Agent, empty if absent.
    #[cfg_attr(
        not(feature = "v1"),
        expect(dead_code, reason = "only v1 clients are recognised by it")
    )]
    pub agent: &'a str,
}

impl Listener {
    /// Whether an address is that of a trusted proxy. A Unix socket, which has none, counts as 127.0.0.1.
    pub fn trusts(&self, client: Option<IpAddr>) -> bool {
        let client = client.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let mut proxies = self.trusted_proxies.iter();
        proxies.any(|network| network.contains(client))
    }

    /// The context that this listener resolves a name in.
    pub fn name_context<'a>(
        &'a self,
        namespace: Option<&'a str>,
        host: Option<&'a str>,
    ) -> NameContext<'a> {
        NameContext::Client {
            listener: self.registry.as_ref(),
            namespace,
            host,
        }
    }
}

impl<'a> RequestParts<'a> {
    /// # Errors
    /// 400 for a missing or invalid Host.
    pub fn of(request: &'a RequestHeader) -> Result<Self, ErrorResponse> {
        let host = host(request).map_err(|_| {
            ErrorResponse::with_status(
                StatusCode::BAD_REQUEST,
                ErrorCode::NameInvalid,
                "the Host header is missing or not valid",
            )
        })?;
        let agent = request.headers.get(header::USER_AGENT);
        Ok(Self {
            method: &request.method,
            // A path that is not UTF-8 becomes one that no endpoint accepts.
            path: if request.raw_path_is_utf8() {
                request.uri.path()
            } else {
                "/%ff"
            },
            query: request.uri.query().unwrap_or_default(),
            host,
            agent: agent
                .and_then(|agent| agent.to_str().ok())
                .unwrap_or_default(),
        })
    }
}
