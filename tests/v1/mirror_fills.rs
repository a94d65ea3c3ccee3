//! Layers of a mirrored registry are filled like blobs: one download, many readers, ranges, resuming, and a tail that
//! is withheld until length and checksum are verified.

use crate::v1::Daemon;
use crate::v1::OLD;
use crate::v1::mirror::{blob, fetch, mirror, part};
use testkit::gateway::Gateway;
use testkit::http::{End, Raw, at_once};
use testkit::image::random;
use testkit::until;
use testkit::v1::{Script, V1Registry};

const TAIL: usize = 64 << 10;

/// A registry with one image of this layer, a gateway in front of it, and the layer's path.
fn scene(layer: &[u8], script: Script) -> (V1Registry, Gateway, String) {
    let registry = V1Registry::with(script);
    let ids = registry.push_image("team/app", "1", &[layer]);
    let gateway = mirror(&registry);
    (registry, gateway, part(&ids[0], "layer"))
}

/// The number of GETs for the layer, and how many of them had a range.
fn gets(registry: &V1Registry, path: &str) -> (usize, usize) {
    let requests = registry.requests_to(path);
    let gets: Vec<_> = requests
        .iter()
        .filter(|seen| seen.line.starts_with("GET "))
        .collect();
    let ranged = gets.iter().filter(|seen| seen.header("range").is_some());
    (gets.len(), ranged.count())
}

/// A body that ends too early is never taken for complete, neither by the gateway nor by the client.
#[test]
fn truncated_layer_is_not_stored() {
    for (size, sent) in [(1000, 500), (300_000, 100_000), (300_000, 299_999)] {
        let layer = random(11, size);
        let script = Script {
            truncate: Some(sent),
            no_ranges: true,
            ..Script::default()
        };
        let (registry, gateway, path) = scene(&layer, script);
        // The description is cut off as well, unless it is shorter.
        let reply = fetch(&gateway, &path);
        assert!(
            !reply.is_complete() || reply.status() >= 500,
            "{size} {sent}: {reply:?}"
        );
        assert!(layer.starts_with(&reply.body) || reply.status() >= 500);
        assert!(!blob(&gateway, &layer).exists());
        assert!(
            !gateway
                .store()
                .join(format!("v1/old/_parts{}", &path[10..]))
                .exists()
        );
        registry.script(|script| script.truncate = None);
        until("the layer is served whole", || {
            let reply = fetch(&gateway, &path);
            reply.status() == 200 && reply.is_complete() && reply.body == layer
        });
        assert!(std::fs::read(blob(&gateway, &layer)).expect("a stored file") == layer);
    }
}

/// A truncated description is not used.
#[test]
fn truncated_image_json_is_not_stored() {
    let (registry, gateway, path) = scene(b"layer", Script::default());
    registry.script(|script| script.truncate = Some(10));
    let json = path.replace("layer", "json");
    let reply = fetch(&gateway, &json);
    assert_eq!(reply.status(), 503, "{reply:?}");
    registry.script(|script| script.truncate = None);
    until("the description is served", || {
        let reply = fetch(&gateway, &json);
        reply.status() == 200 && reply.text().contains("\"id\"")
    });
}

/// Five requests at once are one download, and later ones join it.
#[test]
fn five_clients_share_one_download() {
    let layer = random(12, 500_000);
    let (registry, gateway, path) = scene(&layer, Script::default());
    registry.script(|script| script.hold = Some(1000));
    let replies = std::thread::scope(|scope| {
        let replies = scope.spawn(|| at_once(5, |_| fetch(&gateway, &path)));
        until("it is under way", || gets(&registry, &path).0 == 1);
        registry.script(|script| script.hold = None);
        replies.join().expect("five answers")
    });
    for reply in replies {
        assert_eq!((reply.status(), &reply.end), (200, &End::Complete));
        assert!(reply.body == layer);
    }
    assert_eq!(gets(&registry, &path), (1, 0));
}

/// A download continues when its client leaves.
#[test]
fn fill_continues_after_a_client_disconnects() {
    let layer = random(13, 500_000);
    let (registry, gateway, path) = scene(&layer, Script::default());
    registry.script(|script| script.hold = Some(200_000));
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &path, &[]);
    let head = client.read_head().expect("a head");
    assert_eq!((head.status, head.length()), (200, Some(500_000)));
    client.read_exactly(100_000);
    drop(client);
    registry.script(|script| script.hold = None);
    until("it is stored", || blob(&gateway, &layer).exists());
    assert!(fetch(&gateway, &path).body == layer);
    assert_eq!(gets(&registry, &path), (1, 0));
}

