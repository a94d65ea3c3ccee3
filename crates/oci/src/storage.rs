//! The small files in the storage folders of other registries: distribution's links and manifests, and the names,
//! checksums and ids of docker-registry 0.9, the registry of the v1 API.

use crate::digest::Digest;
use crate::manifest::{DOCKER_SCHEMA1, facts, is_signed_schema1};
use crate::name::Repository;
use crate::v1::{ImageId, plain};

/// The longest `link` file and `tag_…` file, in bytes.
pub const MAX_LINK: u64 = 512;

/// The digest in a `link` file of distribution.
pub fn link(bytes: &[u8]) -> Option<Digest> {
    text(bytes)?.parse().ok()
}

/// A manifest as distribution stores it: without its media type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredManifest {
    /// One that is served as it is stored.
    Whole {
        /// The media type that distribution answers with.
        media_type: String,
        /// The digest that it refers to.
        subject: Option<Digest>,
    },
    /// Schema 1: its signature is made when it is served, so that its bytes are not those of the folder.
    Schema1,
    /// Bytes that are no manifest.
    Unknown,
}

/// Reads a manifest of distribution's folder.
pub fn manifest(bytes: &[u8]) -> StoredManifest {
    let facts = facts(bytes);
    match facts.media_type {
        None => StoredManifest::Unknown,
        Some(media_type) if media_type == DOCKER_SCHEMA1 || is_signed_schema1(&media_type) => {
            StoredManifest::Schema1
        }
        Some(media_type) => StoredManifest::Whole {
            media_type,
            subject: facts.subject,
        },
    }
}

/// The repository of the folder `repositories/<namespace>/<name>` of docker-registry 0.9, as the v1 API names it:
/// `library/app` is `app`, and the slashes of longer names are encoded.
pub fn v1_repository(namespace: &str, name: &str) -> Option<Repository> {
    let mut decoded = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        // `quote_plus` of a valid name encodes nothing else.
        rest = rest[at..]
            .strip_prefix("%2F")
            .or_else(|| rest[at..].strip_prefix("%2f"))?;
        decoded.push('/');
    }
    decoded.push_str(rest);
    let whole = format!("{namespace}/{decoded}");
    plain(&whole).parse().ok()
}

/// The image id in a `tag_…` file of docker-registry 0.9.
pub fn v1_tag(bytes: &[u8]) -> Option<ImageId> {
    let text = text(bytes)?;
    let unquoted = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    unquoted.unwrap_or(text).parse().ok()
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().map(str::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

    #[test]
    fn links_and_tags() {
        let hex = "ab".repeat(32);
        for (bytes, expected) in [
            (format!("sha256:{hex}"), true),
            (format!("sha256:{hex}\n"), true),
            (format!("sha256:{}", hex.to_uppercase()), false),
            (format!("sha256:{hex}/../x"), false),
            (String::new(), false),
        ] {
            assert_eq!(link(bytes.as_bytes()).is_some(), expected, "{bytes}");
        }
        assert_eq!(link(b"\xff"), None);
        for (bytes, expected) in [
            (hex.clone(), true),
            (format!("\"{hex}\""), true),
            (format!("{hex}\n"), true),
            ("../../etc/passwd".to_owned(), false),
            (format!("\"{hex}"), false),
        ] {
            assert_eq!(v1_tag(bytes.as_bytes()).is_some(), expected, "{bytes}");
        }
    }

    #[test]
    fn manifests_get_the_type_that_distribution_answers_with() {
        let whole = |media_type: &str| StoredManifest::Whole {
            media_type: media_type.to_owned(),
            subject: None,
        };
        for (bytes, expected) in [
            (
                format!(r#"{{"schemaVersion":2,"mediaType":"{DOCKER_MANIFEST}","config":{{}}}}"#),
                whole(DOCKER_MANIFEST),
            ),
            (
                r#"{"schemaVersion":2,"config":{},"layers":[]}"#.to_owned(),
                whole(OCI_MANIFEST),
            ),
            (
                r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(),
                whole(OCI_INDEX),
            ),
            (
                r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(),
                StoredManifest::Schema1,
            ),
            (
                format!(r#"{{"schemaVersion":1,"mediaType":"{DOCKER_SCHEMA1}"}}"#),
                StoredManifest::Schema1,
            ),
            ("{}".to_owned(), StoredManifest::Unknown),
            ("<html>".to_owned(), StoredManifest::Unknown),
        ] {
            assert_eq!(manifest(bytes.as_bytes()), expected, "{bytes}");
        }
    }

    #[test]
    fn folders_of_v1_repositories() {
        for (namespace, name, expected) in [
            ("library", "busybox", Some("busybox")),
            ("team", "app", Some("team/app")),
            ("team", "a%2Fb", Some("team/a/b")),
            ("team", "a%2fb%2Fc", Some("team/a/b/c")),
            ("..", "app", None),
            ("team", "..", None),
            ("team", "a%2F..", None),
            ("team", "a%41", None),
            ("team", "%2Fa", None),
            ("Team", "app", None),
            ("", "app", None),
        ] {
            let found = v1_repository(namespace, name);
            let found = found.as_ref().map(Repository::as_str);
            assert_eq!(found, expected, "{namespace} {name}");
        }
    }
}
