//! `/api/v1/verify` and `roadstead verify`.

use super::*;

fn blob_file(gateway: &Gateway, digest: &str) -> std::path::PathBuf {
    let (algorithm, hex) = digest.split_once(':').expect("a digest");
    gateway
        .store()
        .join("blobs")
        .join(algorithm)
        .join(&hex[..2])
        .join(hex)
}

#[test]
fn flipped_byte_is_quarantined_and_refetched() {
    let (origin, image, gateway) = scene(300_000, SOCKET);
    pull(&gateway, &image);
    let size = kib(300_000 + image.blobs[0].1.len() + image.manifest.len());
    let good = command(&gateway, &["verify"]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert_eq!(text(&good.stdout), format!("3 files, {size}: 0 damaged\n"));
    // Without a terminal it prints lines; the last one reports completion.
    let told = text(&good.stderr);
    let last = told.lines().last().expect("a line");
    assert!(
        last.starts_with("100 %  ") && last.ends_with("3 of 3 files, 0 damaged"),
        "{told}"
    );
    assert!(!told.contains('\r'), "{told}");

    let digest = &image.layer(0).0;
    let path = blob_file(&gateway, digest);
    let mut bytes = std::fs::read(&path).expect("a blob");
    bytes[150_000] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    let bad = command(&gateway, &["verify"]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let told = text(&bad.stdout);
    assert_eq!(
        told,
        format!("damaged, quarantined: {digest}\n3 files, {size}: 1 damaged\n")
    );
    assert!(!path.exists());
    let metrics = Metrics::of(&gateway);
    metrics.assert(&[
        ("roadstead_verify_failures_total{source=\"disk\"}", 1),
        ("roadstead_store_objects", 2),
    ]);

    origin.clear_requests();
    let anew = fetch(&gateway, &image.layer_path(0));
    assert!(anew.body == image.layer(0).1, "{anew:?}");
    assert_eq!(origin.count("GET", "*/blobs/*"), 1);
    assert_eq!(command(&gateway, &["verify"]).status.code(), Some(0));
}

/// A small body is in memory too, but never with the damage on disk.
#[test]
fn verify_clears_damaged_blobs_from_memory() {
    let (_origin, image, mut gateway) = scene(1000, SOCKET);
    pull(&gateway, &image);
    let path = blob_file(&gateway, &image.layer(0).0);
    let mut bytes = std::fs::read(&path).expect("a blob");
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).expect("writable");
    gateway.restart();
    // Bodies are hashed on their way into memory, so the damaged one was fetched again before it was served.
    assert!(fetch(&gateway, &image.layer_path(0)).body == image.layer(0).1);
    assert_eq!(command(&gateway, &["verify"]).status.code(), Some(0));
}

#[test]
fn progress_is_lines_of_json() {
    let (_origin, image, gateway) = scene(1000, ANYWHERE);
    pull(&gateway, &image);
    let reply = act(&gateway, "/api/v1/verify", "{}");
    assert_eq!(
        (reply.status(), reply.header("content-type")),
        (200, Some("application/x-ndjson"))
    );
    let lines: Vec<serde_json::Value> = reply
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let last = lines.last().expect("a line");
    assert_eq!(last["done"]["damaged"], serde_json::json!([]));
    assert_eq!(
        (last["blobs"].as_u64(), last["blobs_total"].as_u64()),
        (Some(3), Some(3))
    );
    assert_eq!(last["bytes"], last["bytes_total"]);
    assert!(
        lines[..lines.len() - 1]
            .iter()
            .all(|line| line["done"].is_null())
    );
}
