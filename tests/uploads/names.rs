//! Repositories whose names look like parts of a path.

use testkit::gateway::Gateway;
use testkit::http::{Raw, get};
use testkit::image::random;
use testkit::origin::{Fault, Origin};

/// Every `Location` and `Link` points to the requested repository.
#[test]
fn locations_of_path_like_names_are_correct() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true}}]\n\
         access: {{rules: [{{users: [anonymous], repositories: [\"**\"], actions: [pull, push]}}]}}\n",
        origin.url()
    ));
    for name in [
        "v2",
        "v",
        "2",
        "v2/v2",
        "tags/list",
        "list",
        "blobs",
        "blobs/uploads",
        "manifests",
    ] {
        for (tag, seed) in [("a", 1), ("b", 2)] {
            origin.push_image(name, tag, &[random(seed, 100)]);
        }
        let location = format!("/v2/{name}/blobs/uploads/u?_state=x");
        for prefix in ["", "hosted/"] {
            let here = format!("http://localhost/v2/{prefix}{name}");
            let fault =
                origin.fault(Fault::status_with(202, "Location", &location).on("POST", "*"));
            let mut raw = Raw::connect(gateway.url(1), None);
            let path = format!("/v2/{prefix}{name}/blobs/uploads/");
            let begun = raw.exchange("POST", &path, &[("Content-Length", "0")]);
            assert_eq!(
                begun.header("location"),
                Some(&*format!("{here}/blobs/uploads/u?_state=x")),
                "{prefix}{name}"
            );
            origin.heal(fault);
            let list = get(
                gateway.url(1),
                None,
                &format!("/v2/{prefix}{name}/tags/list?n=1"),
            );
            assert_eq!(
                list.header("link"),
                Some(&*format!("<{here}/tags/list?n=1&last=a>; rel=\"next\"")),
                "{prefix}{name}"
            );
        }
    }
}
