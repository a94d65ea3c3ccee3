//! Platforms, and the choice of images from an index (image-spec, image-index.md; the names are Go's).

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::digest::Digest;

/// `os/architecture[/variant]`, such as `linux/amd64` or `linux/arm/v7`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Platform {
    os: String,
    architecture: String,
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

    /// Whether an image for `there` suits this platform. A platform without a variant accepts any.
    fn takes(&self, there: &Self) -> bool {
        self.os == there.os
            && self.architecture == there.architecture
            && (self.variant.is_none() || self.own_variant() == there.own_variant())
    }

    /// The variant, or the default of the architecture.
    fn own_variant(&self) -> Option<&str> {
        match (self.architecture.as_str(), self.variant.as_deref()) {
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
struct Index {
    manifests: Vec<Child>,
}

#[derive(Deserialize)]
struct Child {
    digest: String,
    platform: Option<Platform>,
}

/// The selected manifests of a list or index: for one platform the first match, preferring one without a
/// variant.
///
/// # Errors
/// The available platforms, if none matches.
pub fn choose(index: &[u8], wanted: &Platforms) -> Result<Vec<Digest>, Vec<Platform>> {
    let index: Index = serde_json::from_slice(index).unwrap_or_default();
    let children = index.manifests.into_iter();
    let children = children.filter_map(|child| Some((child.digest.parse().ok()?, child.platform)));
    let children: Vec<(Digest, Option<Platform>)> = children.collect();
    let Platforms::Only(wanted) = wanted else {
        return Ok(children.into_iter().map(|(digest, _)| digest).collect());
    };
    let fitting = children.iter().filter_map(|(digest, platform)| {
        let platform = platform.as_ref().filter(|there| wanted.takes(there))?;
        Some((platform.variant.is_some(), digest))
    });
    if let Some((_, digest)) = fitting.min_by_key(|(varies, _)| *varies) {
        return Ok(vec![*digest]);
    }
    // Builders add attestations to an index as images of an unknown platform.
    let there = children.into_iter().filter_map(|(_, platform)| platform);
    Err(there.filter(|there| there.os != "unknown").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read() {
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
    fn images_are_chosen() {
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
        for (wanted, expected) in [
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
            let chosen = choose(index.as_bytes(), &wanted.parse().expect("a platform"));
            let expected = expected.map(|names| names.chars().map(digest).collect());
            let named = |digests: Vec<Digest>| digests.iter().map(Digest::to_string).collect();
            match chosen {
                Ok(chosen) => assert_eq!(Some(named(chosen)), expected, "{wanted}"),
                Err(there) => {
                    assert_eq!(expected, None::<Vec<String>>, "{wanted}");
                    assert_eq!(there.len(), 7, "{wanted}: all but what is for none");
                }
            }
        }
        assert_eq!(choose(b"no JSON", &Platforms::All), Ok(Vec::new()));
    }
}
