//! Many cold blobs for many clients at once, and few slots.

use testkit::gateway::Gateway;
use testkit::http::{at_once, get};
use testkit::image::random;
use testkit::origin::{Fault, Origin};

const BLOBS: usize = 64;
const CLIENTS: usize = 4;
const ROUNDS: usize = 4;

/// A client with a response is a reader from then on: its fill is not paused.
#[test]
fn started_responses_survive_overload() {
    let origin = Origin::start();
    let gateway = Gateway::mirror("docker.io", &origin.url(), "limits: {fills: 8}\n");
    for round in 0..ROUNDS {
        let blobs: Vec<(String, Vec<u8>)> = (0..BLOBS + 8)
            .map(|n| random((round * 100 + n) as u64, 200_000))
            .map(|bytes| (origin.push_blob("library/app", bytes.clone()), bytes))
            .collect();
        let path = |n: usize| format!("/v2/library/app/blobs/{}", blobs[n].0);
        // Some blobs are corrupted by the upstream first.
        let wrong = origin.fault(Fault::WrongByteAt(7).on("GET", "*/blobs/*"));
        at_once(8, |n| {
            let reply = get(gateway.url(1), None, &path(BLOBS + n));
            assert!(reply.status() != 200 || !reply.is_complete(), "{reply:?}");
        });
        origin.heal(wrong);
        let replies = at_once(BLOBS * CLIENTS, |n| {
            get(gateway.url(1), None, &path(n % BLOBS))
        });
        for (n, reply) in replies.iter().enumerate() {
            assert_eq!(reply.status(), 200, "{reply:?}");
            assert!(reply.is_complete(), "client {n} was cut off: {reply:?}");
            assert!(reply.body == blobs[n % BLOBS].1, "client {n}");
        }
    }
}
