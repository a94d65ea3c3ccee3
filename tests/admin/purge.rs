//! Purges: what they remove, what they leave, and what they report.

use super::*;
use testkit::origin::Fault;

/// The output of `roadstead purge`.
#[track_caller]
pub fn purge(gateway: &Gateway, arguments: &[&str]) -> String {
    let output = command(gateway, &[&["purge"], arguments].concat());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(
        (output.status.code(), &*err),
        (Some(0), ""),
        "{arguments:?}: {out}"
    );
    out
}

/// The last line: `removed 1 tag, …`.
pub fn sum(said: &str) -> &str {
    said.lines()
        .find(|line| line.contains("remove"))
        .unwrap_or(said)
}

fn all(image: &Image) -> [String; 4] {
    [
        image.tag_path(),
        image.digest_path(),
        image.blob_path(0),
        image.layer_path(0),
    ]
}

#[test]
fn purged_image_takes_its_unshared_blobs() {
    let (origin, image, gateway) = scene(100_000, SOCKET);
    let (config, manifest) = (image.blobs[0].1.len(), image.manifest.len());
    let bytes = 100_000 + config + manifest;
    for target in [
        "app",
        "app:latest",
        "docker.io/library/app",
        &format!("app@{}", image.digest),
    ] {
        pull(&gateway, &image);
        let dry = purge(&gateway, &[target, "--dry-run"]);
        assert_eq!(
            sum(&dry),
            format!(
                "would remove 1 tag, 1 manifest, 2 blobs: 3 files, {}",
                kib(bytes)
            ),
            "{target}: {dry}"
        );
        for name in [
            ":latest".to_owned(),
            format!("@{}", image.digest),
            format!("@{}", image.layer(0).0),
        ] {
            assert!(
                dry.contains(&format!("docker.io/library/app{name}\n")),
                "{name} in {dry}"
            );
        }
        for path in all(&image) {
            assert!(
                fate(&gateway, &path).starts_with("hit"),
                "{target}: a dry run removes nothing"
            );
        }
        let done = purge(&gateway, &[target]);
        assert_eq!(done.replace("removed", "would remove"), dry, "{target}");
        assert_eq!(purge(&gateway, &[target]), "nothing matches\n", "{target}");
        assert_eq!(files(&gateway.store().join("blobs")), 0, "{target}");
        assert_eq!(files(&gateway.store().join("repositories")), 0, "{target}");
        Metrics::of(&gateway)
            .assert(&[("roadstead_store_objects", 0), ("roadstead_store_bytes", 0)]);
        origin.clear_requests();
        for path in [image.tag_path(), image.blob_path(0), image.layer_path(0)] {
            assert_eq!(
                fate(&gateway, &path),
                "fwd=uri-miss; stored",
                "{target} {path}"
            );
        }
        assert_eq!(
            (
                origin.count("GET", "*/manifests/*"),
                origin.count("GET", "*/blobs/*")
            ),
            (1, 2)
        );
    }
}

/// Regular files below a folder.
pub fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let counted = entries.map(|entry| {
        if entry.path().is_dir() {
            files(&entry.path())
        } else {
            1
        }
    });
    counted.sum()
}

