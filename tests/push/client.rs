//! A pushing client, over h1 or h2.

use serde_json::{Value, json};
use testkit::gateway::Gateway;
use testkit::http::{Web, block_on};
use testkit::origin::MEDIA_MANIFEST;
use testkit::sha256;

/// One client: a request with a body, over h1 or h2.
pub(super) struct Pusher {
    pub(super) web: Web,
    pub(super) base: String,
}

impl Pusher {
    /// Over TLS; h1 sends chunks unless a length is given.
    pub(super) fn all(gateway: &Gateway) -> [(&'static str, Self); 2] {
        let ca = gateway.ca_path();
        let base = gateway.url(0).to_owned();
        [("h1", Web::h1(Some(&ca))), ("h2", Web::h2(Some(&ca)))].map(|(name, web)| {
            let base = base.clone();
            (name, Self { web, base })
        })
    }

    pub(super) fn url(&self, path: &str) -> String {
        if path.starts_with("http") {
            path.to_owned()
        } else {
            format!("{}{path}", self.base)
        }
    }

    /// A request without a body.
    pub(super) fn ask(&self, method: &str, path: &str) -> Answer {
        self.send(method, path, &[], None::<Vec<u8>>)
    }

    /// A request with an announced length.
    pub(super) fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Answer {
        self.request(method, path, headers, body.map(reqwest::Body::from))
    }

    /// A request without an announced length: chunks, or frames.
    pub(super) fn stream(&self, method: &str, path: &str, pieces: Vec<Vec<u8>>) -> Answer {
        let pieces = pieces.into_iter().map(Ok::<_, std::io::Error>);
        let body = reqwest::Body::wrap_stream(futures_util::stream::iter(pieces));
        self.request(method, path, &[], Some(body))
    }

    pub(super) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<reqwest::Body>,
    ) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.web.client().request(method, self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        block_on(async {
            let response = request.send().await.expect("an answer");
            Answer {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: response.bytes().await.expect("a body").to_vec(),
            }
        })
    }

    /// Begins an upload; returns its location.
    pub(super) fn begin(&self, repository: &str) -> String {
        let begun = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"));
        assert_eq!(begun.status, 202, "{begun:?}");
        begun.location(&self.base)
    }

    /// Pushes a blob in one piece.
    pub(super) fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let location = self.begin(repository);
        let put = with(&location, "digest", &digest);
        let done = self.send("PUT", &put, &[], Some(bytes.to_vec()));
        assert_eq!(done.status, 201, "{done:?}");
        digest
    }

    /// Pushes an image of one layer; returns its manifest.
    pub(super) fn image(&self, repository: &str, tag: &str, layer: &[u8]) -> Vec<u8> {
        let config = json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(layer)]}});
        let config = config.to_string().into_bytes();
        for bytes in [&config[..], layer] {
            self.blob(repository, bytes);
        }
        let descriptor = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": sha256(bytes), "size": bytes.len()});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let path = format!("/v2/{repository}/manifests/{tag}");
        let put = self.send(
            "PUT",
            &path,
            &[("Content-Type", MEDIA_MANIFEST)],
            Some(manifest.clone()),
        );
        assert_eq!(put.status, 201, "{put:?}");
        assert_eq!(
            put.header("docker-content-digest"),
            Some(sha256(&manifest).as_str())
        );
        manifest
    }
}

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The absolute URL of `Location`, which is at the gateway.
    #[track_caller]
    pub(super) fn location(&self, base: &str) -> String {
        let location = self.header("location").expect("a Location").to_owned();
        assert!(
            location.starts_with(base),
            "{location} does not begin with {base}"
        );
        location
    }

    pub(super) fn code(&self) -> Option<String> {
        let body: Value = serde_json::from_slice(&self.body).ok()?;
        Some(body["errors"][0]["code"].as_str()?.to_owned())
    }
}

pub(super) fn with(location: &str, key: &str, value: &str) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}{key}={value}")
}
