//! Memory stays flat with any readers: 16 cold and 100 slow warm readers of 200 MB blobs.

use testkit::gateway::Gateway;
use testkit::http::{Raw, at_once};
use testkit::image::random;
use testkit::origin::Origin;

const SIZE: usize = 200_000_000;
const COLD: usize = 16;
const SLOW: usize = 100;
/// The limit, beside the program's own code. The optimised binary is smaller than the other 24 MiB of 64.
const LIMIT_KIB: u64 = 40 << 10;

#[test]
fn many_readers_of_large_blobs_stay_under_64_mib() {
    let _alone = crate::heavy_test();
    let origin = Origin::start();
    let warm = origin.push_blob("library/app", random(1, SIZE));
    let cold = origin.push_blob("library/app", random(2, SIZE));
    // On a busy machine the slow readers outlast the timeout of writes.
    // On a busy machine the fill may seem slow enough for further connections.
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", connections_per_fill: 1}}]\nlimits: {{idle_timeout: 15m}}\n",
        origin.url()
    ));
    let ca = gateway.ca_path();
    let path = |digest: &str| format!("/v2/library/app/blobs/{digest}");
    drain(&gateway, &path(&warm));
    gateway.reset_peak();

    // The slow readers take one piece each and then stay until the cold ones have finished.
    let slow: Vec<Raw> = (0..SLOW)
        .map(|_| {
            let how = testkit::http::Connect {
                ca: Some(&ca),
                receive_buffer: Some(16 << 10),
                ..Default::default()
            };
            let mut raw = Raw::connect_with(gateway.url(0), how).expect("a connection");
            raw.request("GET", &path(&warm), &[]);
            raw.read_head().expect("a head");
            raw.read_exactly(1 << 20);
            raw
        })
        .collect();
    let received = at_once(COLD, |_| drain(&gateway, &path(&cold)));
    assert_eq!(received, [SIZE as u64; COLD]);
    for mut raw in slow {
        raw.read_exactly(1 << 20);
    }
    let peak = gateway.peak_rss_kib() - gateway.file_rss_kib();
    println!(
        "peak {} MiB beside {} MiB of code, with {COLD} cold and {SLOW} slow warm readers",
        peak >> 10,
        gateway.file_rss_kib() >> 10
    );
    assert!(peak < LIMIT_KIB, "{peak} KiB");
    assert_eq!(origin.count("GET", &path(&cold)), 1);
}

/// Reads a whole blob and discards it; returns the number of bytes.
fn drain(gateway: &Gateway, path: &str) -> u64 {
    let mut raw = Raw::connect(gateway.url(0), Some(&gateway.ca_path()));
    raw.request("GET", path, &[]);
    let length = raw.read_head().expect("a head").length().expect("a length");
    let mut received = 0;
    while received < length {
        received += raw.read_some(1 << 20).expect("more").len() as u64;
    }
    received
}
