//! Signs as cosign does, with openssl, so that the signatures are not ours.

use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;

use super::*;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";

/// A key pair in a folder of its own.
pub struct Signer {
    dir: tempfile::TempDir,
}

impl Signer {
    pub fn new() -> Self {
        let signer = Self {
            dir: testkit::temp_dir(),
        };
        signer.openssl(&[
            "ecparam",
            "-genkey",
            "-name",
            "prime256v1",
            "-noout",
            "-out",
            "key",
        ]);
        signer.openssl(&["ec", "-in", "key", "-pubout", "-out", "cosign.pub"]);
        signer
    }

    /// The public key.
    pub fn public(&self) -> PathBuf {
        self.dir.path().join("cosign.pub")
    }

    /// `signed_by` with this key.
    pub fn gate(&self) -> String {
        format!("signed_by: [\"{}\"]", self.public().display())
    }

    fn openssl(&self, arguments: &[&str]) {
        let mut openssl = Command::new("openssl");
        let output = openssl
            .args(arguments)
            .current_dir(self.dir.path())
            .output();
        let output = output.expect("openssl, which tests need");
        assert!(output.status.success(), "{output:?}");
    }

    /// The layers of a signature manifest: the payload for a digest, and its descriptor.
    pub fn layer(&self, repository: &str, digest: &str) -> (Vec<u8>, Value) {
        let payload = json!({
            "critical": {
                "identity": {"docker-reference": format!("docker.io/{repository}")},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        std::fs::write(self.dir.path().join("payload"), &payload).expect("writable");
        self.openssl(&[
            "dgst",
            "-sha256",
            "-sign",
            "key",
            "-out",
            "signature",
            "payload",
        ]);
        let signature = std::fs::read(self.dir.path().join("signature")).expect("a signature");
        let blob = (testkit::sha256(&payload), payload.clone().into());
        let mut layer = descriptor(PAYLOAD, &blob);
        let signature = base64::engine::general_purpose::STANDARD.encode(signature);
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        (payload, layer)
    }

    /// Pushes the signature of an image to cosign's tag of `subject`, which is the image's digest unless a test lies.
    pub fn sign_as(&self, origin: &Origin, image: &Image, subject: &str) -> Image {
        let tag = format!("{}.sig", subject.replacen(':', "-", 1));
        self.push(origin, image, &tag, None)
    }

    /// Pushes the signature of an image to cosign's tag.
    pub fn sign(&self, origin: &Origin, image: &Image) -> Image {
        self.sign_as(origin, image, &image.digest)
    }

    /// Pushes the signature of an image as its referrer.
    pub fn refer(&self, origin: &Origin, image: &Image) -> Image {
        let subject = (image.digest.clone(), image.manifest.clone());
        let subject = descriptor(&image.media_type, &subject);
        self.push(origin, image, "", Some(subject))
    }

    fn push(&self, origin: &Origin, image: &Image, tag: &str, subject: Option<Value>) -> Image {
        let repository = &image.repository;
        let (payload, layer) = self.layer(repository, &image.digest);
        let config = json!({"os": "", "architecture": "", "rootfs": {"type": "layers"}});
        let blobs = [config.to_string().into_bytes(), payload];
        let blobs = blobs.map(|bytes| (origin.push_blob(repository, bytes.clone()), bytes.into()));
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": descriptor(MEDIA_CONFIG, &blobs[0]),
            "layers": [layer],
        });
        if let Some(subject) = subject {
            manifest["subject"] = subject;
            manifest["artifactType"] = json!(ARTIFACT);
        }
        push_json(
            origin,
            repository,
            tag,
            MEDIA_MANIFEST,
            &manifest,
            blobs.to_vec(),
        )
    }
}
