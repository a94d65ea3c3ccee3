//! The image of an index for a v1 client, which knows no indexes but states its platform in its User-Agent.

use std::fmt;

use serde::Deserialize;

use super::V2ToV1Error;
use crate::digest::Digest;
use crate::manifest::is_index;

/// A v1 client's operating system and architecture, by Go's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientPlatform {
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
}

impl Default for ClientPlatform {
    fn default() -> Self {
        Self {
            os: "linux".into(),
            architecture: "amd64".into(),
        }
    }
}

impl fmt::Display for ClientPlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)
    }
}

/// The known platforms of daemons, by Go's names. Every platform has recorded ids of its own, so a client must
/// not invent platforms.
const SYSTEMS: &[&str] = &["linux", "windows", "freebsd", "solaris", "darwin"];
const ARCHITECTURES: &[&str] = &[
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x",
];

impl ClientPlatform {
    /// The platform in a daemon's User-Agent: the words `os/…` and `arch/…` of Docker 1.0 to 1.12; linux/amd64
    /// if absent. The platform of the command line (`UpstreamClient(…)`) is ignored, because the image runs
    /// on the daemon.
    pub fn of_agent(agent: &str) -> Self {
        let own = agent.split("UpstreamClient(").next().unwrap_or_default();
        let word = |key: &str| {
            let mut words = own.split_ascii_whitespace();
            let value = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('/'))?;
            Some(value.to_owned())
        };
        let known = |words: &[&str], word: &String| words.contains(&word.as_str());
        let default = Self::default();
        Self {
            os: word("os")
                .filter(|os| known(SYSTEMS, os))
                .unwrap_or(default.os),
            architecture: word("arch")
                .filter(|architecture| known(ARCHITECTURES, architecture))
                .unwrap_or(default.architecture),
        }
    }

    /// The rank of a variant if only the architecture is known: lower is better. Old daemons do not state their
    /// ARM version, so the variant that runs on most of them comes first.
    fn rank(&self, variant: &str) -> usize {
        let order: &[&str] = match self.architecture.as_str() {
            "arm" => &["v6", "v5", "", "v7"],
            "arm64" => &["", "v8"],
            _ => &["", "v1"],
        };
        let at = order.iter().position(|known| *known == variant);
        at.unwrap_or(order.len())
    }
}

/// A manifest of an index that may suit the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The digest of the manifest or index.
    pub digest: Digest,
    /// Whether it is a nested index.
    pub is_index: bool,
}

