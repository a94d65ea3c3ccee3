//! Certificates, connections and their limits, start and shutdown of the real binary.

mod acme;
mod certificates;
mod client_ca;
mod connections;
mod heads;
mod proxies;
mod reload;
mod shares;
mod shutdown;
mod start;

use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::origin::Origin;

/// An upstream with one blob, `bytes` long and made of seed 1, and a gateway in front of it.
struct Scene {
    origin: Origin,
    gateway: Gateway,
    /// `/v2/library/app/blobs/…`
    path: String,
}

impl Scene {
    fn new(bytes: usize, more: &str) -> Self {
        let origin = Origin::start();
        let digest = origin.push_blob("library/app", random(1, bytes));
        let gateway = Gateway::mirror("docker.io", &origin.url(), more);
        Self {
            origin,
            gateway,
            path: format!("/v2/library/app/blobs/{digest}"),
        }
    }

    /// [`Scene::new`] with the blob stored before the short limits apply.
    fn warm(bytes: usize, more: &str) -> Self {
        let mut scene = Self::new(bytes, "");
        let reply = testkit::http::get(scene.gateway.url(1), None, &scene.path);
        assert_eq!((reply.status(), reply.body.len()), (200, bytes));
        let upstream = scene.origin.url();
        let registries = format!("registries: [{{name: docker.io, v2: \"{upstream}\"}}]\n");
        scene.gateway.restart_with(&(registries + more));
        scene
    }
}
