//! The parts of manifests that a mirror reads: media types, Accept classes, descriptors.
//!
//! The bytes are never changed. They are parsed only for a missing media type, a referrer's subject, and the
//! image of an index for a client that cannot read indexes.

use serde::Deserialize;

use super::client::Generation;
use super::digest::Digest;

/// The longest accepted manifest, in bytes: the limit that every party should support
/// (distribution-spec 1.1, "Pushing Manifests").
pub const MAX_MANIFEST: usize = 4 << 20;

/// The unsigned manifest of Docker 1.6 to 1.9 (image manifest version 2, schema 1).
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// The same with JWS signatures in its body; its digest is that of the payload.
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
/// The manifest of one platform, from Docker 1.10 (image manifest version 2, schema 2).
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index: the manifests of several platforms.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The manifest of one platform or of an artifact (image-spec 1.1, "Image Manifest").
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The manifests of several platforms, and the body of a referrers response (image-spec 1.1, "Image Index").
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Which manifests a client can read. One tag may resolve differently for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AcceptClass {
    /// Everything, or at least a list or index.
    Full,
    /// Images, but neither lists nor indexes. Fetched as [`Self::Full`].
    NoList,
    /// Schema 1 only: Docker 1.6 to 1.9.
    Schema1,
}

/// What a media type of `Accept` covers; the last one counts most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Accepted {
    Other,
    Schema1,
    Image,
    Index,
}

impl Accepted {
    fn by(kind: &str) -> Self {
        let is_any = |kinds: &[&str]| kinds.iter().any(|one| kind.eq_ignore_ascii_case(one));
        if is_any(&[DOCKER_LIST, OCI_INDEX, "*/*", "application/*"]) {
            Self::Index
        } else if is_any(&[DOCKER_MANIFEST, OCI_MANIFEST]) {
            Self::Image
        } else if is_any(&[DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED]) {
            Self::Schema1
        } else {
            Self::Other
        }
    }
}

impl AcceptClass {
    /// The class whose upstream request and pointer this one shares: a client that cannot read an index gets an
    /// image of it.
    #[must_use]
    pub const fn request_class(self) -> Self {
        match self {
            Self::Full | Self::NoList => Self::Full,
            Self::Schema1 => Self::Schema1,
        }
    }

    /// The name of the class on disk.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NoList => "no-list",
            Self::Schema1 => "schema1",
        }
    }

    /// The class of a request: every type of every `Accept` line counts. A client without `Accept` takes
    /// anything, except Docker 1.6 to 1.9 ([`Generation::Schema1`]).
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>, client: Generation) -> Self {
        let types = lines.into_iter().flat_map(|line| line.split(','));
        let types = types.map(|entry| match entry.find(';') {
            Some(parameters) => entry[..parameters].trim(),
            None => entry.trim(),
        });
        let accepted = types.filter(|kind| !kind.is_empty()).map(Accepted::by);
        match accepted.max() {
            Some(Accepted::Image) => Self::NoList,
            Some(Accepted::Schema1) => Self::Schema1,
            None if client == Generation::Schema1 => Self::Schema1,
            // Other types are `application/json` and the like: historic spellings of "any manifest".
            Some(Accepted::Index | Accepted::Other) | None => Self::Full,
        }
    }

    /// The `Accept` header of upstream requests.
    pub const fn upstream_accept(self) -> &'static str {
        match self {
            Self::Full | Self::NoList => concat!(
                "application/vnd.oci.image.index.v1+json, ",
                "application/vnd.oci.image.manifest.v1+json, ",
                "application/vnd.docker.distribution.manifest.list.v2+json, ",
                "application/vnd.docker.distribution.manifest.v2+json, ",
                "application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5, ",
                "*/*;q=0.1"
            ),
            Self::Schema1 => concat!(
                "application/vnd.docker.distribution.manifest.v1+prettyjws, ",
                "application/vnd.docker.distribution.manifest.v1+json"
            ),
        }
    }
}

/// Whether a media type is a list or index: a manifest of manifests.
pub fn is_index(media_type: &str) -> bool {
    [DOCKER_LIST, OCI_INDEX]
        .iter()
        .any(|index| essence(media_type).eq_ignore_ascii_case(index))
}

/// Whether a media type is signed schema 1, which registries generate on request.
pub fn is_signed_schema1(media_type: &str) -> bool {
    essence(media_type).eq_ignore_ascii_case(DOCKER_SCHEMA1_SIGNED)
}

/// A media type without its parameters.
fn essence(media_type: &str) -> &str {
    media_type.split(';').next().unwrap_or_default().trim()
}

/// The image of a list or index for a client that reads neither: the one for linux/amd64, as in the reference
/// implementation.
pub fn default_image(index: &[u8]) -> Option<Digest> {
    let index: DefaultImageIndex = serde_json::from_slice(index).ok()?;
    let mut matching = index.manifests.into_iter().filter(|child| {
        let platform = child.platform.as_ref();
        platform.is_some_and(|platform| platform.os == "linux" && platform.architecture == "amd64")
    });
    matching.next()?.digest.parse().ok()
}

/// The parts of a list or index that the choice of an image needs.
#[derive(Debug, Deserialize)]
struct DefaultImageIndex {
    manifests: Vec<DefaultImageEntry>,
}

#[derive(Debug, Deserialize)]
struct DefaultImageEntry {
    digest: String,
    platform: Option<DefaultImagePlatform>,
}

#[derive(Debug, Deserialize)]
struct DefaultImagePlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

/// The parts of a manifest that a mirror reads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ManifestSummary {
    schema_version: Option<u64>,
    media_type: Option<String>,
    subject: Option<SubjectDescriptor>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// A descriptor (image-spec, descriptor.md); unknown members are ignored.