/// A Range on a miss gets a range, and the whole layer is fetched.
#[test]
fn ranges_are_served_on_a_miss() {
    for (range, expected) in [
        ("bytes=0-9", Some(0..10)),
        ("bytes=50-50", Some(50..51)),
        // Docker resumes with a range up to the size, which is one byte too far
        ("bytes=10-200000", Some(10..200_000)),
        ("bytes=100000-", Some(100_000..200_000)),
        ("bytes=-5", Some(199_995..200_000)),
        ("bytes=199999-200000", Some(199_999..200_000)),
        ("bytes=200000-200000", None),
    ] {
        let layer = random(14, 200_000);
        let (registry, gateway, path) = scene(&layer, Script::default());
        for _ in 0..2 {
            let reply =
                Raw::connect(gateway.url(1), None).exchange("GET", &path, &[("Range", range)]);
            assert_eq!(reply.end, End::Complete, "{range} {reply:?}");
            if let Some(span) = &expected {
                assert_eq!(reply.status(), 206, "{range}");
                assert!(reply.body == layer[span.clone()], "{range}");
                let content_range = format!("bytes {}-{}/200000", span.start, span.end - 1);
                assert_eq!(reply.header("content-range"), Some(&*content_range));
            } else {
                assert_eq!((reply.status(), reply.head.length()), (416, Some(0)));
            }
        }
        assert!(fetch(&gateway, &path).body == layer);
        assert_eq!(gets(&registry, &path), (1, 0), "{range}");
    }
}

/// The last 64 KiB are sent when everything is verified.
#[test]
fn tail_is_withheld_until_verified() {
    for is_right in [true, false] {
        let layer = random(15, 300_000);
        let (registry, gateway, path) = scene(&layer, Script::default());
        registry.script(|script| {
            script.hold = Some(layer.len() - 1);
            script.checksum = Some(str::to_owned);
            script.sends_wrong_bytes = !is_right;
        });
        let mut client = Raw::connect(gateway.url(1), None);
        client.request("GET", &path, &[]);
        client.read_head().expect("a head");
        let mut body = client.read_exactly((layer.len() - TAIL) as u64);
        assert!(!blob(&gateway, &layer).exists());
        registry.script(|script| script.hold = None);
        if is_right {
            body.extend(client.read_exactly(TAIL as u64));
            assert!(body == layer);
        } else {
            assert!(client.read_to_end().0.is_empty());
        }
    }
}

/// An interrupted download is resumed by Range, from the offset that docker-registry serves correctly; without ranges,
/// the repeated bytes are compared.
#[test]
fn interrupted_download_is_resumed() {
    for (no_ranges, sent) in [(false, 200_000), (false, 399_999), (true, 200_000)] {
        let layer = random(16, 400_000);
        let script = Script {
            no_ranges,
            ..Script::default()
        };
        let (registry, gateway, path) = scene(&layer, script);
        fetch(&gateway, &path.replace("layer", "json"));
        registry.script(|script| script.truncate = Some(sent));
        let mut client = Raw::connect(gateway.url(1), None);
        client.request("GET", &path, &[]);
        client.read_head().expect("a head");
        let got = client.read_exactly((sent.min(layer.len() - TAIL)) as u64);
        registry.script(|script| script.truncate = None);
        let rest = client.read_exactly((layer.len() - got.len()) as u64);
        assert!([got, rest].concat() == layer, "{no_ranges} {sent}");
        let requests = registry.requests_to(&path);
        assert!(requests.len() >= 2, "{requests:?}");
        let last = requests.last().expect("a request").header("range");
        let from = sent.min(layer.len() - 2);
        assert_eq!(last, Some(&*format!("bytes={from}-399999")), "{requests:?}");
    }
}

