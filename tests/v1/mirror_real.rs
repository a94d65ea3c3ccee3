//! docker-registry 0.9.1 itself, mirrored: an image that old Docker pushed is pulled through the mirror and matches its
//! checksums.

use crate::v1::mirror::{blob, fetch, part};
use crate::v1::{Daemon, FALLS_BACK, OLD, PUSHER, gateway_before};
use testkit::gzip;
use testkit::http::Raw;
use testkit::image::random;
use testkit::real::{DockerRegistry, found_perhaps};
use testkit::sha256;

#[test]
fn docker_registry_is_mirrored() {
    let Some(registry) = found_perhaps(DockerRegistry::start()) else {
        return;
    };
    let layers = [gzip(&random(31, 900_000)), gzip(&random(32, 700))];
    let parts: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let hosted = gateway_before(&registry.url(), "");
    let ids = Daemon::new(OLD[4], &hosted, PUSHER)
        .push("team/app", "1", &parts)
        .expect("pushed");
    drop(hosted);
    let mut mirror = testkit::gateway::Gateway::start(&format!(
        "registries: [{{name: old, v1: \"{}\"}}]",
        registry.url()
    ));
    let whole = Ok(vec![layers[1].clone(), layers[0].clone()]);
    // A range first, which docker-registry's own mirror answered with 404.
    let path = part(&ids[0], "layer");
    let range = format!("bytes=1000-{}", layers[0].len());
    let headers = [("Range", &*range)];
    let reply = Raw::connect(mirror.url(1), None).exchange("GET", &path, &headers);
    assert_eq!(reply.status(), 206, "{reply:?}");
    assert!(reply.body == layers[0][1000..]);
    for version in OLD.into_iter().chain([FALLS_BACK]) {
        let pulled = Daemon::new(version, &mirror, None).pull("team/app", "1");
        assert!(pulled == whole, "{} {:?}", version.agent, pulled.err());
    }
    for (id, layer) in ids.iter().zip(&layers) {
        assert!(blob(&mirror, layer).exists());
        let json = fetch(&mirror, &part(id, "json"));
        let size = layer.len().to_string();
        assert_eq!(json.header("x-docker-size"), Some(&*size));
        let payload = sha256(&[&json.body, &b"\n"[..], layer].concat());
        let said = json
            .header("x-docker-checksum-payload")
            .expect("a checksum");
        assert!(said.contains(&payload), "{said} {payload}");
    }
    let repository = fetch(&mirror, "/v1/repositories/team/app/json");
    assert_eq!(repository.status(), 200, "{repository:?}");
    drop(registry);
    mirror.restart();
    let pulled = Daemon::new(OLD[3], &mirror, None).pull("team/app", "1");
    assert!(pulled == whole, "{:?}", pulled.err());
}
