//! An explanation changes nothing: no use is noted, nothing is counted, nothing is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use super::*;

/// The files of a store that records and blobs are in, with their times and contents.
fn files(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.join("blobs"), folder.join("repositories")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let meta = entry.metadata().expect("a file");
            if meta.is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).expect("a file");
            found.insert(entry.path(), (meta.modified().expect("a time"), bytes));
        }
    }
    found
}

/// The metrics without those of the process itself, which change by themselves.
fn counters(gateway: &Gateway) -> String {
    let text = Metrics::of(gateway).text;
    let lines = text.lines().filter(|line| !line.contains("process_"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn explaining_changes_nothing() {
    let (origin, image, mut gateway) = scene(100_000, ANYWHERE);
    let other = origin.push_image("library/other", "latest", &[random(7, 1000)]);
    pull(&gateway, &image);
    pull(&gateway, &other);
    metrics_after(&gateway, "blob", 4);
    gateway.terminate();
    // The next use of anything would be written.
    let long_ago = SystemTime::now() - Duration::from_secs(7 * 3600);
    for file in files(&gateway.store()).into_keys() {
        let file = std::fs::File::options()
            .write(true)
            .open(file)
            .expect("a file");
        file.set_modified(long_ago).expect("a time");
    }
    gateway.restart();
    // The scan reads the times.
    until("the store to be counted", || {
        read(&gateway, "/api/v1/overview")["store"]["scanning"] == false
    });
    let queue = || members(&read(&gateway, "/api/v1/eviction-queue"), "digest");
    let (before, counted, order) = (files(&gateway.store()), counters(&gateway), queue());
    origin.clear_requests();
    for question in [
        json!({"image": "app"}),
        json!({"image": "app", "client": "docker-1.6"}),
        json!({"image": "app", "client": "docker-1.5"}),
        json!({"image": format!("app@{}", image.digest), "platform": "all"}),
        json!({"image": "app:none"}),
        json!({"image": "none"}),
    ] {
        for _ in 0..3 {
            let told = explain(&gateway, &question);
            assert_eq!(told["asked_upstream"], false);
        }
    }
    assert_eq!(origin.count("*", "*"), 0, "nothing is asked");
    assert_eq!(counters(&gateway), counted, "nothing is counted");
    assert_eq!(queue(), order, "nothing is used");
    assert!(files(&gateway.store()) == before, "nothing is written");
    assert_eq!(read(&gateway, "/api/v1/requests")["items"], json!([]));
    // A pull is noted, so the comparison can fail.
    pull(&gateway, &image);
    until("a pull to be noted", || files(&gateway.store()) != before);

    // With `ask` one HEAD is sent, and nothing of its answer is stored.
    let before = files(&gateway.store());
    let newer = origin.push_image("library/app", "latest", &[random(3, 1000)]);
    origin.clear_requests();
    let told = explain(&gateway, &json!({"image": "app", "ask": true}));
    assert_eq!(
        (
            origin.count("HEAD", &image.tag_path()),
            origin.count("*", "*")
        ),
        (1, 1)
    );
    assert_parts(
        &told,
        &[
            ("/upstream/said/digest", newer.digest.as_str().into()),
            ("/tag/digest", image.digest.as_str().into()),
        ],
    );
    let after = files(&gateway.store());
    let contents = |files: &BTreeMap<PathBuf, (SystemTime, Vec<u8>)>| {
        let contents = files
            .iter()
            .map(|(path, (_, bytes))| (path.clone(), bytes.clone()));
        contents.collect::<BTreeMap<_, _>>()
    };
    assert!(contents(&after) == contents(&before), "nothing is stored");
}
