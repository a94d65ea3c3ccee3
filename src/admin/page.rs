//! The files of the dashboard, embedded in the binary.

use http::{HeaderMap, HeaderValue, header};

/// What the page may load: its own files and the API, no inline script or style, and nothing of another host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the dashboard.
#[derive(Clone, Copy, Debug)]
pub struct PageFile {
    /// The path that it is served on.
    path: &'static str,
    /// Its media type.
    pub kind: &'static str,
    pub bytes: &'static [u8],
}

macro_rules! files {
    ($($path:literal $name:literal $kind:expr;)*) => {
        /// All files of the dashboard.
        const FILES: &[PageFile] = &[$(PageFile {
            path: $path,
            kind: $kind,
            bytes: include_bytes!(concat!("page/", $name)),
        }),*];
    };
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

files! {
    "/" "index.html" HTML;
    "/style.css" "style.css" CSS;
    "/actions.js" "actions.js" SCRIPT;
    "/api.js" "api.js" SCRIPT;
    "/browse.js" "browse.js" SCRIPT;
    "/dom.js" "dom.js" SCRIPT;
    "/explain.js" "explain.js" SCRIPT;
    "/list.js" "list.js" SCRIPT;
    "/log.js" "log.js" SCRIPT;
    "/main.js" "main.js" SCRIPT;
    "/overview.js" "overview.js" SCRIPT;
    "/plot.js" "plot.js" SCRIPT;
}

/// The file that a path is for.
pub fn file(path: &str) -> Option<&'static PageFile> {
    FILES.iter().find(|file| file.path == path)
}

/// Adds the headers of a page.
pub fn secure(headers: &mut HeaderMap) {
    let policy = HeaderValue::from_static(POLICY);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file in the folder is served, and every module that one imports is there.
    #[test]
    fn every_file_is_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/admin/page");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string())
            .map(|name| name.expect("UTF-8").replace("index.html", ""))
            .collect();
        names.sort();
        let mut served: Vec<String> = FILES.iter().map(|file| file.path[1..].to_owned()).collect();
        served.sort();
        assert_eq!(names, served);
        for one in FILES {
            let text = std::str::from_utf8(one.bytes).expect("UTF-8");
            for import in text.split("from \"./").skip(1) {
                let name = import.split('"').next().unwrap_or_default();
                assert!(file(&format!("/{name}")).is_some(), "{name}");
            }
            assert!(!text.contains("innerHTML"), "{}", one.path);
        }
    }
}