#[test]
fn purge_keeps_shared_blobs() {
    let (origin, image, gateway) = scene(100_000, SOCKET);
    // The same layer under another tag, in another repository, and below an index.
    let layer = image.layer(0).1.to_vec();
    let second = origin.push_image("library/app", "second", &[layer.clone(), random(2, 5000)]);
    let elsewhere = origin.push_image("library/other", "1", std::slice::from_ref(&layer));
    let index = origin.push_index("library/app", "index", &[&second]);
    for path in [
        second.tag_path(),
        second.layer_path(1),
        elsewhere.tag_path(),
        index.tag_path(),
    ] {
        fate(&gateway, &path);
    }
    pull(&gateway, &image);
    fate(&gateway, &elsewhere.layer_path(0));

    // Only this tag leads to its manifest and configuration; the layer belongs to the second tag too.
    let said = purge(&gateway, &["app:latest"]);
    assert!(
        sum(&said).starts_with("removed 1 tag, 1 manifest, 1 blob: 2 files"),
        "{said}"
    );
    assert_eq!(fate(&gateway, &image.layer_path(0)), "hit");
    // The image below the index stays, since its own tag references it.
    let said = purge(&gateway, &["app:index"]);
    assert!(
        sum(&said).starts_with("removed 1 tag, 1 manifest, 0 blobs: 1 file"),
        "{said}"
    );
    assert!(fate(&gateway, &second.tag_path()).starts_with("hit"));
    // The whole repository: the other repository still has the layer, so only the link is removed.
    let said = purge(&gateway, &["library/app"]);
    assert!(
        said.ends_with("\n1 file stays: other repositories link to it\n"),
        "{said}"
    );
    assert_eq!(fate(&gateway, &elsewhere.layer_path(0)), "hit");
    assert_eq!(
        fate(&gateway, &image.layer_path(0)),
        "fwd=uri-miss; detail=claimed"
    );

    // A digest is removed from all repositories.
    let said = purge(&gateway, &[&image.layer(0).0]);
    assert!(
        sum(&said).starts_with("removed 0 tags, 0 manifests, 2 blobs: 1 file"),
        "{said}"
    );
    for path in [elsewhere.layer_path(0), image.layer_path(0)] {
        assert!(fate(&gateway, &path).starts_with("fwd=uri-miss"), "{path}");
    }
    assert!(fate(&gateway, &elsewhere.tag_path()).starts_with("hit"));
}

#[test]
fn purge_of_a_registry_keeps_others() {
    let (hub, own) = (Origin::start(), Origin::start());
    let image = hub.push_image("library/app", "1", &[random(1, 1000)]);
    let other = own.push_image("team/app", "1", &[random(2, 1000)]);
    let gateway = Gateway::start(&format!(
        "registries:\n- {{name: docker.io, v2: \"{}\", default: true}}\n\
         - {{name: \"registry.local:5000\", v2: \"{}\", owns: [\"team/**\"]}}\n{SOCKET}",
        hub.url(),
        own.url()
    ));
    pull(&gateway, &image);
    pull(&gateway, &other);
    let said = purge(&gateway, &["registry.local:5000"]);
    assert!(
        sum(&said).starts_with("removed 1 tag, 1 manifest, 2 blobs: 3 files"),
        "{said}"
    );
    assert!(said.contains("registry.local:5000/team/app:1\n"), "{said}");
    for path in [other.tag_path(), other.blob_path(0), other.layer_path(0)] {
        assert_eq!(fate(&gateway, &path), "fwd=uri-miss; stored", "{path}");
    }
    for path in all(&image) {
        assert!(fate(&gateway, &path).starts_with("hit"), "{path}");
    }
    // A name belongs to the registry that owns it, as in a pull.
    let said = purge(&gateway, &["team/app:1", "--dry-run"]);
    assert!(said.contains("registry.local:5000/team/app:1\n"), "{said}");
}

/// A purge removes cached 404s and lists too.
#[test]
fn purge_clears_memory() {
    let (origin, image, gateway) = scene(1000, &format!("{SOCKET}store: {{missing_ttl: 1h}}\n"));
    let rule = origin.fault(Fault::status(404).on("*", "*/manifests/*"));
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 404);
    fate(&gateway, "/v2/library/app/tags/list");
    origin.heal(rule);
    assert_eq!(fetch(&gateway, &image.tag_path()).status(), 404);
    purge(&gateway, &["app"]);
    assert_eq!(fate(&gateway, &image.tag_path()), "fwd=uri-miss; stored");
    assert!(fate(&gateway, "/v2/library/app/tags/list").starts_with("fwd=uri-miss"));
}
