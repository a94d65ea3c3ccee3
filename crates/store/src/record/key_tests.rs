use super::*;
use oci::digest::Algorithm;
use proptest::prelude::*;

static LISTS: ExtensionKind = ExtensionKind::new("extra", "_images-");
static PARTS: ExtensionKind = ExtensionKind::new("extra", "_parts/");
static NOTES: ExtensionKind = ExtensionKind::new(REPOSITORIES, "_image-");
static TOPS: ExtensionKind = ExtensionKind::new("conversions", "tops/");
static KINDS: [&ExtensionKind; 4] = [&LISTS, &PARTS, &NOTES, &TOPS];

fn registry() -> Registry {
    Registry::new("hosted:5000")
}

fn app() -> RepositoryName {
    RepositoryName::new(&registry(), &"team/app".parse().expect("a name"))
}

fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, b"x")
}

/// A store written by an older program must keep working: these paths must not change.
#[test]
fn paths_are_those_of_layout_version_1() {
    let (registry, app, hex) = (registry(), app(), digest().hex());
    let tag: Tag = "1.0".parse().expect("a tag");
    let tags = |class| TagKey::new(&app, class, &tag).into();
    let cases: Vec<(RecordKey, String)> = vec![
        (
            ManifestKey::new(&app, &digest()).into(),
            format!("repositories/hosted%3A5000/team/app/_manifests/sha256-{hex}"),
        ),
        (
            BlobKey::new(&app, &digest()).into(),
            format!("repositories/hosted%3A5000/team/app/_blobs/sha256-{hex}"),
        ),
        (
            PublicKey::new(&app).into(),
            "repositories/hosted%3A5000/team/app/_public".into(),
        ),
        (
            tags(AcceptClass::Full),
            "repositories/hosted%3A5000/team/app/_tags/full/1.0".into(),
        ),
        (
            tags(AcceptClass::NoList),
            "repositories/hosted%3A5000/team/app/_tags/no-list/1.0".into(),
        ),
        (
            tags(AcceptClass::Schema1),
            "repositories/hosted%3A5000/team/app/_tags/schema1/1.0".into(),
        ),
        (
            LISTS.key(&app, "0").into(),
            "extra/hosted%3A5000/team/app/_images-0".into(),
        ),
        (
            PARTS.key(&registry, "abc/json").into(),
            "extra/hosted%3A5000/_parts/abc/json".into(),
        ),
        (
            NOTES.key(&app, "abc").into(),
            "repositories/hosted%3A5000/team/app/_image-abc".into(),
        ),
        (
            NOTES.key(&registry, "abc").into(),
            "repositories/hosted%3A5000/_image-abc".into(),
        ),
        (
            TOPS.key(&registry, "abc").into(),
            "conversions/hosted%3A5000/tops/abc".into(),
        ),
    ];
    for (key, path) in cases {
        assert_eq!(key.path(), path);
        assert_eq!(
            RecordKey::parse(&path, &KINDS).as_ref(),
            Some(&key),
            "{path}"
        );
        assert_eq!(key.registry(), &registry);
        let shared = key.shared_path();
        let expected = match key {
            RecordKey::Extension(_) => None,
            _ => path.strip_prefix("repositories/").map(str::to_owned),
        };
        assert_eq!(shared, expected, "{path}");
    }
}

#[test]
fn other_paths_are_no_keys() {
    for path in [
        "",
        "repositories",
        "repositories/hub",
        "repositories/hub/team/app",
        "repositories/hub/_public",
        "repositories/hub/team/app/_public/x",
        "repositories/hub/team/app/_manifests/sha256-0",
        "repositories/hub/team/app/_tags/full/-bad",
        "repositories/hub/team/app/_tags/other/1.0",
        "repositories/hub/Team/_public",
        // Another spelling of a registry's folder.
        "repositories/%68ub/team/app/_public",
        "repositories/.hub/team/app/_public",
        "extra/hub/team/app/_public",
        "extra/hub/team/app/_other-0",
        "conversions/hub/team/tops/abc",
        "unknown/hub/team/app/_public",
    ] {
        assert_eq!(RecordKey::parse(path, &KINDS), None, "{path}");
    }
}

/// A build without the crate that wrote a namespace still counts its records, and deletes unused ones.
#[test]
fn a_short_prefix_takes_every_record_of_a_namespace() {
    static IMAGES: ExtensionKind = ExtensionKind::new("extra", "_");
    static CONVERSIONS: ExtensionKind = ExtensionKind::new("conversions", "");

    let kinds = [&IMAGES, &CONVERSIONS];
    for path in [
        "extra/hub/team/app/_images-0",
        "extra/hub/team/app/_named/tag/1",
        "extra/hub/_parts/abc/json",
        "conversions/hub/tops/abc",
        "conversions/hub/images/abc.1",
    ] {
        let key = RecordKey::parse(path, &kinds).expect("a key");
        assert_eq!(
            (key.path().as_str(), key.retention()),
            (path, Retention::WhileUsed)
        );
    }
    assert_eq!(RecordKey::parse("other/hub/_x", &kinds), None);
}

#[test]
fn a_reference_is_to_the_stored_bytes() {
    let other = Digest::of(Algorithm::Sha256, b"signed");
    let link = |stored: &str| {
        format!(r#"{{"media_type":"a/b","size":1,"checked_at":0{stored}}}"#).into_bytes()
    };
    let manifest: RecordKey = ManifestKey::new(&app(), &digest()).into();
    for (value, expected) in [
        (None, digest()),
        (Some(b"broken".to_vec()), digest()),
        (Some(link("")), digest()),
        (Some(link(&format!(r#","stored":"{other}""#))), other),
    ] {
        let read = || value.clone();
        let reference = manifest.reference(StoredValue::new(&read));
        assert_eq!(reference, Some(Reference::Claim(expected)));
    }
    let unread = || panic!("its key says it all");
    let blob: RecordKey = BlobKey::new(&app(), &digest()).into();
    let reference = blob.reference(StoredValue::new(&unread));
    assert_eq!(reference, Some(Reference::Claim(digest())));
}

proptest! {
    #[test]
    fn every_path_that_parses_is_that_keys_path(path in "(repositories|extra|conversions)/[a-z%.A0-9]{1,6}(/[a-z_.-]{1,7}){0,4}") {
        if let Some(key) = RecordKey::parse(&path, &KINDS) {
            prop_assert_eq!(key.path(), path);
        }
    }

    #[test]
    fn keys_of_any_registry_come_back(registry in "\\PC{1,12}", tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}") {
        let tag: Tag = tag.parse().expect("a tag");
        let name = RepositoryName::new(&Registry::new(&registry), &app().repository);
        let key: RecordKey = TagKey::new(&name, AcceptClass::Full, &tag).into();
        prop_assert_eq!(RecordKey::parse(&key.path(), &KINDS), Some(key));
    }
}
