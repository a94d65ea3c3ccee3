//! Manifests as far as a mirror reads them: media types, the Accept classes, descriptors.
//!
//! The bytes are never changed. They are parsed only to learn a missing media type and, for a
//! referrer, its subject.

use serde::Deserialize;

use super::digest::Digest;

/// The longest manifest that is accepted, in bytes: the limit every party should cope with
/// (distribution-spec 1.1, "Pushing Manifests").
pub const MAX_MANIFEST: usize = 4 << 20;

pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Which manifests a client can read. One tag may resolve differently for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AcceptClass {
    /// Everything, or at least a list or index.
    Full,
    /// Images, but neither lists nor indexes.
    NoList,
    /// Only the first schema: Docker 1.6 to 1.9.
    Schema1,
}

impl AcceptClass {
    /// The name of the class on disk.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::NoList => "no-list",
            Self::Schema1 => "schema1",
        }
    }

    /// The class of a request: every `Accept` line counts, as do the types within one line. A client
    /// that says nothing takes anything, save Docker 1.6 to 1.9 (`old_docker`), which meant schema 1.
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a str>, old_docker: bool) -> Self {
        let types: Vec<&str> = lines
            .into_iter()
            .flat_map(|line| line.split(','))
            .map(|entry| entry.split(';').next().unwrap_or_default().trim())
            .filter(|entry| !entry.is_empty())
            .collect();
        let any = |wanted: &[&str]| {
            types.iter().any(|kind| {
                wanted
                    .iter()
                    .any(|wanted| kind.eq_ignore_ascii_case(wanted))
            })
        };
        if types.is_empty() {
            return if old_docker {
                Self::Schema1
            } else {
                Self::Full
            };
        }
        if any(&[DOCKER_LIST, OCI_INDEX, "*/*", "application/*"]) {
            Self::Full
        } else if any(&[DOCKER_MANIFEST, OCI_MANIFEST]) {
            Self::NoList
        } else if any(&[DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED]) {
            Self::Schema1
        } else {
            // `application/json` and the like: historic spellings of "whatever you have".
            Self::Full
        }
    }

    /// The `Accept` header to ask an upstream with.
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

/// The parts of a manifest that a mirror reads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Outline {
    schema_version: Option<u64>,
    media_type: Option<String>,
    subject: Option<Descriptor>,
    manifests: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
}

/// A descriptor (image-spec, descriptor.md); unknown members are passed over.
#[derive(Debug, Deserialize)]
struct Descriptor {
    digest: String,
}

/// What was learned from a manifest's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The media type that the body itself claims or suggests.
    pub media_type: Option<String>,
    /// The digest that the manifest refers to.
    pub subject: Option<Digest>,
}

/// Reads a manifest. Bytes that are no manifest give no facts: they are stored and served as opaque.
pub fn facts(bytes: &[u8]) -> Facts {
    let Ok(outline) = serde_json::from_slice::<Outline>(bytes) else {
        return Facts::default();
    };
    let guess = match outline {
        Outline {
            schema_version: Some(1),
            ..
        } => Some(DOCKER_SCHEMA1_SIGNED),
        Outline {
            manifests: Some(_), ..
        } => Some(OCI_INDEX),
        Outline {
            config: Some(_), ..
        } => Some(OCI_MANIFEST),
        _ => None,
    };
    Facts {
        media_type: outline.media_type.or_else(|| guess.map(str::to_owned)),
        subject: outline
            .subject
            .and_then(|subject| subject.digest.parse().ok()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn accept_classes_of_real_clients() {
        let containerd = [format!(
            "{DOCKER_MANIFEST}, {DOCKER_LIST}, {OCI_MANIFEST}, {OCI_INDEX}, */*"
        )];
        let fetch = [format!("{OCI_MANIFEST}, */*")];
        let docker = [DOCKER_SCHEMA1_SIGNED, DOCKER_MANIFEST, DOCKER_LIST].map(str::to_owned);
        let docker_1_10 = [DOCKER_MANIFEST, DOCKER_SCHEMA1_SIGNED].map(str::to_owned);
        for (lines, old, class) in [
            (&containerd[..], false, AcceptClass::Full),
            (&fetch, false, AcceptClass::Full),
            (&docker, false, AcceptClass::Full),
            (&docker_1_10, false, AcceptClass::NoList),
            (&docker[..1], false, AcceptClass::Schema1),
            (&[], false, AcceptClass::Full),
            (&[], true, AcceptClass::Schema1),
            (&["application/json".to_owned()], false, AcceptClass::Full),
            (&[format!("{DOCKER_LIST};q=0.1")], false, AcceptClass::Full),
        ] {
            assert_eq!(
                AcceptClass::of(lines.iter().map(String::as_str), old),
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
            Facts {
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

    proptest! {
        #[test]
        fn facts_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = facts(&bytes);
        }
    }
}
