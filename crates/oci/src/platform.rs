//! Platforms, and the choice of images from an index (image-spec, image-index.md; the names are Go's).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::digest::Digest;

/// The longest name in a platform, in bytes.
const MAX_LENGTH: usize = 64;

/// `os/architecture[/variant]`, such as `linux/amd64` or `linux/arm/v7`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    os: String,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

/// A text that is no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform; write os/architecture, as in linux/amd64 or linux/arm/v7, or all")]
pub struct PlatformError(String);

/// A selection of platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// Everything in an index, including manifests without a platform.
    All,
    /// The first manifest of an index for this platform, preferring one without a variant.
    Only(Platform),
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7".to_owned())),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", None),
            other => (other, None),
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant,
        }
    }

    /// Whether it names an operating system and an architecture, each of a length that such names have. Builders give
    /// attestations the platform `unknown/unknown`.
    pub fn is_known(&self) -> bool {
        let is_known =
            |name: &str| !name.is_empty() && name.len() <= MAX_LENGTH && name != "unknown";
        let variant = self.variant.as_deref().unwrap_or_default();
        is_known(&self.os) && is_known(&self.architecture) && variant.len() <= MAX_LENGTH
    }

    /// Whether an image for the platform `image` suits this platform. A platform without a variant accepts any.
    pub fn accepts(&self, image: &Self) -> bool {
        self.os == image.os
            && self.architecture == image.architecture
            && (self.variant.is_none() || self.own_variant() == image.own_variant())
    }

    /// The variant, or the default of the architecture.
    fn own_variant(&self) -> Option<&str> {
        let variant = self.variant.as_deref().filter(|name| !name.is_empty());
        match (self.architecture.as_str(), variant) {
            ("arm64", None) => Some("v8"),
            ("arm", None) => Some("v7"),
            (_, variant) => variant,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let good = |part: &&str| {
            let mut letters = part.bytes();
            !part.is_empty()
                && letters.all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let lower = |part: &str| part.to_ascii_lowercase();
        match parts.as_slice() {
            [os, architecture, rest @ ..] if rest.len() <= 1 && parts.iter().all(good) => {
                Ok(Self {
                    os: lower(os),
                    architecture: lower(architecture),
                    variant: rest.first().map(|variant| lower(variant)),
                })
            }
            _ => Err(PlatformError(text.to_owned())),
        }
    }
}

impl fmt::Display for Platforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Only(platform) => platform.fmt(f),
        }
    }
}

