//! Uploads through a gateway whose users have different rights: no request may read, mount or store anything beyond the
//! rights that it was checked for, however leniently the registry behind parses it.

mod automatic_mount;
mod headers;
mod lists;
mod more_tags;
mod names;
mod public_mounts;
mod smuggling;

use testkit::gateway::Gateway;
use testkit::http::{Raw, Reply};
use testkit::{basic, sha256};

/// `reader` and `pusher`, both with the password `s3cret` (cost 4).
const USERS: &str = "reader:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n\
                     pusher:$2y$04$pBUf/20PcpRTtmd.SkU62uaP3dptXERWwxhXok0weRZuYhdHaKsnC\n";

/// `pusher` may use `mine/**` only, `reader` may read everything.
const RULES: &str = "  rules:
  - {users: [pusher], repositories: [\"hosted/mine/**\"], actions: [pull, push, delete]}
  - {users: [reader], repositories: [\"**\"], actions: [pull]}
";

/// A gateway in front of a registry, with two users.
struct Place {
    gateway: Gateway,
    _users: tempfile::TempDir,
}

impl Place {
    fn of(v2: &str) -> Self {
        let users = tempfile::tempdir().expect("a folder");
        let path = users.path().join("users");
        std::fs::write(&path, USERS).expect("writable");
        let gateway = Gateway::start(&format!(
            "registries: [{{name: hosted, v2: \"{v2}\", push: true}}]\naccess:\n  htpasswd: {}\n{RULES}",
            path.display()
        ));
        Self {
            gateway,
            _users: users,
        }
    }

    /// A request with a body by a user.
    fn send(
        &self,
        user: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        send(self.gateway.url(1), Some(user), method, path, headers, body)
    }

    fn get(&self, user: &str, path: &str) -> Reply {
        self.send(user, "GET", path, &[], b"")
    }

    /// Pushes a blob through the gateway as `pusher`.
    fn push(&self, repository: &str, bytes: &[u8]) -> String {
        push(self.gateway.url(1), Some("pusher"), repository, bytes)
    }
}

fn send(
    url: &str,
    user: Option<&str>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    let authorization = user.map(|user| basic(user, "s3cret"));
    let length = body.len().to_string();
    let mut all = headers.to_vec();
    if let Some(authorization) = &authorization {
        all.push(("Authorization", authorization));
    }
    if method != "GET" && method != "HEAD" {
        all.push(("Content-Length", &length));
    }
    let mut raw = Raw::connect(url, None);
    raw.request(method, path, &all);
    raw.send(body);
    raw.reply(method)
}

/// Pushes a blob in one PUT; returns its digest.
fn push(url: &str, user: Option<&str>, repository: &str, bytes: &[u8]) -> String {
    let digest = sha256(bytes);
    let uploads = format!("/v2/{repository}/blobs/uploads/");
    let begun = send(url, user, "POST", &uploads, &[], b"");
    assert_eq!(begun.status(), 202, "{begun:?}");
    let location = begun.header("location").expect("a Location");
    let path = &location[location.find("/v2/").expect("a path")..];
    let separator = if path.contains('?') { '&' } else { '?' };
    let path = format!("{path}{separator}digest={digest}");
    let done = send(url, user, "PUT", &path, &[], bytes);
    assert_eq!(done.status(), 201, "{done:?}");
    digest
}
