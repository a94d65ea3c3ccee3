//! Bad paths, names, tags, digests and methods.

use super::case::{Case, Expect};

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Paths that another parser reads differently, and invalid repository names: 400 `NAME_INVALID`.
const NAME_INVALID: &[&str] = &[
    // dot segments, in every spelling
    "/..",
    "/../etc/passwd",
    "/v2/..",
    "/v2/../",
    "/v2/../v2/library/app/manifests/latest",
    "/v2/./library/app/manifests/latest",
    "/v2/library/./app/manifests/latest",
    "/v2/library/../app/manifests/latest",
    "/v2/library/app/manifests/..",
    "/v2/library/app/manifests/.",
    "/v2/library/app/blobs/..",
    "/v2/library/app/manifests/latest/..",
    "/v2/library/app/blobs/../../../../etc/passwd",
    "/v2/%2e%2e/library/app/manifests/latest",
    "/v2/%2E%2E/library/app/manifests/latest",
    "/v2/.%2e/library/app/manifests/latest",
    "/v2/%2e./library/app/manifests/latest",
    "/v2/%2e/library/app/manifests/latest",
    "/v2/library/%2e%2e%2fapp/manifests/latest",
    "/v2/library/app/manifests/%2e%2e",
    "/%2e%2e/%2e%2e/etc/passwd",
    // slashes that only some parsers take for slashes
    "/v2/library%2Fapp/manifests/latest",
    "/v2/library%2fapp/manifests/latest",
    "/v2/library/app%2Fmanifests/latest",
    "/v2/library/app/manifests%2Flatest",
    "/v2/library/app/manifests/a%2Fb",
    "/v2%2Flibrary%2Fapp%2Fmanifests%2Flatest",
    "/%2Fv2/library/app/manifests/latest",
    "/v2/library%5Capp/manifests/latest",
    "/v2/library%5capp/manifests/latest",
    "/v2/..%5C..%5Cetc/manifests/latest",
    "/v2/library\\app/manifests/latest",
    // invalid escapes, and escapes that hide another
    "/v2/library/app/manifests/%",
    "/v2/library/app/manifests/%2",
    "/v2/library/app/manifests/%zz",
    "/v2/library/app/manifests/%u002e",
    "/v2/library/app/manifests/100%",
    "/v2/%g0/manifests/latest",
    "/v2/library/app/manifests/%252e%252e",
    "/v2/library%252Fapp/manifests/latest",
    "/v2/%25/manifests/latest",
    "/v2/library/app/blobs/sha256%253A0",
    "/%",
    // bytes that are not UTF-8
    "/v2/library/app/manifests/%ff",
    "/v2/library/app/manifests/%c0%ae",
    "/v2/%c0%af/manifests/latest",
    "/v2/%ed%a0%80/manifests/latest",
    "/v2/%f8%88%80%80%80/manifests/latest",
    "/v2/%80/tags/list",
    "/v2/%e2%82/tags/list",
    "/%fe%ff",
    // control characters beyond ASCII
    "/v2/library/app/manifests/%c2%80",
    "/v2/library/app/manifests/%c2%9f",
    // names
    "/v2/manifests/latest",
    "/v2/tags/list",
    "/v2//tags/list",
    "/v2/blobs/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "/v2/A/manifests/latest",
    "/v2/library/App/manifests/latest",
    "/v2/LIBRARY/app/manifests/latest",
    "/v2/library/app_/manifests/latest",
    "/v2/_app/manifests/latest",
    "/v2/library/-app/manifests/latest",
    "/v2/library/app-/manifests/latest",
    "/v2/.app/manifests/latest",
    "/v2/app./manifests/latest",
    "/v2/a..b/manifests/latest",
    "/v2/a._b/manifests/latest",
    "/v2/a-.b/manifests/latest",
    "/v2/a___b/manifests/latest",
    "/v2/a:b/manifests/latest",
    "/v2/a@b/manifests/latest",
    "/v2/a+b/manifests/latest",
    "/v2/a~b/manifests/latest",
    "/v2/a,b/manifests/latest",
    "/v2/a;b/manifests/latest",
    "/v2/a=b/manifests/latest",
    "/v2/a&b/manifests/latest",
    "/v2/a$b/manifests/latest",
    "/v2/a*b/manifests/latest",
    "/v2/**/manifests/latest",
    "/v2/a!b/manifests/latest",
    "/v2/a'b/manifests/latest",
    "/v2/(a)/manifests/latest",
    "/v2/a%20b/manifests/latest",
    "/v2/%20/manifests/latest",
    "/v2/a%3Fb/manifests/latest",
    "/v2/a%23b/manifests/latest",
    "/v2/%C3%A9/manifests/latest",
    "/v2/%F0%9F%90%B3/manifests/latest",
    "/v2/%EF%BC%8E%EF%BC%8E/manifests/latest",
    "/v2/a%E2%80%8Bb/manifests/latest",
    "/v2/library/app/_/manifests/latest",
    "/v2/_catalog/manifests/latest",
    "/v2/_catalog/tags/list",
    "/v2/A/tags/list",
    "/v2/A/blobs/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "/v2/A/referrers/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "/v2/docker.io/A/manifests/latest",
    "/v2/ghcr.io/A/manifests/latest",
    "/v2/ghcr.io/_/tags/list",
];

