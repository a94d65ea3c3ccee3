//! A body that ends in order is correct, and no file outlives its last reader: side requests beside a fill, upstream
//! bodies that end with their connection, fills that yield to others, deleted files.

mod close_delimited;
mod http10;
mod open_files;
mod side_requests;
mod storm;

use testkit::gateway::Gateway;
use testkit::image::random;
use testkit::origin::{Image, Origin};

/// The bytes of a body held back until it is verified.
const TAIL: usize = 64 << 10;

/// An image with one layer of this size, behind a mirror.
fn scene(size: usize) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, size)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    (origin, image, gateway)
}