#[derive(Debug, Deserialize)]
struct CandidateIndex {
    manifests: Vec<CandidateEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct CandidateEntry {
    digest: Digest,
    #[serde(default)]
    media_type: String,
    platform: Option<CandidatePlatform>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
    #[serde(default)]
    artifact_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CandidatePlatform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: Option<String>,
}

impl CandidateEntry {
    /// Whether it is a companion of another image: an attestation, a signature.
    fn is_companion(&self) -> bool {
        let annotations = self.annotations.iter();
        let mut keys = annotations.flat_map(serde_json::Map::keys);
        let unknown = self
            .platform
            .as_ref()
            .is_some_and(|platform| platform.os == "unknown");
        unknown
            || self.artifact_type.is_some()
            || keys.any(|key| key == "vnd.docker.reference.type")
    }
}

/// The manifests of an index that may be an image for a platform, best first: images of the platform, then
/// indexes of it or without a platform, then a sole image without a platform.
///
/// # Errors
/// [`V2ToV1Error::Manifest`] if the index is invalid, [`V2ToV1Error::Platform`] if it has nothing for the platform.
pub fn choose(index: &[u8], platform: &ClientPlatform) -> Result<Vec<Candidate>, V2ToV1Error> {
    let index: CandidateIndex = serde_json::from_slice(index).map_err(|_| V2ToV1Error::Manifest)?;
    let children = index
        .manifests
        .into_iter()
        .filter(|child| !child.is_companion());
    let children: Vec<CandidateEntry> = children.collect();
    let without_platform = children.iter().filter(|child| child.platform.is_none());
    let is_sole = without_platform.count() == 1;
    let mut ranked: Vec<(usize, Candidate)> = Vec::new();
    for child in &children {
        let nested = is_index(&child.media_type);
        let rank = match &child.platform {
            Some(own) if own.os == platform.os && own.architecture == platform.architecture => {
                platform.rank(own.variant.as_deref().unwrap_or_default())
            }
            None if nested => 1000,
            None if is_sole => 2000,
            Some(_) | None => continue,
        };
        let candidate = Candidate {
            digest: child.digest,
            is_index: nested,
        };
        ranked.push((rank, candidate));
    }
    // Stable: among equals, the first in the index wins.
    ranked.sort_by_key(|(rank, _)| *rank);
    if ranked.is_empty() {
        return Err(V2ToV1Error::Platform(platform.clone()));
    }
    Ok(ranked.into_iter().map(|(_, candidate)| candidate).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::digest::Algorithm;
    use crate::manifest::{OCI_INDEX, OCI_MANIFEST};

    #[test]
    fn platforms_of_agents() {
        let docker = "docker/1.5.0 go/go1.4.1 git-commit/a8a31ef kernel/3.18.0";
        for (agent, expected) in [
            (format!("{docker} os/linux arch/amd64"), "linux/amd64"),
            (format!("{docker} os/linux arch/arm"), "linux/arm"),
            (format!("{docker} os/windows arch/amd64"), "windows/amd64"),
            (format!("{docker} arch/ppc64le"), "linux/ppc64le"),
            // invalid names
            (
                format!("{docker} os/li\u{6e}ux/x arch/../.."),
                "linux/amd64",
            ),
            (
                format!("{docker} os/ arch/{}", "a".repeat(17)),
                "linux/amd64",
            ),
            // unknown platforms: each one would have recorded ids of its own
            (format!("{docker} os/linux1 arch/amd65"), "linux/amd64"),
            (format!("{docker} os/solaris arch/x9"), "solaris/amd64"),
            // the command line runs on another machine than the daemon
            (
                format!("{docker} UpstreamClient(Docker-Client/1.12 os/darwin arch/arm64)"),
                "linux/amd64",
            ),
            ("Go 1.1 package http".into(), "linux/amd64"),
            (String::new(), "linux/amd64"),
        ] {
            assert_eq!(
                ClientPlatform::of_agent(&agent).to_string(),
                expected,
                "{agent}"
            );
        }
    }

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn child(name: &str, media_type: &str, platform: Option<&str>) -> Value {
        let mut child = json!({
            "mediaType": media_type,
            "digest": digest(name).to_string(),
            "size": 1,
        });
        if let Some(platform) = platform {
            let words: Vec<&str> = platform.split('/').collect();
            child["platform"] = json!({"os": words[0], "architecture": words[1]});
            if let Some(variant) = words.get(2) {
                child["platform"]["variant"] = json!(variant);
            }
        }
        child
    }

    #[test]
    fn index_candidates_are_ranked() {
        let image = |name: &str, platform| child(name, OCI_MANIFEST, platform);
        let index = |name: &str, platform| child(name, OCI_INDEX, platform);
        let mut attestation = image("attestation", Some("linux/amd64"));
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let many = vec![
            attestation.clone(),
            image("unknown", Some("unknown/unknown")),
            image("v3", Some("linux/amd64/v3")),
            image("amd64", Some("linux/amd64")),
            image("again", Some("linux/amd64")),
            image("arm-v7", Some("linux/arm/v7")),
            image("arm-v5", Some("linux/arm/v5")),
            image("arm64", Some("linux/arm64/v8")),
            index("nested", None),
        ];
        for (children, platform, expected) in [
            (&many, "amd64", Some("amd64")),
            (&many, "arm", Some("arm-v5")),
            (&many, "arm64", Some("arm64")),
            // The nested index may contain it.
            (&many, "s390x", Some("nested")),
            (&vec![image("only", None)], "s390x", Some("only")),
            (&vec![image("one", None), image("two", None)], "amd64", None),
            (&vec![attestation], "amd64", None),
            (&vec![image("amd64", Some("windows/amd64"))], "amd64", None),
            (&vec![], "amd64", None),
        ] {
            let platform = ClientPlatform {
                architecture: platform.into(),
                ..ClientPlatform::default()
            };
            let bytes = json!({"schemaVersion": 2, "manifests": children}).to_string();
            let chosen = choose(bytes.as_bytes(), &platform);
            match expected {
                Some(name) => {
                    let first = chosen.expect("something")[0].clone();
                    assert_eq!(first.digest, digest(name), "{platform}: {name}");
                    assert_eq!(first.is_index, name == "nested");
                }
                None => assert_eq!(chosen, Err(V2ToV1Error::Platform(platform))),
            }
        }
        assert_eq!(
            choose(b"{", &ClientPlatform::default()),
            Err(V2ToV1Error::Manifest)
        );
    }
}
