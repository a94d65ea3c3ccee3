//! Shared by the pull tests: an upstream with images, and the comparison of cold and warm.

use testkit::image::{Layout, Made};
use testkit::real::{Client, Count, Counters, Missing, Pulled, Registry};

/// Bytes in the larger layer of the images.
const PAYLOAD: usize = 3 << 20;

/// A registry that holds `library/small:1`, `library/multi:1` and an artifact that refers to the former.
pub struct Upstream {
    pub registry: Registry,
    pub small: Made,
    pub multi: Made,
}

impl Upstream {
    pub fn filled(registry: Result<Registry, Missing>) -> Result<Self, Missing> {
        let registry = registry?;
        let mut layout = Layout::new();
        let small = layout.add_image("small", 1, PAYLOAD);
        let multi = layout.add_index("multi", 2, PAYLOAD);
        let signature = layout.add_artifact("signature", &small, "application/x-signature");
        registry.push(&layout, &small, "library/small:1")?;
        registry.push(&layout, &multi, "library/multi:1")?;
        registry.push(&layout, &signature, "library/small:signature")?;
        Ok(Self {
            registry,
            small,
            multi,
        })
    }
}

/// The results and upstream costs of two pulls by an empty client.
pub struct Pulls {
    pub cold: Pulled,
    pub cold_cost: Counters,
    pub warm_cost: Counters,
}

/// Pulls, empties the client, pulls again. Both must return the pushed image.
#[track_caller]
pub fn cold_and_warm(
    upstream: &Upstream,
    client: &mut dyn Client,
    reference: &str,
    expected: &Made,
) -> Pulls {
    let before = upstream.registry.counters();
    let cold = client.pull(reference).expect("the cold pull");
    assert_eq!(cold.digest, expected.digest);
    let between = upstream.registry.counters();
    client.wipe();
    let warm = client.pull(reference).expect("the warm pull");
    assert_eq!(warm, cold);
    let after = upstream.registry.counters();
    let pulls = Pulls {
        cold,
        cold_cost: &between - &before,
        warm_cost: &after - &between,
    };
    assert_ne!(pulls.cold_cost.of("GET *"), Count::default());
    pulls
}
