//! A body that ends in order is right, and nothing outlives its last reader: side requests beside a fill, upstream
//! bodies that only the end of their connection ends, fills that give way to others, files that were deleted.

mod support;

#[path = "bodies/beside.rs"]
mod beside;
#[path = "bodies/close_delimited.rs"]
mod close_delimited;
#[path = "bodies/http10.rs"]
mod http10;
#[path = "bodies/open_files.rs"]
mod open_files;
#[path = "bodies/storm.rs"]
mod storm;

use support::gateway::Gateway;
use support::image::random;
use support::origin::{Image, Origin};

/// What is held back of a body until it is verified.
const TAIL: usize = 64 << 10;

/// An image with one layer of this size, behind a mirror.
fn scene(size: usize) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, size)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    (origin, image, gateway)
}
