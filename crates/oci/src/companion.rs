//! Tags that name what belongs to a digest: signatures, attestations, lists of referrers.

use super::digest::Digest;
use super::name::Tag;

impl Tag {
    /// Whether this tag names a companion of a digest: a signature, attestation or bill of materials (cosign's
    /// `sha256-<hex>.sig`, `.att`, `.sbom`), or the referrers of a registry without the referrers API
    /// (distribution-spec 1.1, "Unavailable Referrers API"). Few digests have any.
    pub fn is_companion(&self) -> bool {
        self.without_kind()
            .split_once('-')
            .is_some_and(|(algorithm, encoded)| {
                (1..=32).contains(&algorithm.len())
                    && algorithm
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
                    && encoded.len() == 64
                    && encoded
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            })
    }

    /// The digest whose companion this tag names, if the gateway knows its algorithm.
    pub fn companion_of(&self) -> Option<Digest> {
        let (algorithm, encoded) = self.without_kind().split_once('-')?;
        format!("{algorithm}:{encoded}").parse().ok()
    }

    /// The name without the suffix of a companion.
    fn without_kind(&self) -> &str {
        let name = self.as_str();
        let kinds = [".sig", ".att", ".sbom"];
        let without = kinds.iter().find_map(|kind| name.strip_suffix(kind));
        without.unwrap_or(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn companions() {
        let hex = "0123456789abcdef".repeat(4);
        for (tag, companion) in [
            (format!("sha256-{hex}"), true),
            (format!("sha256-{hex}.sig"), true),
            (format!("sha256-{hex}.att"), true),
            (format!("sha256-{hex}.sbom"), true),
            (format!("sha512-{hex}"), true),
            (format!("sha256-{hex}.zip"), false),
            (format!("sha256-{hex}0"), false),
            (format!("sha256-{}", hex.to_uppercase()), false),
            (format!("-{hex}"), false),
            ("latest".into(), false),
            ("sha256-".into(), false),
        ] {
            let Ok(parsed) = tag.parse::<Tag>() else {
                assert!(!companion, "{tag}");
                continue;
            };
            assert_eq!(parsed.is_companion(), companion, "{tag}");
            let subject = format!("sha256:{hex}").parse().ok();
            let of_known = companion && tag.starts_with("sha256-");
            assert_eq!(parsed.companion_of(), subject.filter(|_| of_known), "{tag}");
        }
    }
}
