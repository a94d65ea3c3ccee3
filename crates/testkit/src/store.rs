//! Files of a store with many repositories, as the gateway writes them: pulling each would take an hour.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

/// How many repositories are in one folder, and share the file of their record: file systems limit its links.
const PER_PROJECT: usize = 1000;

/// A directory for such a store: in memory where that can be, since disks take minutes to remove as many folders.
pub fn memory_dir() -> TempDir {
    let made = tempfile::Builder::new()
        .prefix("roadstead-")
        .tempdir_in("/dev/shm");
    made.unwrap_or_else(|_| crate::temp_dir())
}

/// Adds this many repositories of one manifest each, `project-000/service-000000` and so on, to a registry in the store of
/// a gateway that does not run. They have no tags.
pub fn add_repositories(store: &Path, registry: &str, repositories: usize) {
    let manifest =
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let digest = crate::sha256(manifest);
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    let blobs = store.join("blobs/sha256").join(&hex[..2]);
    fs::create_dir_all(&blobs).expect("a folder");
    fs::write(blobs.join(hex), manifest).expect("a blob");
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.expect("a clock").as_secs();
    let record = format!(
        r#"{{"media_type":"application/vnd.oci.image.manifest.v1+json","size":{},"checked_at":{now}}}"#,
        manifest.len()
    );
    let root = store.join("repositories").join(registry);
    let mut shared = None;
    for number in 0..repositories {
        let project = format!("project-{:03}", number / PER_PROJECT);
        let folder = root.join(project).join(format!("service-{number:06}"));
        let folder = folder.join("_manifests");
        fs::create_dir_all(&folder).expect("a folder");
        let file = folder.join(format!("sha256-{hex}"));
        match &shared {
            Some(shared) if number % PER_PROJECT != 0 => {
                fs::hard_link(shared, file).expect("a record");
            }
            _ => {
                fs::write(&file, &record).expect("a record");
                shared = Some(file);
            }
        }
    }
}
