//! Side requests during a stalled fill: their bytes are compared with the verified file before the tail is sent.

use crate::bodies::{TAIL, scene};
use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Web, block_on};
use testkit::origin::{Fault, Image, Latch, Origin};

const SIZE: usize = 2 << 20;
/// The offset where the ranges begin, far beyond the fill's progress.
const FIRST: usize = SIZE - (300 << 10);

/// A fill that stalls near its beginning.
fn stalled() -> (Origin, Image, Gateway, Latch) {
    let (origin, image, gateway) = scene(SIZE);
    let latch = Latch::new();
    let stall = Fault::PauseAt(1000, latch.clone());
    origin.fault(stall.on("GET", "*/blobs/*").times(1));
    (origin, image, gateway, latch)
}

/// Requests a part; its headers are read.
fn ask(gateway: &Gateway, image: &Image, range: &str) -> Raw {
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &image.layer_path(0), &[("Range", range)]);
    assert_eq!(raw.read_head().expect("a head").status, 206);
    raw
}

#[test]
fn wrong_byte_in_a_side_request_is_never_served_complete() {
    let (origin, image, gateway, latch) = stalled();
    let wrong = Fault::WrongByteAt(FIRST as u64 + 50_000);
    origin.fault(wrong.on("GET", "*/blobs/*").with_header("Range"));
    let mut raw = ask(&gateway, &image, &format!("bytes={FIRST}-"));
    let h2 = Web::h2(Some(&gateway.ca_path()));
    let url = format!("{}{}", gateway.url(0), image.layer_path(0));
    let request = h2.client().get(&url);
    let request = request.header("Range", format!("bytes={}-", FIRST + 1));
    let mut answer = block_on(async { request.send().await }).expect("an answer");
    // The most bytes that a side request may deliver.
    let early = SIZE - TAIL - FIRST;
    let part = raw.read_exactly(early as u64);
    assert!(
        part != image.layer(0).1[FIRST..SIZE - TAIL],
        "no wrong byte"
    );
    let mut arrived = 0;
    while arrived < early - 1 {
        let piece = block_on(answer.chunk()).expect("no error yet");
        arrived += piece.expect("not the end").len();
    }
    latch.release();
    let (rest, _) = raw.read_to_end();
    assert_eq!(rest.len(), 0, "the tail followed what was wrong");
    assert!(block_on(answer.chunk()).is_err(), "h2: it ended in order");
}

#[test]
fn correct_side_request_suffix_is_complete() {
    let (origin, image, gateway, latch) = stalled();
    let mut raw = ask(&gateway, &image, &format!("bytes={FIRST}-"));
    let early = SIZE - TAIL - FIRST;
    let mut body = raw.read_exactly(early as u64);
    latch.release();
    body.extend(raw.read_exactly(TAIL as u64));
    assert!(body == image.layer(0).1[FIRST..]);
    assert_eq!(origin.count("GET", "*/blobs/*"), 2);
}

/// The first part comes from a side request; the last one reaches the blob's end.
#[test]
fn last_part_waits_for_earlier_parts() {
    for wrong in [true, false] {
        let (origin, image, gateway, latch) = stalled();
        if wrong {
            let wrong = Fault::WrongByteAt(FIRST as u64 + 5);
            origin.fault(wrong.on("GET", "*/blobs/*").with_header("Range"));
        }
        let mut raw = Raw::connect(gateway.url(1), None);
        let range = format!("bytes={FIRST}-{},-20", FIRST + 999);
        raw.request("GET", &image.layer_path(0), &[("Range", &range)]);
        let head = raw.read_head().expect("a head");
        let mut body = raw.read_exactly(1100);
        latch.release();
        let length = head.length().expect("a length");
        while (body.len() as u64) < length {
            match raw.read_some(1000) {
                Ok(bytes) => body.extend(bytes),
                Err(_) => break,
            }
        }
        assert_eq!(body.len() as u64 == length, !wrong);
        let tail = &image.layer(0).1[SIZE - 20..];
        let has_tail = body.windows(20).any(|window| window == tail);
        assert_eq!(has_tail, !wrong);
    }
}

