//! What requests are routed by: the registries, the listener, and what is read of a request.

use http::Method;

use super::old_clients::OldClients;
use super::resolver::{NameContext, Resolver};
use oci::name::Registry;

/// What requests are routed by.
#[derive(Clone, Debug, Default)]
pub struct RoutingTable {
    pub resolver: Resolver,
    /// To whom v2 is not shown.
    pub old_clients: OldClients,
}

/// What routing knows of the listener a request came in on.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    pub read_only: bool,
    /// Everything on this listener is this registry's.
    pub registry: Option<Registry>,
    /// What clients speak to it: `http` or `https`.
    pub scheme: &'static str,
    /// What clients call it behind another proxy: scheme and authority.
    pub public_url: Option<String>,
}

/// A request as far as routing reads it.
#[derive(Clone, Copy, Debug)]
pub struct RequestParts<'a> {
    pub method: &'a Method,
    /// Still encoded.
    pub path: &'a str,
    /// Still encoded, without `?`.
    pub query: &'a str,
    /// Host or `:authority`, with its port if it has one.
    pub host: Option<&'a str>,
    /// User-Agent, empty where there is none.
    #[cfg_attr(
        not(feature = "v1"),
        expect(dead_code, reason = "only clients of v1 are told by it")
    )]
    pub agent: &'a str,
}

impl Listener {
    /// Where a name is asked for on this listener.
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
