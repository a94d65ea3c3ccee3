//! One gateway, one upstream, and an image for each protocol.

use std::net::Ipv4Addr;

use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::origin::{Auth, Image, Origin};

/// A layer's length: well over the withheld tail.
pub const SIZE: usize = 600_000;
pub const HALF: u64 = SIZE as u64 / 2;

/// The gateway's way to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Direct,
    /// With an account, which the upstream requires.
    Account,
    /// Through a proxy, under an internet name: the scripted upstream plays both.
    Proxied,
}

/// The upstream side.
pub struct World {
    pub origin: Origin,
    /// Another host with the same content.
    pub storage: Origin,
    /// One for each protocol, as currently tagged.
    pub images: [Image; 2],
}

pub struct Scene {
    pub world: World,
    pub gateway: Gateway,
}

impl Scene {
    pub fn new(reach: Reach) -> Self {
        let origin = Origin::start();
        let storage = Origin::start_on(Ipv4Addr::new(127, 0, 0, 8));
        let push = |origin: &Origin| {
            [0, 1].map(|n| {
                let name = format!("library/h{}", n + 1);
                origin.push_image(&name, "latest", &[random(n, SIZE)])
            })
        };
        push(&storage);
        let images = push(&origin);
        // A tag is revalidated each time, so that faults affect stored content too.
        let store = "store: {tag_ttl: 0s, missing_ttl: 0s}\nadmin: {address: off, metrics: \"127.0.0.1:0\"}\n";
        let direct = format!(
            "registries: [{{name: docker.io, v2: \"{}\"}}]\n",
            origin.url()
        );
        let gateway = match reach {
            Reach::Direct => Gateway::start(&(direct + store)),
            Reach::Account => {
                origin.require(Auth::basic("me", "s3cret-word"));
                let rules = "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull]}]}\n";
                Gateway::start(&format!(
                    "registries: [{{name: docker.io, v2: \"{}\", \
                     credentials: {{username: me, password: s3cret-word}}}}]\n{rules}{store}",
                    origin.url()
                ))
            }
            Reach::Proxied => {
                let yaml = "registries: [{name: docker.io, v2: \"http://registry.example\"}]\n";
                let proxy = origin.url();
                let environment = [("HTTP_PROXY", &*proxy), ("http_proxy", &*proxy)];
                Gateway::start_with(&format!("{yaml}{store}"), &environment)
            }
        };
        let world = World {
            origin,
            storage,
            images,
        };
        Self { world, gateway }
    }
}

/// The number of manifest requests that the gateway is answering.
pub fn manifests_in_flight(gateway: &Gateway) -> usize {
    let metrics = gateway.operators("admin.metrics");
    let reply = testkit::http::get(metrics, None, "/metrics");
    let series = "registry_http_in_flight_requests{handler=\"manifest\"} ";
    let text = reply.text();
    let value = text.lines().find_map(|line| line.strip_prefix(series));
    value.map_or(0, |value| value.parse().expect("a number"))
}

impl World {
    /// Points both tags at other manifests.
    pub fn move_tags(&mut self) {
        for image in &mut self.images {
            let layer = random(7, 1000);
            *image = self
                .origin
                .push_image(&image.repository, &image.tag, &[layer]);
        }
    }
}
