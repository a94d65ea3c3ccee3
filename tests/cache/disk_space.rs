//! Eviction and `min_free`.

use testkit::gateway::Gateway;
use testkit::http::get;
use testkit::image::random;
use testkit::origin::Origin;

use super::{cache_status, scene};

#[test]
fn least_recently_used_content_is_evicted() {
    let origin = Origin::start();
    let blobs: Vec<(String, Vec<u8>)> = (0..3)
        .map(|seed| {
            let bytes = random(seed, 400_000);
            (origin.push_blob("library/app", bytes.clone()), bytes)
        })
        .collect();
    let gateway = Gateway::mirror("docker.io", &origin.url(), "store: {max_size: 1MiB}\n");
    let fetch = |n: usize| {
        let reply = get(
            gateway.url(1),
            None,
            &format!("/v2/app/blobs/{}", blobs[n].0),
        );
        assert!(reply.body == blobs[n].1, "{n}");
        let on_disk = disk_usage(&gateway.store().join("blobs"));
        assert!(on_disk <= 1 << 20, "{on_disk} bytes");
        cache_status(&reply).contains("hit")
    };
    // Two fit. The third replaces the one that was not used since.
    let hits = [0, 1, 0, 2, 0, 1].map(fetch);
    assert_eq!(hits, [false, false, true, false, true, false]);
}

#[test]
fn below_min_free_nothing_is_stored() {
    let (origin, image, gateway) = scene("store: {min_free: 99.99%}\n");
    for _ in 0..2 {
        assert!(get(gateway.url(1), None, &image.layer_path(0)).body == image.layer(0).1);
        assert!(get(gateway.url(1), None, &image.digest_path()).body == image.manifest);
    }
    assert!(origin.count("GET", &image.layer_path(0)) >= 2);
    assert_eq!(disk_usage(&gateway.store().join("blobs")), 0);
}

/// Bytes of all files below a folder.
fn disk_usage(folder: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => disk_usage(&entry.path()),
            Ok(meta) => meta.len().next_multiple_of(4096),
            Err(_) => 0,
        })
        .sum()
}
