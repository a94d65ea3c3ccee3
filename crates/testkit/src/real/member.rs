//! Clients as users of one registry: they log in, pull, push and delete there.
//!
//! Names are without the host, as in `team/app:1`. Images to push are
//! skopeo references, as in `oci:DIR:TAG`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::{offline, run};
use crate::http::{Raw, Reply};
use crate::{basic, sha256};

/// A name and password, right or wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account<'a> {
    /// The user name.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
}

impl Account<'_> {
    /// The file in which Docker and related clients store logins.
    pub fn file(account: Option<Self>, authority: &str) -> String {
        let login = account.map(|it| basic(it.user, it.password));
        let login = login.as_deref().and_then(|it| it.strip_prefix("Basic "));
        match login {
            None => json!({"auths": {}}).to_string(),
            Some(login) => json!({"auths": {authority: {"auth": login}}}).to_string(),
        }
    }
}

/// A client that may have an account at its registry. Errors are the client's own output.
pub trait Member {
    /// Logs in; `None` for a client that has no such command.
    fn log_in(&mut self, account: Account<'_>) -> Option<Result<(), String>>;
    /// Sets or removes the stored login, without asking the registry.
    fn be(&mut self, account: Option<Account<'_>>);
    /// Pulls an image after removing it locally; returns the digest of its manifest.
    fn pull(&mut self, name: &str) -> Result<String, String>;
    /// Pushes an image; returns the digest of its manifest there, since some clients rewrite it.
    fn push(&mut self, image: &str, name: &str) -> Result<String, String>;
    /// Deletes an image; `None` for a client that cannot.
    fn delete(&mut self, name: &str) -> Option<Result<(), String>>;
}

/// A file in `dir` with this image under `name`, of a kind that skopeo writes.
pub fn archive(image: &str, kind: &str, dir: &Path, name: &str) -> Result<String, String> {
    let file = dir.join("image.tar");
    let _ = std::fs::remove_file(&file);
    let file = file.display().to_string();
    let mut skopeo = offline("skopeo", dir).map_err(|missing| missing.to_string())?;
    skopeo.args(["--insecure-policy", "copy", "--quiet", image]);
    skopeo.arg(format!("{kind}:{file}:{name}"));
    run(&mut skopeo)?;
    Ok(file)
}

/// Plain HTTP requests, as scripts send them: the password with every request, no tokens.
pub struct RawMember {
    authority: String,
    ca: PathBuf,
    login: Option<String>,
}

impl RawMember {
    /// For the registry at `127.0.0.1:PORT`.
    pub fn new(authority: &str, ca: &Path) -> Self {
        Self {
            authority: authority.to_owned(),
            ca: ca.to_owned(),
            login: None,
        }
    }

    /// Sends one request; an error unless it succeeds.
    pub fn ask(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Reply, String> {
        let length = body.map(|body| body.len().to_string());
        let mut headers = vec![
            ("Host", self.authority.as_str()),
            (
                "Accept",
                "application/vnd.oci.image.manifest.v1+json, \
                 application/vnd.docker.distribution.manifest.v2+json",
            ),
        ];
        headers.extend(self.login.as_deref().map(|it| ("Authorization", it)));
        if let Some(length) = &length {
            headers.push(("Content-Type", "application/vnd.oci.image.manifest.v1+json"));
            headers.push(("Content-Length", length));
        }
        let url = format!("https://{}", self.authority);
        let mut raw = Raw::connect(&url, Some(&self.ca));
        raw.request(method, path, &headers);
        if let Some(body) = body {
            raw.send(body);
        }
        let reply = raw.reply(method);
        if (200..300).contains(&reply.status()) {
            return Ok(reply);
        }
        Err(format!("{} {}", reply.status(), reply.text()))
    }

    fn manifest(&self, name: &str) -> Result<Vec<u8>, String> {
        Ok(self.ask("GET", &path(name), None)?.body)
    }
}

fn path(name: &str) -> String {
    let (repository, tag) = name.rsplit_once(':').expect("a tag");
    format!("/v2/{repository}/manifests/{tag}")
}

impl Member for RawMember {
    fn log_in(&mut self, account: Account<'_>) -> Option<Result<(), String>> {
        self.be(Some(account));
        Some(self.ask("GET", "/v2/", None).map(|_| ()))
    }

    fn be(&mut self, account: Option<Account<'_>>) {
        self.login = account.map(|it| basic(it.user, it.password));
    }

    fn pull(&mut self, name: &str) -> Result<String, String> {
        self.manifest(name).map(|manifest| sha256(&manifest))
    }

    /// Uploads only a manifest, with another annotation: its blobs are there from an earlier push.
    fn push(&mut self, image: &str, name: &str) -> Result<String, String> {
        let mut manifest = match self.manifest(name) {
            Ok(manifest) => serde_json::from_slice(&manifest).expect("JSON"),
            // Without the right to read it tries all the same.
            Err(_) => json!({"schemaVersion": 2}),
        };
        manifest["annotations"] = json!({"pushed": image});
        let manifest = manifest.to_string().into_bytes();
        self.ask("PUT", &path(name), Some(&manifest))?;
        Ok(sha256(&manifest))
    }

    fn delete(&mut self, name: &str) -> Option<Result<(), String>> {
        let digest = match self.manifest(name) {
            Ok(manifest) => sha256(&manifest),
            Err(_) => sha256(b"whatever"),
        };
        let (repository, _) = name.rsplit_once(':').expect("a tag");
        let path = format!("/v2/{repository}/manifests/{digest}");
        Some(self.ask("DELETE", &path, None).map(|_| ()))
    }
}
