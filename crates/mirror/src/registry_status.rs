//! The state of the registries, for operators.

use std::time::{Duration, Instant};

use super::Mirror;
use oci::name::Registry;
use upstream::{Upstream, UpstreamHealth};

impl Mirror {
    /// The state of a registry's upstream; `None` if it has none.
    pub fn upstream_health(&self, registry: &Registry) -> Option<UpstreamHealth> {
        let origin = self.state.origins.get(registry)?;
        origin
            .client()
            .map(|client: &Upstream| client.health(Instant::now()))
    }

    /// How long the tags of a registry are fresh, by the pulls that are left now.
    pub fn tag_ttl(&self, registry: &Registry) -> Option<Duration> {
        let origin = self.state.origins.get(registry)?;
        Some(origin.tag_ttl_at(Instant::now()))
    }
}