impl FromStr for Platforms {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        match text {
            "all" => Ok(Self::All),
            text => text.parse().map(Self::Only),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PlatformIndex {
    manifests: Vec<PlatformEntry>,
}

#[derive(Deserialize)]
struct PlatformEntry {
    digest: String,
    platform: Option<Platform>,
}

/// The images of a list or index with their platforms, in its order; without attestations, whose platform is unknown.
pub fn images(index: &[u8]) -> Vec<(Platform, Digest)> {
    let index: PlatformIndex = serde_json::from_slice(index).unwrap_or_default();
    let children = index.manifests.into_iter();
    let images = children.filter_map(|child| {
        let platform = child.platform.filter(|image| image.os != "unknown")?;
        Some((platform, child.digest.parse().ok()?))
    });
    images.collect()
}

/// The selected manifests of a list or index: for one platform the first match, preferring one without a
/// variant.
///
/// # Errors
/// The available platforms, if none matches.
pub fn choose(index: &[u8], selected: &Platforms) -> Result<Vec<Digest>, Vec<Platform>> {
    let index: PlatformIndex = serde_json::from_slice(index).unwrap_or_default();
    let children = index.manifests.into_iter();
    let children = children.filter_map(|child| Some((child.digest.parse().ok()?, child.platform)));
    let children: Vec<(Digest, Option<Platform>)> = children.collect();
    let Platforms::Only(selected) = selected else {
        return Ok(children.into_iter().map(|(digest, _)| digest).collect());
    };
    let matching = children.iter().filter_map(|(digest, platform)| {
        let platform = platform.as_ref().filter(|image| selected.accepts(image))?;
        Some((platform.variant.is_some(), digest))
    });
    if let Some((_, digest)) = matching.min_by_key(|(has_variant, _)| *has_variant) {
        return Ok(vec![*digest]);
    }
    // Builders add attestations to an index as images of an unknown platform.
    let available = children.into_iter().filter_map(|(_, platform)| platform);
    Err(available
        .filter(|platform| platform.os != "unknown")
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_parsed() {
        for (text, expected) in [
            ("linux/amd64", Some("linux/amd64")),
            ("Linux/ARM/V7", Some("linux/arm/v7")),
            ("all", Some("all")),
            ("linux", None),
            ("linux/", None),
            ("/amd64", None),
            ("linux/arm/v7/x", None),
            ("linux/arm/", None),
            ("linux/a b", None),
            ("", None),
        ] {
            let read = text.parse::<Platforms>().map(|read| read.to_string());
            assert_eq!(read.ok().as_deref(), expected, "{text}");
        }
        let host = Platform::host().to_string();
        assert_eq!(host.parse(), Ok(Platform::host()), "{host}");
    }

    #[test]
    fn platform_selection() {
        let digest = |n: char| format!("sha256:{}", n.to_string().repeat(64));
        let child = |n: char, platform: &str| {
            let platform = match platform.split('/').collect::<Vec<_>>()[..] {
                [os, architecture] => format!(r#"{{"os":"{os}","architecture":"{architecture}"}}"#),
                [os, architecture, variant] => format!(
                    r#"{{"os":"{os}","architecture":"{architecture}","variant":"{variant}"}}"#
                ),
                _ => "null".to_owned(),
            };
            format!(r#"{{"digest":"{}","platform":{platform}}}"#, digest(n))
        };
        let children = [
            child('a', "linux/arm64/v8"),
            child('b', "linux/amd64"),
            child('c', "linux/arm/v6"),
            child('d', "linux/arm/v7"),
            child('e', "unknown/unknown"),
            child('f', ""),
            child('1', "linux/amd64"),
            child('2', "linux/riscv64/x"),
            child('3', "linux/riscv64"),
        ];
        let index = format!(r#"{{"manifests":[{}]}}"#, children.join(","));
        for (selected, expected) in [
            ("all", Some("abcdef123")),
            ("linux/amd64", Some("b")),
            ("linux/arm64", Some("a")),
            ("linux/arm64/v8", Some("a")),
            ("linux/arm", Some("c")),
            ("linux/arm/v7", Some("d")),
            ("linux/riscv64", Some("3")),
            ("linux/riscv64/x", Some("2")),
            ("linux/arm64/v9", None),
            ("windows/amd64", None),
        ] {
            let chosen = choose(index.as_bytes(), &selected.parse().expect("a platform"));
            let expected = expected.map(|names| names.chars().map(digest).collect());
            let named = |digests: Vec<Digest>| digests.iter().map(Digest::to_string).collect();
            match chosen {
                Ok(chosen) => assert_eq!(Some(named(chosen)), expected, "{selected}"),
                Err(available) => {
                    assert_eq!(expected, None::<Vec<String>>, "{selected}");
                    assert_eq!(
                        available.len(),
                        7,
                        "{selected}: all but the attestation and the one without a platform"
                    );
                }
            }
        }
        assert_eq!(choose(b"no JSON", &Platforms::All), Ok(Vec::new()));
        let listed = images(index.as_bytes());
        let listed: Vec<String> = listed
            .iter()
            .map(|(platform, digest)| format!("{} {platform}", &digest.hex()[..1]))
            .collect();
        assert_eq!(
            listed,
            [
                "a linux/arm64/v8",
                "b linux/amd64",
                "c linux/arm/v6",
                "d linux/arm/v7",
                "1 linux/amd64",
                "2 linux/riscv64/x",
                "3 linux/riscv64"
            ]
        );
        assert_eq!(images(b"no JSON"), Vec::new());
    }
}