#[derive(Debug, Deserialize)]
struct SubjectDescriptor {
    digest: String,
}

/// The properties that a manifest's bytes state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManifestFacts {
    /// The media type that the body states or implies.
    pub media_type: Option<String>,
    /// The digest that the manifest refers to.
    pub subject: Option<Digest>,
}

/// Reads a manifest. Bytes that are no manifest give no facts; they are stored and served as opaque content.
pub fn facts(bytes: &[u8]) -> ManifestFacts {
    let Ok(summary) = serde_json::from_slice::<ManifestSummary>(bytes) else {
        return ManifestFacts::default();
    };
    let guess = match summary {
        ManifestSummary {
            schema_version: Some(1),
            ..
        } => Some(DOCKER_SCHEMA1_SIGNED),
        ManifestSummary {
            manifests: Some(_), ..
        } => Some(OCI_INDEX),
        ManifestSummary {
            config: Some(_), ..
        } => Some(OCI_MANIFEST),
        _ => None,
    };
    ManifestFacts {
        media_type: summary.media_type.or_else(|| guess.map(str::to_owned)),
        subject: summary
            .subject
            .and_then(|subject| subject.digest.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accept_classes_of_clients() {
        let containerd = [format!(
            "{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*"
        )];
        let fetch = [format!("{OCI_MANIFEST}, */*")];
        let docker = [DOCKER_SCHEMA1_SIGNED, DOCKER_MANIFEST, DOCKER_LIST].map(str::to_owned);
        let docker_1_10 = [DOCKER_MANIFEST, DOCKER_SCHEMA1_SIGNED].map(str::to_owned);
        let (modern, old) = (Generation::Modern, Generation::Schema1);
        for (lines, client, class) in [
            (&containerd[..], modern, AcceptClass::Full),
            (&fetch, modern, AcceptClass::Full),
            (&docker, modern, AcceptClass::Full),
            (&docker_1_10, modern, AcceptClass::NoList),
            (&docker[..1], modern, AcceptClass::Schema1),
            (&[], modern, AcceptClass::Full),
            (&[], old, AcceptClass::Schema1),
            (&docker, old, AcceptClass::Full),
            (&["application/json".to_owned()], modern, AcceptClass::Full),
            (&[format!("{DOCKER_LIST};q=0.1")], modern, AcceptClass::Full),
        ] {
            assert_eq!(
                AcceptClass::of(lines.iter().map(String::as_str), client),
                class,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn facts_of_manifests() {
        let hex = "a".repeat(64);
        let subject =
            format!(r#"{{"mediaType":"x/y","subject":{{"digest":"sha256:{hex}","size":1}}}}"#);
        assert_eq!(
            facts(subject.as_bytes()),
            ManifestFacts {
                media_type: Some("x/y".into()),
                subject: format!("sha256:{hex}").parse().ok()
            }
        );
        for (body, media_type) in [
            (
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
                Some(OCI_MANIFEST),
            ),
            (r#"{"schemaVersion":2,"manifests":[]}"#, Some(OCI_INDEX)),
            (
                r#"{"schemaVersion":1,"name":"a"}"#,
                Some(DOCKER_SCHEMA1_SIGNED),
            ),
            ("[]", None),
            ("not json", None),
            (r#"{"mediaType":7}"#, None),
        ] {
            assert_eq!(
                facts(body.as_bytes()).media_type.as_deref(),
                media_type,
                "{body}"
            );
        }
    }

    #[test]
    fn default_image_of_an_index() {
        let hex = |c: &str| format!("sha256:{}", c.repeat(64));
        let child = |c: &str, os: &str, architecture: &str| {
            format!(
                r#"{{"digest":"{}","platform":{{"os":"{os}","architecture":"{architecture}","variant":"v8"}}}}"#,
                hex(c)
            )
        };
        let bare = format!(r#"{{"digest":"{}"}}"#, hex("e"));
        let (arm, amd) = (child("a", "linux", "arm64"), child("b", "linux", "amd64"));
        let (other, windows) = (child("c", "linux", "amd64"), child("d", "windows", "amd64"));
        for (children, expected) in [
            (vec![&arm, &bare, &windows, &amd, &other], Some(hex("b"))),
            (vec![&amd], Some(hex("b"))),
            (vec![&arm, &windows, &bare], None),
            (vec![], None),
        ] {
            let children: Vec<&str> = children.into_iter().map(String::as_str).collect();
            let index = format!(
                r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
                children.join(",")
            );
            let chosen = default_image(index.as_bytes()).map(|digest| digest.to_string());
            assert_eq!(chosen, expected, "{index}");
        }
        for broken in [
            "",
            "{}",
            r#"{"manifests":7}"#,
            r#"{"manifests":[{"digest":7}]}"#,
        ] {
            assert_eq!(default_image(broken.as_bytes()), None, "{broken}");
        }
    }

    #[test]
    fn media_types_of_indexes_and_signed_manifests() {
        for (media_type, index, signed) in [
            (DOCKER_LIST, true, false),
            (OCI_INDEX, true, false),
            (
                "Application/vnd.oci.image.index.v1+JSON; charset=utf-8",
                true,
                false,
            ),
            (DOCKER_MANIFEST, false, false),
            (DOCKER_SCHEMA1_SIGNED, false, true),
            (DOCKER_SCHEMA1, false, false),
            ("", false, false),
        ] {
            assert_eq!(
                (is_index(media_type), is_signed_schema1(media_type)),
                (index, signed),
                "{media_type}"
            );
        }
    }

    proptest! {
        #[test]
        fn facts_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = facts(&bytes);
            let _ = default_image(&bytes);
        }
    }
}
