//! Segmented fills: a large blob from an upstream that limits each connection is fetched by several, each byte once.

use testkit::gateway::Gateway;
use testkit::http::{Raw, at_once, get};
use testkit::image::random;
use testkit::origin::{Fault, Origin, Rule, RuleId};
use testkit::until;

/// Large enough for further connections, at [`RATE`].
const SIZE: usize = 40 << 20;
/// What one connection delivers, in bytes per second.
const RATE: u64 = 2 << 20;
/// The most bytes in flight where connections were cut.
const IN_FLIGHT: u64 = 1 << 20;

struct Scene {
    origin: Origin,
    slow: RuleId,
    layer: Vec<u8>,
    path: String,
    gateway: Gateway,
}

fn scene(rate: u64, more: &str) -> Scene {
    let origin = Origin::start();
    let slow = origin.fault(Fault::Throttle(rate).on("GET", "*/blobs/*"));
    let layer = random(1, SIZE);
    let digest = origin.push_blob("library/app", layer.clone());
    let gateway = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\"{more}}}]\nadmin: {{address: \"127.0.0.1:0\"}}\n",
        origin.url()
    ));
    Scene {
        path: format!("/v2/library/app/blobs/{digest}"),
        origin,
        slow,
        layer,
        gateway,
    }
}

/// A fault of further connections.
fn on_segments(fault: Fault) -> Rule {
    fault.on("GET", "*/blobs/*").with_header("Range")
}

impl Scene {
    /// Pulls the layer, which must be complete.
    fn pull(&self) {
        let reply = get(self.gateway.url(1), None, &self.path);
        assert!(reply.is_complete(), "{:?}", reply.end);
        assert!(reply.body == self.layer, "other bytes");
    }

    /// The requests for ranges.
    fn segments(&self) -> usize {
        let asked = self.origin.requests_for("GET", &self.path);
        let ranged = asked
            .iter()
            .filter(|request| request.header("range").is_some());
        ranged.count()
    }

    fn committed(&self) {
        until("a committed fill", || {
            self.gateway.log().contains("fill: committed")
        });
    }

    /// Each byte was sent once, apart from those in flight at a cut.
    fn sent_once(&self) {
        let sent = self.origin.bytes_sent(&self.path);
        assert!(sent <= SIZE as u64 + IN_FLIGHT, "{sent} bytes");
    }
}

#[test]
fn limited_connections_share_a_large_blob() {
    let scene = scene(RATE, "");
    scene.pull();
    scene.committed();
    scene.sent_once();
    let asked = scene.origin.requests_for("GET", &scene.path);
    assert_eq!(asked[0].header("range"), None);
    assert!(asked.len() >= 4, "{} requests", asked.len());
    let log = scene.gateway.log();
    let segments = format!("segments={}", asked.len() - 1);
    assert!(log.contains(&segments), "no {segments}");
    let metrics = get(scene.gateway.operators("admin.address"), None, "/metrics").text();
    let counted = format!("roadstead_fill_segments_total {}", asked.len() - 1);
    assert!(metrics.contains(&counted), "no {counted}");
    // Each connection got a share of the whole.
    let least = asked.iter().take(4).map(|request| request.sent).min();
    assert!(least >= Some(SIZE as u64 / 16), "{least:?}");
}

/// A reader that is far ahead gets a connection of its own, whose bytes are stored like all others.
#[test]
fn range_far_ahead_is_fetched_once() {
    const FIRST: usize = 36 << 20;
    const END: usize = 39 << 20;

    let scene = scene(RATE / 2, "");
    let mut whole = Raw::connect(scene.gateway.url(1), None);
    whole.request("GET", &scene.path, &[]);
    whole.read_head().expect("a head");
    let mut part = Raw::connect(scene.gateway.url(1), None);
    let range = format!("bytes={FIRST}-{}", END - 1);
    part.request("GET", &scene.path, &[("Range", &range)]);
    let head = part.read_head().expect("a head");
    assert_eq!(
        (head.status, head.length()),
        (206, Some((END - FIRST) as u64))
    );
    let bytes = part.read_exactly((END - FIRST) as u64);
    assert!(bytes == scene.layer[FIRST..END], "other bytes");
    assert!(
        !scene.gateway.log().contains("fill: committed"),
        "the whole blob came first"
    );
    let asked = scene.origin.requests_for("GET", &scene.path);
    let own = format!("bytes={FIRST}-");
    let is_own = |range: &str| range.starts_with(&own);
    assert!(
        asked
            .iter()
            .any(|request| request.header("range").is_some_and(is_own))
    );
    assert!(
        whole.read_exactly(SIZE as u64) == scene.layer,
        "other bytes"
    );
    scene.committed();
    scene.sent_once();
}

