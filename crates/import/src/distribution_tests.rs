use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::{Finding, Format, Line, Report, SCHEDULER};
use oci::digest::Algorithm;
use oci::manifest::OCI_MANIFEST;
use store::Settings;

/// A folder as distribution writes it.
struct Fixture {
    dir: tempfile::TempDir,
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("data").join(V2).join("repositories"))
            .expect("writable");
        Self { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn write(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.root().join(V2).join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        std::fs::write(&path, bytes).expect("writable");
        path
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = digest(bytes);
        self.write(&data(&digest), bytes);
        digest
    }

    fn link(&self, repository: &str, folder: &str, digest: &Digest) -> PathBuf {
        let path = format!(
            "repositories/{repository}/{folder}/sha256/{}/link",
            digest.hex()
        );
        self.write(&path, digest.to_string().as_bytes())
    }

    fn tag(&self, repository: &str, tag: &str, digest: &Digest) -> PathBuf {
        let path = format!("repositories/{repository}/{TAGS}/{tag}/current/link");
        self.write(&path, digest.to_string().as_bytes())
    }

    /// A repository with a layer, its manifest, and the tag `1`.
    fn image(&self, repository: &str, layer: &[u8]) -> (Digest, Digest) {
        let layer = self.blob(layer);
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"digest":"{layer}"}},"layers":[{{"digest":"{layer}"}}]}}"#
        );
        let manifest = self.blob(manifest.as_bytes());
        self.link(repository, "_layers", &layer);
        self.link(repository, "_manifests/revisions", &manifest);
        self.tag(repository, "1", &manifest);
        (layer, manifest)
    }

    fn store(&self, max_size: u64) -> Store {
        let settings = Settings {
            max_size,
            ..Settings::at(&self.dir.path().join("store"))
        };
        let store = Store::open(&settings, &[]).expect("a store");
        store.scan();
        store
    }
}

type Faults = BTreeMap<String, (Finding, String)>;

fn run(store: &Store, root: &Path, confirmed: Confirmed) -> (Report, Faults) {
    run_below(store, root, confirmed, None)
}

fn run_below(
    store: &Store,
    root: &Path,
    confirmed: Confirmed,
    below: Option<&str>,
) -> (Report, Faults) {
    let below = below.map(|below| below.parse().expect("a name"));
    let options = Options { confirmed, below };
    let mut faults = Faults::new();
    let mut tell = |line: Line<'_>| {
        if let Line::Fault { path, fault } = line {
            faults.insert(path.to_owned(), (fault.finding, fault.why.clone()));
        }
    };
    let mut journal = Journal::new(&mut tell);
    let folder = Folder::open(root).expect("a folder");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let registry = Registry::new("hosted");
    let imported = import(store, &registry, &folder, &options, &mut journal);
    runtime.block_on(imported).expect("imported");
    let report = journal.report;
    (report, faults)
}

fn name(repository: &str) -> RepositoryName {
    let repository: Repository = repository.parse().expect("a name");
    RepositoryName::new(&Registry::new("hosted"), &repository)
}

#[test]
fn a_folder_is_imported_once() {
    let fixture = Fixture::new();
    let (layer, manifest) = fixture.image("team/app", &vec![1; 100_000]);
    // Shares the layer; its name begins with that of another repository.
    fixture.image("team/app/sub", &vec![1; 100_000]);
    let written = fixture.tag("team/app", "old", &manifest);
    let day = SystemTime::now() - Duration::from_secs(24 * 3600);
    let file = std::fs::File::options().write(true).open(written);
    file.and_then(|file| file.set_modified(day))
        .expect("writable");
    let store = fixture.store(u64::MAX);
    let (report, faults) = run(&store, &fixture.root(), Confirmed::AsWritten);
    assert_eq!(faults, Faults::new());
    let size = store.blobs.inspect(&manifest, None).expect("readable");
    let size = size.expect("stored");
    let expected = Tally {
        tags: 3,
        manifests: 2,
        images: 0,
        blobs: 2,
        bytes: 100_000 + size,
        linked_bytes: 100_000,
    };
    assert_eq!(
        (report.imported, report.present),
        (expected, Tally::default())
    );
    assert_eq!((report.done, report.total, report.repositories), (7, 7, 2));

    let known = |tag: &str| {
        let key = TagKey::new(
            &name("team/app"),
            AcceptClass::Full,
            &tag.parse().expect("a tag"),
        );
        store.inspect(&key).expect("readable").expect("a tag").value
    };
    let pointer = known("1");
    assert_eq!(
        (pointer.digest, &*pointer.media_type),
        (manifest, OCI_MANIFEST)
    );
    assert_eq!(known("old").checked_at, unix(day));
    let link = store.inspect(&BlobKey::new(&name("team/app"), &layer));
    assert_eq!(
        link.expect("readable").expect("linked").value.size,
        Some(100_000)
    );

    let (again, faults) = run(&store, &fixture.root(), Confirmed::AsWritten);
    assert_eq!(faults, Faults::new());
    assert_eq!(again.imported, Tally::default());
    let present = Tally {
        bytes: 0,
        linked_bytes: 0,
        ..expected
    };
    assert_eq!(again.present, present);
}

