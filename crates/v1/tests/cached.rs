//! What other modules use: an image's description and ancestry whole, and its layer in the store, whether the
//! registry is mirrored or pushed to.

#![expect(
    clippy::too_many_lines,
    reason = "a test is a script or a table, which reads best in one piece"
)]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use access::{Action, Caller, Policy};
use mirror::{Contents, Mirror, MirrorError};
use oci::name::{Registry, Repository, RepositoryName};
use oci::v1::{ImageId, Resource};
use roadstead_v1::{Claim, Registries, Settings, V1, V1Settings};

use testkit::http::block_on;
use testkit::image::random;
use testkit::sha256;
use testkit::v1::V1Registry;

fn settings(registry: &V1Registry, mirrored: bool) -> Settings {
    let upstream = upstream::Settings {
        registry: "old".into(),
        origin: registry.url(),
        accounts: Vec::new(),
        ca: None,
        auth_hosts: Vec::new(),
        idle: None,
    };
    Settings {
        registries: vec![V1Settings {
            registry: Registry::new("old"),
            mirrored,
            bridge: true,
            upstream,
            index: None,
            tag_ttl: Duration::from_secs(600),
            max_stale: None,
            stale_after: Duration::from_secs(5),
        }],
        bridged: HashSet::new(),
    }
}

#[test]
fn a_layer_can_be_had_in_the_store() {
    testkit::tls::install_provider();
    for mirrored in [true, false] {
        let registry = V1Registry::start();
        let layers = [random(41, 300_000), random(42, 10)];
        let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
        let ids = registry.push_image("team/app", "1", &parts);
        let dir = testkit::temp_dir();
        let store_settings = store::Settings::at(dir.path());
        let store = store::Store::open(&store_settings, &[roadstead_v1::RECORDS]).expect("a store");
        let store = Arc::new(store);
        store.scan();
        let handle = testkit::http::runtime().handle().clone();
        let contents = Contents::new(store.clone(), 4, handle, None);
        let registries = Registries::new(settings(&registry, mirrored), contents.clone());
        let origins = Vec::new();
        let mirror = Mirror::new(mirror::Settings { origins }, contents, None);
        let v1 = V1::new(registries.expect("registries"), mirror.expect("a mirror"));

        let old = Registry::new("old");
        let policy = Policy {
            public: [old.clone()].into(),
            ..Policy::default()
        };
        let repository: Repository = "team/app".parse().expect("a name");
        let permit = policy.decide(
            &Caller::Anonymous,
            Action::Pull,
            &RepositoryName::new(&old, &repository),
        );
        let permit = permit.expect("any client may");
        let claim = Claim::Repository(&permit);
        let id = |index: usize| ids[index].parse::<ImageId>().expect("an id");
        block_on(async {
            // Nothing is anybody's before the repository is known to have it.
            let list = v1.v1_named(&permit, &Resource::Tags).await;
            assert!(list.is_ok(), "{list:?}");
            let ancestry = v1.v1_ancestry(claim, &id(1)).await.expect("an ancestry");
            assert_eq!(
                String::from_utf8_lossy(&ancestry.bytes),
                format!("[\"{}\",\"{}\"]", ids[1], ids[0])
            );
            for (index, layer) in layers.iter().enumerate() {
                let json = v1.v1_image_json(claim, &id(index)).await.expect("JSON");
                assert_eq!(json.layer_size, Some(layer.len() as u64));
                for _ in 0..2 {
                    let (digest, size) = v1
                        .v1_stored_layer(claim, &id(index))
                        .await
                        .expect("a stored file");
                    assert_eq!(
                        (digest.to_string(), size),
                        (sha256(layer), layer.len() as u64)
                    );
                    let blob = store.blobs.load(&digest, u64::MAX).expect("readable");
                    assert!(blob.as_ref() == Some(layer));
                }
                let asked = registry.requests_to(&format!("{}/layer", ids[index]));
                assert_eq!(asked.len(), 1, "{asked:?}");
            }
            let absent = "0".repeat(64).parse().expect("an id");
            let unknown = v1.v1_stored_layer(claim, &absent).await;
            assert!(
                matches!(unknown, Err(MirrorError::Unknown { .. })),
                "{unknown:?}"
            );
        });
    }
}
