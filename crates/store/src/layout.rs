//! Names and paths below the store's folder. This is layout version 1: a store written by an older program
//! must keep working, so no name may change without a migration.

use std::path::{Path, PathBuf};

use oci::digest::Digest;

/// The unit in which disk space is counted, in bytes.
pub const BLOCK: u64 = 4096;
/// The folder of records that refer to blobs.
pub const REPOSITORIES: &str = "repositories";
/// The folder of unfinished downloads and temporary files.
pub const PARTIALS: &str = "partials";
/// The folder of damaged files.
pub const QUARANTINE: &str = "quarantine";

/// The folder of the program's own state: pins, and the history of the traffic.
pub const STATE: &str = "state";

/// The path of a committed blob: `blobs/<alg>/<2>/<hex>`.
pub fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let mut path = root.join("blobs");
    path.push(digest.algorithm().as_str());
    path.push(&hex[..2]);
    path.push(hex);
    path
}

/// The file name of a record about a digest: `sha256-<hex>`.
pub fn digest_name(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Parses a file name written by [`digest_name`].
pub fn parse_digest_name(name: &str) -> Option<Digest> {
    name.replacen('-', ":", 1).parse().ok()
}

/// Encodes any name as one path component: percent-encoded, a leading dot included, so that `.` and `..`
/// cannot arise.
pub fn component(name: &str) -> String {
    use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

    const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');
    let encoded = utf8_percent_encode(name, PLAIN).to_string();
    match encoded.strip_prefix('.') {
        Some(rest) => format!("%2E{rest}"),
        None => encoded,
    }
}

/// Decodes the output of [`component`].
pub fn decode_component(component: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(component).decode_utf8();
    Some(decoded.ok()?.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_safe_and_decode_to_the_name() {
        for (name, file) in [
            ("docker.io", "docker.io"),
            ("registry.local:5000", "registry.local%3A5000"),
            (".", "%2E"),
            ("..", "%2E."),
            ("a/b", "a%2Fb"),
        ] {
            assert_eq!(component(name), file);
            assert_eq!(decode_component(file).as_deref(), Some(name));
        }
    }
}
