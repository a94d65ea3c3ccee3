//! Tests of pins.

use super::*;

#[test]
fn purged_images_lose_their_pins() {
    let name = |repository: &str| {
        let repository = repository.parse().expect("a name");
        RepositoryName::new(&Registry::new("docker.io"), &repository)
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    let digest: oci::digest::Digest = digest.parse().expect("a digest");
    let tag = |tag: &str| tag.parse::<oci::name::Tag>().expect("a tag");
    let by_tag = ImageReference {
        name: name("app"),
        reference: Reference::Tag(tag("1")),
    };
    let by_digest = ImageReference {
        name: name("app"),
        reference: Reference::Digest(digest),
    };
    assert_eq!(by_tag.to_string(), "docker.io/app:1");
    assert_eq!(by_digest.to_string(), format!("docker.io/app@{digest}"));
    for (target, of_tag, of_digest) in [
        (
            PurgeTarget::Registry(Registry::new("docker.io")),
            true,
            true,
        ),
        (
            PurgeTarget::Registry(Registry::new("ghcr.io")),
            false,
            false,
        ),
        (PurgeTarget::Repository(name("app")), true, true),
        (PurgeTarget::Repository(name("other")), false, false),
        (PurgeTarget::Tag(name("app"), tag("1")), true, false),
        (PurgeTarget::Tag(name("app"), tag("2")), false, false),
        (PurgeTarget::Content(name("app"), digest), false, true),
        (PurgeTarget::Everywhere(digest), false, true),
    ] {
        assert_eq!(is_purged(&by_tag, &target), of_tag, "{target:?}");
        assert_eq!(is_purged(&by_digest, &target), of_digest, "{target:?}");
    }
    let pinned = PinnedImage {
        image: by_digest,
        pinned_at: "2026-11-20T08:00:00Z".to_owned(),
        note: "größer".to_owned(),
    };
    assert_eq!(PinnedImage::of(PinRecord::of(&pinned)), Some(pinned));
}
