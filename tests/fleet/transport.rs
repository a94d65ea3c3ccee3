//! Between the nodes: TLS with a private CA, and bodies of unknown length.

use std::fmt::Write as _;

use testkit::http::End;
use testkit::origin::{Fault, Latch};
use testkit::tls::Ca;

use super::*;

#[test]
fn nodes_read_over_tls_with_a_private_ca() {
    // One that does not trust the certificate of the first fetches for itself.
    for (trust, fetches) in [(Trust::Fleet, 1), (Trust::System, 2)] {
        reads_over_tls(trust, fetches);
    }
}

/// The CAs that the second node trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    Fleet,
    System,
}

fn reads_over_tls(second_trusts: Trust, fetches: usize) {
    let scene = Scene::new(SIZE);
    let ca = Ca::new();
    let node = |trust: Trust| {
        let address = private_address();
        let leaf = ca.issue(&[&address.ip().to_string()]);
        let mut bucket = format!("advertise: \"https://{address}\"");
        if trust == Trust::Fleet {
            let _ = write!(bucket, ", advertise_ca: \"{}\"", ca.path().display());
        }
        let yaml = format!(
            "registries: [{{name: docker.io, v2: \"{}\"}}]\n\
             listen: [{{address: \"{address}\", tls: {{certificates: [{{certificate: \"{}\", key: \"{}\"}}]}}}}]\n\
             admin: {{address: \"unix:admin.sock\", metrics: \"127.0.0.1:0\"}}\n\
             store: {{min_free: 0B, {}}}\n",
            scene.origin.url(),
            leaf.certificate.display(),
            leaf.key.display(),
            scene.s3.yaml_with(&bucket),
        );
        Gateway::start(&yaml)
    };
    let (first, second) = (node(Trust::Fleet), node(second_trusts));
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*").times(1));
    let ask = |gateway: &Gateway| {
        let mut raw = Raw::connect(gateway.url(0), Some(&ca.path()));
        raw.request("GET", &scene.path, &[]);
        let length = raw.read_head().expect("a head").length();
        let body = raw.read_exactly(HALF);
        Begun {
            raw,
            length,
            body,
            scene: &scene,
        }
    };
    let begun = [&first, &second].map(ask);
    assert_eq!(scene.fetches(), fetches, "{second_trusts:?}");
    latch.release();
    begun.into_iter().for_each(Begun::finish);
    assert_eq!(scene.fetches(), fetches, "{second_trusts:?}");
}

#[test]
fn body_of_unknown_length_is_followed() {
    let scene = Scene::new(SIZE);
    let [first, second] = [(); 2].map(|()| scene.node());
    let latch = Latch::new();
    let paused = Fault::PauseAt(HALF, latch.clone());
    scene.origin.fault(paused.on("GET", "*/blobs/*"));
    scene.origin.fault(Fault::Chunked.on("*", "*/blobs/*"));
    std::thread::scope(|scope| {
        let one = scope.spawn(|| first.ask(&scene.path));
        latch.wait_reached(1);
        let other = scope.spawn(|| second.ask(&scene.path));
        until("it reads", || second.counted("peer_received_bytes") > 0);
        latch.release();
        for reply in [one, other] {
            let reply = reply.join().expect("an answer");
            assert_eq!(reply.end, End::Complete);
            scene.is_right(&reply);
        }
    });
    assert_eq!(scene.fetches(), 1);
}