/// Its bytes are compared with the verified blob before the tail is sent.
#[test]
fn wrong_bytes_far_ahead_are_never_complete() {
    const FIRST: usize = 38 << 20;
    const TAIL: usize = 64 << 10;

    let scene = scene(RATE / 2, "");
    let wrong = Fault::WrongByteAt(FIRST as u64 + 50_000);
    let wrong = scene.origin.fault(on_segments(wrong));
    let mut whole = Raw::connect(scene.gateway.url(1), None);
    whole.request("GET", &scene.path, &[]);
    whole.read_head().expect("a head");
    let mut part = Raw::connect(scene.gateway.url(1), None);
    part.request("GET", &scene.path, &[("Range", &format!("bytes={FIRST}-"))]);
    assert_eq!(part.read_head().expect("a head").status, 206);
    let early = part.read_exactly((SIZE - TAIL - FIRST) as u64);
    assert!(early != scene.layer[FIRST..SIZE - TAIL], "no wrong byte");
    scene.origin.heal(wrong);
    scene.origin.heal(scene.slow);
    // It may have read on into the wrong bytes.
    let (bytes, _) = whole.read_to_end();
    assert!(bytes.len() < SIZE || bytes == scene.layer, "wrong bytes");
    let (rest, _) = part.read_to_end();
    assert_eq!(rest.len(), 0, "the tail followed what was wrong");
}

#[test]
fn fast_upstreams_and_configured_ones_get_one_connection() {
    let fast = scene(RATE, "");
    fast.origin.heal(fast.slow);
    fast.pull();
    assert_eq!(fast.segments(), 0);
    let single = scene(2 * RATE, ", connections_per_fill: 1");
    single.pull();
    assert_eq!(single.segments(), 0);
}

#[test]
fn refused_connection_is_not_asked_for_again() {
    at_once(2, |n| refuses([429, 503][n]));
}

fn refuses(status: u16) {
    let scene = scene(2 * RATE, "");
    let refused = scene.origin.fault(on_segments(Fault::status(status)));
    let layers = [random(2, 1000)];
    scene.origin.push_image("library/app", "latest", &layers);
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.request("GET", &scene.path, &[]);
    scene.origin.wait_for("GET", &scene.path, 2);
    until("the refusal", || {
        scene.gateway.log().contains("no further connection")
    });
    // It concerns no other request.
    let manifest = get(
        scene.gateway.url(1),
        None,
        "/v2/library/app/manifests/latest",
    );
    assert_eq!(manifest.status(), 200);
    scene.origin.heal(refused);
    assert!(raw.reply("GET").body == scene.layer, "other bytes");
    let other = scene.origin.push_blob("library/app", random(3, SIZE));
    let other = format!("/v2/library/app/blobs/{other}");
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.request("GET", &other, &[]);
    raw.read_head().expect("a head");
    // Three seconds: a further connection is asked for after one.
    raw.read_exactly(6 * RATE);
    assert_eq!(scene.origin.count("GET", "*/blobs/*"), 3);
}

#[test]
fn unusable_segments_leave_the_fill_to_one_connection() {
    at_once(3, |n| {
        is_unusable(match n {
            0 => Fault::IgnoreRange,
            1 => Fault::ContentRange("bytes 0-9/10".to_owned()),
            _ => Fault::header("ETag", "\"another version\""),
        });
    });
}

fn is_unusable(fault: Fault) {
    let scene = scene(2 * RATE, "");
    let name = format!("{fault:?}");
    scene.origin.fault(on_segments(fault));
    let reply = get(scene.gateway.url(1), None, &scene.path);
    assert!(reply.body == scene.layer, "{name}: other bytes");
    assert_eq!(scene.segments(), 1, "{name}");
}

#[test]
fn dropped_segments_are_fetched_by_other_connections() {
    let scene = scene(RATE, "");
    let drop = Fault::TruncateAt(3 << 20);
    scene.origin.fault(on_segments(drop).times(3));
    let reset = Fault::ResetAt(0);
    scene.origin.fault(on_segments(reset).after(3).times(1));
    scene.pull();
    scene.sent_once();
    assert!(scene.segments() >= 4, "{}", scene.segments());
}

#[test]
fn wrong_bytes_in_one_segment_are_never_complete() {
    let scene = scene(RATE, "");
    // The first segment begins in the middle of what is left after a second.
    let wrong = Fault::WrongByteAt(24 << 20);
    let wrong = scene.origin.fault(on_segments(wrong).times(1));
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.request("GET", &scene.path, &[]);
    let head = raw.read_head().expect("a head");
    scene.origin.wait_for("GET", &scene.path, 3);
    scene.origin.heal(scene.slow);
    let (body, _) = raw.read_body("GET", &head);
    // Bytes that were sent before are compared with those that replace them.
    assert!(body.len() < SIZE || body == scene.layer, "wrong bytes");
    assert_eq!(scene.origin.applied(wrong), 1);
    scene.committed();
    // It was begun anew, by one connection.
    let last = scene.origin.requests_for("GET", &scene.path).pop();
    let last = last.expect("a request");
    assert_eq!((last.header("range"), last.sent), (None, SIZE as u64));
    scene.pull();
}

#[test]
fn segments_survive_sigkill() {
    let mut scene = scene(RATE, "");
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.request("GET", &scene.path, &[]);
    scene.origin.wait_for("GET", &scene.path, 3);
    let ahead = |scene: &Scene| {
        let asked = scene.origin.requests_for("GET", &scene.path);
        asked
            .iter()
            .skip(1)
            .take(2)
            .all(|segment| segment.sent > 2 << 20)
    };
    until("bytes of two segments", || ahead(&scene));
    scene.gateway.kill();
    let before = scene.origin.requests_for("GET", &scene.path).len();
    scene.gateway.restart();
    scene.committed();
    scene.sent_once();
    let asked = scene.origin.requests_for("GET", &scene.path);
    let resumed = asked[before].header("range").expect("a range");
    assert!(!resumed.ends_with('-'), "{resumed}: up to the next segment");
    scene.pull();
}