/// Paths outside the API: 404 `NAME_UNKNOWN`.
const NAME_UNKNOWN: &[&str] = &[
    "/",
    "//",
    "/favicon.ico",
    "/robots.txt",
    "/index.html",
    "/.well-known/security.txt",
    "/.git/config",
    "/.env",
    "/V2/",
    "/v2x",
    "/v2:",
    "/v2.0/",
    "/v22/",
    "/v0/",
    "/v3/library/app/manifests/latest",
    "/api/v2/library/app/manifests/latest",
    "/v2;x=1/library/app/manifests/latest",
    "/%76%31/_ping",
    "/metrics",
    "/livez",
    "/readyz",
    "/api/v1/purge",
    "/debug/vars",
    "/token",
    "/token?service=roadstead&scope=repository:library/app:pull",
    // no endpoint
    "/v2/a",
    "/v2/library/app",
    "/v2/library/app/",
    "/v2/library/app/manifests",
    "/v2/library/app/manifests/",
    "/v2/library/app/blobs",
    "/v2/library/app/blobs/",
    "/v2/library/app/tags",
    "/v2/library/app/tags/",
    "/v2/library/app/tags/latest",
    "/v2/library/app/tags/list/more",
    "/v2/library/app/tag/list",
    "/v2/library/app/referrers",
    "/v2/library/app/referrers/",
    "/v2/library/app/manifests/latest/more",
    "/v2/library/app/manifest/latest",
    "/v2/library/app/Manifests/latest",
    "/v2/library/app/uploads/",
    "/v2/library/app/blobs/uploads/u/more",
    "/v2/_catalog",
    "/v2/_catalog/",
    "/v2/_catalog?n=5",
    "/v2/_catalog/more",
    "/v2/_ext/discover",
    "/v2/_unknown",
    // namespaces that are not configured: no open proxy
    "/v2/?ns=evil.example",
    "/v2/library/app/manifests/latest?ns=evil.example",
    "/v2/library/app/manifests/latest?ns=127.0.0.1",
    "/v2/library/app/manifests/latest?ns=169.254.169.254",
    "/v2/library/app/manifests/latest?ns=localhost:5000",
    "/v2/library/app/manifests/latest?ns=http://evil.example",
    "/v2/library/app/manifests/latest?ns=DOCKER.IO",
    "/v2/library/app/manifests/latest?ns=docker.io.",
    "/v2/library/app/manifests/latest?ns=docker.io:443",
    "/v2/library/app/manifests/latest?ns=docker.io%20",
    "/v2/library/app/manifests/latest?ns=docker.io@evil.example",
    "/v2/library/app/manifests/latest?ns=docker.io/evil",
    "/v2/library/app/manifests/latest?ns=",
    "/v2/library/app/manifests/latest?ns",
    "/v2/library/app/tags/list?ns=evil.example&n=1",
];

/// Neither 1 to 128 word characters nor a digest: 400 `TAG_INVALID`.
const BAD_TAGS: &[&str] = &[
    ".hidden",
    "-dash",
    "...",
    "--",
    "a+b",
    "a~b",
    "a!b",
    "a@b",
    "@sha256",
    "a*",
    "*",
    "a%20b",
    "%20",
    "a%2Bb",
    "%40",
    "a=b",
    "a&b",
    "a,b",
    "a;b",
    "a$b",
    "a'b",
    "(a)",
    "%C3%A9",
    "a%E2%80%8B",
    "%F0%9F%90%B3",
    "a%3Fb",
    "a%23b",
    "sha256-%3D",
];

/// Invalid digests: 400 `DIGEST_INVALID`. `{h}` is 64 valid hex digits.
const BAD_DIGESTS: &[&str] = &[
    ":",
    "sha256:",
    "sha512:",
    ":{h}",
    "::{h}",
    "sha256:{h}0",
    "sha256:0{h}",
    "sha256:{h}:",
    "sha256:{h}:{h}",
    "sha256::{h}",
    "sha256:{h}{h}",
    "sha512:{h}",
    "sha512:{h}{h}0",
    "sha512:{h}0{h}",
    "sha384:{h}",
    "sha1:0123456789abcdef0123456789abcdef01234567",
    "md5:0123456789abcdef0123456789abcdef",
    "blake3:{h}",
    "sha-256:{h}",
    "sha256+b64:{h}",
    "SHA256:{h}",
    "Sha256:{h}",
    "SHA512:{h}{h}",
    "sha256:0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF",
    "sha256:g123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:-123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:0x23456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:%20123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:%C3%A923456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "sha256:0123",
    "sha256%3A",
    "sha256%3A0123",
    "sha256%3a{h}0",
    "%20sha256:{h}",
    "sha256:{h}%20",
    "sha256 :{h}",
];