/// The registry's checksum of the payload is compared with the received bytes, in all its notations.
#[test]
fn payload_checksums_are_verified() {
    let ways: [fn(&str) -> String; 3] = [
        str::to_owned,
        |sum| format!("[u'tarsum+sha256:{}', u'{sum}']", "0".repeat(64)),
        |sum| format!("[\"{sum}\"]"),
    ];
    for way in ways {
        for size in [1000, 300_000] {
            let layer = random(17, size);
            let script = Script {
                checksum: Some(way),
                sends_wrong_bytes: true,
                ..Script::default()
            };
            let (registry, gateway, path) = scene(&layer, script);
            let reply = fetch(&gateway, &path);
            assert!(!reply.is_complete() || reply.status() == 502, "{reply:?}");
            assert!(reply.status() == 502 || reply.body.len() <= size.saturating_sub(TAIL));
            let mut wrong = layer.clone();
            *wrong.last_mut().expect("bytes") ^= 1;
            assert!(!blob(&gateway, &wrong).exists());
            registry.script(|script| script.sends_wrong_bytes = false);
            assert!(fetch(&gateway, &path).body == layer);
            assert!(blob(&gateway, &layer).exists());
        }
    }
    // A registry without a checksum is trusted if the length is right.
    let layer = random(18, 1000);
    let (_registry, gateway, path) = scene(&layer, Script::default());
    assert!(fetch(&gateway, &path).body == layer);
}

/// Without a length, `X-Docker-Size` is the length; without that, the last chunk is the end.
#[test]
fn layer_length_from_the_image_json() {
    for no_sizes in [false, true] {
        let layer = random(19, 200_000);
        let script = Script {
            chunked: true,
            no_sizes,
            ..Script::default()
        };
        let (registry, gateway, path) = scene(&layer, script);
        let reply = fetch(&gateway, &path);
        assert_eq!(reply.end, End::Complete, "{reply:?}");
        assert!(reply.body == layer);
        let announced = (!no_sizes).then_some(200_000);
        assert_eq!(reply.head.length(), announced, "{reply:?}");
        let again = fetch(&gateway, &path);
        assert_eq!(again.head.length(), Some(200_000));
        assert_eq!(gets(&registry, &path), (1, 0));
    }
}

/// A download interrupted by a restart is resumed.
#[test]
fn restart_resumes_a_partial() {
    let layer = random(20, 4 << 20);
    let (registry, mut gateway, path) = scene(&layer, Script::default());
    registry.script(|script| script.hold = Some(3 << 20));
    let mut client = Raw::connect(gateway.url(1), None);
    client.request("GET", &path, &[]);
    client.read_head().expect("a head");
    client.read_exactly(2 << 20);
    gateway.kill();
    registry.script(|script| script.hold = None);
    registry.clear_requests();
    gateway.restart();
    assert!(fetch(&gateway, &path).body == layer);
    let requests = registry.requests_to(&path);
    let ranges: Vec<_> = requests.iter().map(|seen| seen.header("range")).collect();
    let [Some(range)] = ranges.as_slice() else {
        panic!("one request that goes on: {ranges:?}");
    };
    assert!(range.ends_with("-4194303"), "{range}");
}

/// With no room in the store the bytes pass through, and are verified all the same.
#[test]
fn layers_without_room_pass_through() {
    let layer = random(21, 600_000);
    let registry = V1Registry::with(Script {
        checksum: Some(str::to_owned),
        ..Script::default()
    });
    let ids = registry.push_image("team/app", "1", &[&layer]);
    let gateway = Gateway::start(&format!(
        "store: {{max_size: 300KiB}}\nregistries: [{{name: old, v1: \"{}\"}}]",
        registry.url()
    ));
    let path = part(&ids[0], "layer");
    for _ in 0..2 {
        assert!(fetch(&gateway, &path).body == layer);
    }
    let ranged = [("Range", "bytes=1000-1999")];
    let reply = Raw::connect(gateway.url(1), None).exchange("GET", &path, &ranged);
    assert!(reply.status() == 206 && reply.body == layer[1000..2000]);
    registry.script(|script| script.sends_wrong_bytes = true);
    let reply = fetch(&gateway, &path);
    assert!(!reply.is_complete(), "{reply:?}");
    assert!(reply.body.len() <= layer.len() - TAIL);
}

/// Large layers stream: memory does not grow with their size.
#[test]
fn large_layer_is_streamed() {
    let layer = random(22, 48 << 20);
    let (_registry, gateway, path) = scene(&layer, Script::default());
    gateway.reset_peak();
    let ids = path.split('/').nth(3).expect("an id").to_owned();
    let pulled = Daemon::new(OLD[4], &gateway, None).pull("team/app", "1");
    assert!(pulled == Ok(vec![layer]), "{ids}");
    let peak = gateway.peak_rss_kib();
    assert!(peak < 200 << 10, "{peak} KiB");
}
