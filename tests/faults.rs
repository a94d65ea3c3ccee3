//! Every fault of an upstream with every kind of request, over HTTP/1.1 and HTTP/2, with the client's view asserted
//! byte for byte.
//!
//! The table is in `faults/table.rs`: for each fault the outcome of a cold, a warm and a late request for a blob, a tag
//! and a manifest by digest. Sixteen clients at once must see the outcome of one cold request, and cost no more
//! downloads.

mod cell;
mod client;
mod scene;
mod table;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use cell::{Cell, Mode, Subject};

/// Cells that run at once; they mostly wait.
const WORKERS: usize = 24;

/// Runs every cell of the table; a panic names its cell.
#[test]
fn upstream_faults_by_kind_of_request() {
    let mut cells = VecDeque::new();
    for case in table::cases() {
        for subject in [Subject::Blob, Subject::Tag, Subject::Digest] {
            for mode in [Mode::Cold, Mode::Warm, Mode::Sixteen, Mode::Late] {
                let cell = Cell {
                    case: case.clone(),
                    subject,
                    mode,
                };
                // Selects one row or cell.
                let wanted = std::env::var("ROADSTEAD_CELL").unwrap_or_default();
                if !format!("{}, {subject:?}, {mode:?}", case.name).starts_with(&wanted) {
                    continue;
                }
                // Rows that wait for a deadline go first.
                if case.slow {
                    cells.push_front(cell);
                } else {
                    cells.push_back(cell);
                }
            }
        }
    }
    let total = cells.len();
    let cells = Mutex::new(cells);
    let next = || {
        let mut cells = cells.lock().unwrap_or_else(PoisonError::into_inner);
        cells.pop_front()
    };
    let wrong = testkit::http::at_once(WORKERS, |_| {
        let mut wrong = Vec::new();
        while let Some(cell) = next() {
            wrong.extend(cell.run().err());
        }
        wrong
    });
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    assert!(
        wrong.is_empty(),
        "{} of {total} cells:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// A link can also be proven by a registry without HEAD, without a download.
#[test]
fn registry_without_head_gets_a_one_byte_range() {
    use testkit::http::{Raw, get};
    use testkit::origin::Fault;

    let scene::Scene { world, gateway } = scene::Scene::new(scene::Reach::Direct);
    let (origin, image) = (&world.origin, &world.images[0]);
    origin.fault(Fault::status(405).on("HEAD", "*"));
    let mut raw = Raw::connect(gateway.url(1), None);
    let head = raw.head(&image.layer_path(0));
    assert_eq!(
        (head.status(), head.head.length()),
        (200, Some(scene::SIZE as u64))
    );
    assert_eq!(origin.bytes_sent("*/blobs/*"), 1);
    // The bytes are stored; another repository's claim to them is checked, and refused if it has none.
    assert!(get(gateway.url(1), None, &image.layer_path(0)).body == image.layer(0).1);
    let digest = &image.layer(0).0;
    origin.push_blob("library/twin", image.layer(0).1.clone());
    let path = |name: &str| format!("/v2/library/{name}/blobs/{digest}");
    let twin = get(gateway.url(1), None, &path("twin"));
    assert!(twin.is_complete() && twin.body == image.layer(0).1);
    assert_eq!(origin.bytes_sent(&path("twin")), 1);
    assert_eq!(get(gateway.url(1), None, &path("h2")).status(), 404);
}