/// Tags where only a digest is valid.
const NO_DIGESTS: &[&str] = &[
    "latest",
    "{h}",
    "sha256-{h}",
    "sha256={h}",
    "sha256",
    "%40sha256",
];

/// Endpoints, and the methods other than GET and HEAD that each refuses with 405 `UNSUPPORTED`.
const UNSUPPORTED: &[(&str, &[&str])] = &[
    (
        "/v2/",
        &[
            "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND",
        ],
    ),
    ("/v2", &["POST", "DELETE"]),
    (
        "/v2/library/app/manifests/latest",
        &[
            "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "head", "GETT", "PURGE",
            "LINK", "M-SEARCH", "X",
        ],
    ),
    (
        "/v2/library/app/manifests/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        &["PUT", "DELETE"],
    ),
    (
        "/v2/library/app/blobs/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        &["POST", "PUT", "PATCH", "DELETE", "MOVE"],
    ),
    ("/v2/library/app/tags/list", &["POST", "PUT", "DELETE"]),
    (
        "/v2/library/app/referrers/sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
        &["POST", "DELETE"],
    ),
    (
        "/v2/library/app/blobs/uploads/",
        &["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
    ),
    ("/v2/library/app/blobs/uploads", &["GET", "POST"]),
    (
        "/v2/library/app/blobs/uploads/0f8e4b1c?_state=abc",
        &["GET", "HEAD", "PUT", "PATCH", "DELETE"],
    ),
    (
        "/v2/library/app/blobs/uploads/?mount=sha256:0&from=library/other",
        &["POST"],
    ),
    ("/v2/library/app/blobs/uploads/%3B%3D", &["PATCH"]),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for target in NAME_INVALID {
        cases.push(Case::get(*target, 400, "NAME_INVALID"));
    }
    for target in NAME_UNKNOWN {
        cases.push(Case::get(*target, 404, "NAME_UNKNOWN"));
    }
    for byte in (0..0x20).chain([0x7f]) {
        let target = format!("/v2/library/app/manifests/a%{byte:02x}b");
        cases.push(Case::get(target, 400, "NAME_INVALID"));
    }
    for tag in BAD_TAGS {
        let target = format!("/v2/library/app/manifests/{tag}");
        cases.push(Case::get(target, 400, "TAG_INVALID"));
    }
    for length in [129, 255, 4096, 30_000] {
        let long = "t".repeat(length);
        let target = format!("/v2/library/app/manifests/{long}");
        cases.push(Case::get(target, 400, "TAG_INVALID"));
        let target = format!("/v2/{long}{long}/manifests/latest");
        cases.push(Case::get(target, 400, "NAME_INVALID"));
        let target = format!("/v2/{}tags/list", "n/".repeat(length));
        cases.push(Case::get(target, 400, "NAME_INVALID"));
        let target = format!("/v2/library/app/blobs/sha256:{}", "a".repeat(length));
        cases.push(Case::get(target, 400, "DIGEST_INVALID"));
    }
    for digest in BAD_DIGESTS {
        // A raw space would end the request target.
        let digest = digest.replace("{h}", HEX).replace(' ', "+");
        for endpoint in ["blobs", "manifests"] {
            let target = format!("/v2/library/app/{endpoint}/{digest}");
            cases.push(Case::get(target, 400, "DIGEST_INVALID"));
        }
    }
    for digest in NO_DIGESTS {
        let digest = digest.replace("{h}", HEX);
        for endpoint in ["blobs", "referrers"] {
            let target = format!("/v2/library/app/{endpoint}/{digest}");
            cases.push(Case::get(target, 400, "DIGEST_INVALID"));
        }
    }
    for (target, methods) in UNSUPPORTED {
        for method in *methods {
            let refused = Expect::Error(405, "UNSUPPORTED");
            cases.push(Case::new(method, *target, refused));
        }
    }
    // HEAD: the same, without a body.
    for (target, status, code) in [
        ("/", 404, "NAME_UNKNOWN"),
        ("/v2/?ns=evil.example", 404, "NAME_UNKNOWN"),
        ("/v2/_catalog", 404, "NAME_UNKNOWN"),
        ("/v2/A/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/../manifests/latest", 400, "NAME_INVALID"),
        ("/v2/library/app/manifests/-", 400, "TAG_INVALID"),
        ("/v2/library/app/blobs/sha256:0", 400, "DIGEST_INVALID"),
        (
            "/v2/library/app/tags/list?n=x",
            400,
            "PAGINATION_NUMBER_INVALID",
        ),
        ("/v2/library/app/tags/list?n=1&n=1", 400, "NAME_INVALID"),
    ] {
        cases.push(Case::new("HEAD", target, Expect::Error(status, code)));
    }
    cases
}