#[test]
fn damage_is_named_and_skipped() {
    let fixture = Fixture::new();
    let (_, manifest) = fixture.image("good", b"good");
    let lost = digest(b"lost");
    fixture.link("bad", "_layers", &lost);
    let flipped = fixture.blob(b"flipped");
    fixture.write(&data(&flipped), b"flopped");
    fixture.link("bad", "_layers", &flipped);
    let other = fixture.blob(b"other");
    let path = fixture.link("bad", "_layers", &other);
    std::fs::write(&path, manifest.to_string()).expect("writable");
    let empty = digest(b"empty");
    let path = fixture.link("bad", "_layers", &empty);
    std::fs::write(&path, "").expect("writable");
    // Deleted in the registry.
    let path = fixture.link("bad", "_layers", &digest(b"deleted"));
    std::fs::remove_file(path).expect("there");
    let schema1 = fixture.blob(br#"{"schemaVersion":1}"#);
    fixture.link("bad", "_manifests/revisions", &schema1);
    fixture.tag("bad", "old", &schema1);
    let text = fixture.blob(b"<html>");
    fixture.link("bad", "_manifests/revisions", &text);
    fixture.tag("bad", "foreign", &manifest);
    fixture.tag("bad", "-no-tag", &manifest);
    let store = fixture.store(u64::MAX);
    let (report, faults) = run(&store, &fixture.root(), Confirmed::Now);
    let layer = |digest: &Digest| format!("repositories/bad/_layers/sha256/{}", digest.hex());
    let revision = |digest: &Digest| {
        format!(
            "repositories/bad/_manifests/revisions/sha256/{}",
            digest.hex()
        )
    };
    let tag = |tag: &str| format!("repositories/bad/_manifests/tags/{tag}");
    let expected = [
        (layer(&lost), Finding::Damaged, "not its blob"),
        (
            layer(&flipped),
            Finding::Damaged,
            "its bytes have the digest",
        ),
        (layer(&other), Finding::Damaged, "its link names"),
        (layer(&empty), Finding::Damaged, "no digest"),
        (revision(&schema1), Finding::Skipped, "schema 1"),
        (tag("old"), Finding::Skipped, "schema 1"),
        (revision(&text), Finding::Damaged, "no manifest"),
        (tag("foreign"), Finding::Damaged, "no manifest of this"),
        (tag("-no-tag"), Finding::Skipped, "a tag is"),
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (path, finding, why) in expected {
        let found = faults.get(&path).unwrap_or_else(|| panic!("{path}"));
        assert!(
            found.0 == finding && found.1.contains(why),
            "{path}: {found:?}"
        );
    }
    assert_eq!((report.damaged, report.skipped), (6, 3));
    let imported = report.imported;
    assert_eq!(
        (imported.tags, imported.manifests, imported.blobs),
        (1, 1, 1)
    );
}

#[test]
fn links_and_hostile_names_lead_nowhere() {
    let fixture = Fixture::new();
    let outside = fixture.dir.path().join("outside");
    let secret = b"secret".to_vec();
    std::fs::create_dir(&outside).expect("writable");
    std::fs::write(outside.join("data"), &secret).expect("writable");
    let stolen = digest(&secret);
    fixture.link("app", "_layers", &stolen);
    // The blob, its folder, a repository and a link file are symbolic links.
    let blob = fixture.root().join(V2).join(data(&stolen));
    let folder = blob.parent().expect("a folder");
    std::fs::create_dir_all(folder.parent().expect("a folder")).expect("writable");
    std::os::unix::fs::symlink(&outside, folder).expect("writable");
    let repositories = fixture.root().join(V2).join("repositories");
    std::os::unix::fs::symlink(&outside, repositories.join("elsewhere")).expect("writable");
    let (layer, _) = fixture.image("linked", b"layer");
    let file = fixture.link("linked", "_layers", &layer);
    std::fs::remove_file(&file).expect("there");
    std::fs::write(outside.join("link"), layer.to_string()).expect("writable");
    std::os::unix::fs::symlink(outside.join("link"), &file).expect("writable");
    for hostile in ["UPPER", "a b", "-x", "\u{1b}[31m"] {
        std::fs::create_dir(repositories.join(hostile)).expect("writable");
    }
    std::fs::write(repositories.join("file"), "").expect("writable");
    let store = fixture.store(u64::MAX);
    let (_, faults) = run(&store, &fixture.root(), Confirmed::Now);
    for (path, why) in [
        (
            format!("repositories/app/_layers/sha256/{}", stolen.hex()),
            "symbolic link",
        ),
        ("repositories/elsewhere".into(), "symbolic link"),
        (
            format!("repositories/linked/_layers/sha256/{}", layer.hex()),
            "symbolic link",
        ),
        ("repositories/UPPER".into(), "no name of a repository"),
        ("repositories/a b".into(), "no name of a repository"),
        ("repositories/-x".into(), "no name of a repository"),
        ("repositories/\u{1b}[31m".into(), "no name of a repository"),
        ("repositories/file".into(), "no repository"),
    ] {
        let found = faults
            .get(&path)
            .unwrap_or_else(|| panic!("{path}: {faults:#?}"));
        assert!(found.1.contains(why), "{path}: {found:?}");
    }
    assert_eq!(store.blobs.inspect(&stolen, None).expect("readable"), None);
}

#[test]
fn repositories_of_a_project_lose_its_name() {
    let fixture = Fixture::new();
    fixture.image("hub/library/app", b"app");
    fixture.image("hubble/app", b"other");
    let store = fixture.store(u64::MAX);
    let (report, _) = run_below(&store, &fixture.root(), Confirmed::AsWritten, Some("hub"));
    assert_eq!((report.repositories, report.done, report.total), (1, 3, 3));
    let tag = "1".parse().expect("a tag");
    let key = TagKey::new(&name("library/app"), AcceptClass::Full, &tag);
    assert!(store.inspect(&key).expect("readable").is_some());
}

#[test]
fn what_does_not_fit_is_left_out() {
    let fixture = Fixture::new();
    let (layer, manifest) = fixture.image("app", &vec![3; 900_000]);
    let store = fixture.store(300_000);
    let (report, faults) = run(&store, &fixture.root(), Confirmed::Now);
    assert_eq!((report.not_stored, faults.len()), (1, 1), "{faults:?}");
    let (_, why) = faults.into_values().next().expect("one");
    assert!(why.contains("store.max_size"), "{why}");
    assert_eq!(store.blobs.inspect(&layer, None).expect("readable"), None);
    assert!(
        store
            .blobs
            .inspect(&manifest, None)
            .expect("readable")
            .is_some()
    );
}

#[test]
fn formats_are_detected() {
    let detect = |folders: &[&str], files: &[&str]| {
        let dir = tempfile::tempdir().expect("a folder");
        for folder in folders {
            std::fs::create_dir_all(dir.path().join(folder)).expect("writable");
        }
        for file in files {
            std::fs::write(dir.path().join(file), "{}").expect("writable");
        }
        Format::detect(&Folder::open(dir.path()).expect("a folder"))
    };
    let id = format!("images/{}", "0".repeat(64));
    for (folders, files, expected) in [
        (vec![V2], vec![], Some(Format::Distribution)),
        (vec![V2], vec![SCHEDULER], Some(Format::Proxy)),
        (
            vec!["blobs", "repositories"],
            vec![],
            Some(Format::Distribution),
        ),
        (vec!["images", "repositories"], vec![], Some(Format::V1)),
        (vec![&*id], vec![], Some(Format::V1)),
        (vec!["images/a"], vec![], None),
        (vec!["repositories"], vec![], None),
        (vec![], vec![], None),
    ] {
        assert_eq!(detect(&folders, &files), expected, "{folders:?} {files:?}");
    }
}