/// The disk breaks after a side request delivered a wrong byte: the pass-through body is compared with it.
#[test]
fn side_request_bytes_are_verified_without_a_disk() {
    for wrong in [true, false] {
        let (origin, image, gateway, latch) = stalled();
        if wrong {
            let wrong = Fault::WrongByteAt(FIRST as u64 + 50_000);
            origin.fault(wrong.on("GET", "*/blobs/*").with_header("Range"));
        }
        let mut raw = ask(&gateway, &image, &format!("bytes={FIRST}-"));
        let early = SIZE - TAIL - FIRST;
        let mut body = raw.read_exactly(early as u64);
        // A file where the blobs' folder should be.
        let blobs = gateway.store().join("blobs");
        std::fs::remove_dir_all(&blobs).expect("no blobs yet");
        std::fs::write(&blobs, "").expect("a file in their place");
        latch.release();
        if wrong {
            let (rest, _) = raw.read_to_end();
            assert_eq!(rest.len(), 0, "the tail followed what was wrong");
        } else {
            body.extend(raw.read_exactly(TAIL as u64));
            assert!(body == image.layer(0).1[FIRST..]);
        }
    }
}

/// The second download of a blob announces no length. Its receiver was promised one, and the tail still comes from the
/// verified file.
#[test]
fn side_request_never_serves_a_tail_of_unknown_length() {
    let (origin, image, gateway) = scene(SIZE);
    let (first, second) = (Latch::new(), Latch::new());
    let blobs = "*/blobs/*";
    origin.fault(Fault::PauseAt(0, first.clone()).on("GET", blobs).times(1));
    origin.fault(Fault::WrongByteAt(10).on("GET", blobs).times(1));
    origin.fault(Fault::Chunked.on("GET", blobs).after(1).times(1));
    let stall = Fault::PauseAt(1000, second.clone());
    origin.fault(stall.on("GET", blobs).after(1).times(1));
    let wrong = Fault::WrongByteAt(SIZE as u64 - 5);
    origin.fault(wrong.on("GET", blobs).with_header("Range"));
    let mut raw = ask(&gateway, &image, "bytes=-60000");
    let mut far = ask(&gateway, &image, &format!("bytes={FIRST}-{}", FIRST + 9));
    first.release();
    second.wait_reached(1);
    // A side request serves this range, so one was considered for the tail, which was asked for before.
    assert!(far.read_exactly(10) == image.layer(0).1[FIRST..FIRST + 10]);
    second.release();
    assert!(raw.read_exactly(60_000) == image.layer(0).1[SIZE - 60_000..]);
}

/// No byte of the tail may come from a side request, so none is sent.
#[test]
fn tail_range_starts_no_side_request() {
    let (origin, image, gateway, latch) = stalled();
    let mut tail = ask(&gateway, &image, "bytes=-10");
    // This range is served by a side request, so both fills were considered.
    let mut far = ask(&gateway, &image, &format!("bytes={FIRST}-{}", FIRST + 9));
    assert!(far.read_exactly(10) == image.layer(0).1[FIRST..FIRST + 10]);
    let asked = origin.requests_for("GET", "*/blobs/*");
    assert_eq!(asked.len(), 2, "the fill and one beside it");
    latch.release();
    assert!(tail.read_exactly(10) == image.layer(0).1[SIZE - 10..]);
}

/// A part inside the tail does not reach the end.
#[test]
fn inner_tail_range_uses_a_side_request() {
    let (_origin, image, gateway, latch) = stalled();
    let first = SIZE - 1000;
    let mut raw = ask(&gateway, &image, &format!("bytes={first}-{}", first + 99));
    assert!(raw.read_exactly(100) == image.layer(0).1[first..first + 100]);
    latch.release();
}

/// Fruitless side requests are not repeated endlessly.
#[test]
fn failing_side_requests_end() {
    let (origin, image, gateway, latch) = stalled();
    let cut = Fault::TruncateAt(0).on("GET", "*/blobs/*");
    origin.fault(cut.with_header("Range"));
    let mut raw = ask(&gateway, &image, &format!("bytes={FIRST}-{}", FIRST + 9));
    // The fill's request and four others.
    origin.wait_for("GET", "*/blobs/*", 5);
    // They follow each other without a pause, so a sixth would be sent before this request is answered.
    let mut tail = ask(&gateway, &image, "bytes=-10");
    latch.release();
    assert_eq!(raw.read_exactly(10), image.layer(0).1[FIRST..FIRST + 10]);
    assert_eq!(tail.read_exactly(10), image.layer(0).1[SIZE - 10..]);
    assert_eq!(origin.count("GET", "*/blobs/*"), 5);
    assert_eq!(raw.get("/v2/").end, End::Complete);
}
