//! Requests that the gateway and the registry could read differently.

use crate::uploads::{Place, push};
use testkit::http::Web;
use testkit::image::random;
use testkit::origin::{Fault, Origin};
use testkit::real::{Registry, found};
use testkit::sha256;

const BOUNDARY: &str = "multipart/form-data; boundary=x";

/// A form that requests a mount.
fn form(digest: &str) -> Vec<u8> {
    let part = |name: &str, value: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    format!(
        "{}{}--x--\r\n",
        part("mount", digest),
        part("from", "secret/app")
    )
    .into_bytes()
}

#[test]
fn form_mount_requires_pull_on_its_source() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let secret = random(1, 10_000);
    let digest = push(&registry.url(), None, "secret/app", &secret);
    let place = Place::of(&registry.url());
    let uploads = "/v2/mine/a/blobs/uploads/";
    let body = form(&digest);
    for kinds in [
        &[BOUNDARY][..],
        &["Multipart/Form-Data;boundary=\"x\""],
        &[" multipart/form-data ; boundary=x"],
        &["multipart/mixed; boundary=x"],
        &["application/octet-stream", BOUNDARY],
        &[BOUNDARY, "application/octet-stream"],
        &["application/octet-stream, multipart/form-data; boundary=x"],
        &["application/x-www-form-urlencoded"],
        &["APPLICATION/X-WWW-FORM-URLENCODED; charset=utf-8"],
        &["multipart"],
        &["text/plain"],
    ] {
        let headers: Vec<_> = kinds.iter().map(|kind| ("Content-Type", *kind)).collect();
        for (method, path) in [
            ("POST", uploads),
            ("PATCH", "/v2/mine/a/blobs/uploads/u"),
            ("PUT", "/v2/mine/a/blobs/uploads/u"),
        ] {
            let refused = place.send("pusher", method, path, &headers, &body);
            assert_eq!(refused.status(), 415, "{method} {kinds:?} {refused:?}");
        }
        let blob = format!("/v2/mine/a/blobs/{digest}");
        assert_eq!(place.get("pusher", &blob).status(), 404, "{kinds:?}");
    }
    let put = [("Content-Type", BOUNDARY)];
    let refused = place.send("pusher", "PUT", "/v2/mine/a/manifests/x", &put, &body);
    assert_eq!(refused.status(), 415, "a manifest is no form either");
    // The content types that clients really send begin an upload.
    for kind in [
        "",
        "application/octet-stream",
        "Application/Octet-Stream; charset=binary",
        "application/json",
        "application/vnd.oci.image.layer.v1.tar+gzip",
    ] {
        let begun = place.send("pusher", "POST", uploads, &[("Content-Type", kind)], b"");
        assert_eq!(begun.status(), 202, "{kind} {begun:?}");
    }
}

#[test]
fn form_mount_over_http2_requires_pull_on_its_source() {
    let origin = Origin::start();
    let place = Place::of(&origin.url());
    let web = Web::h2(Some(&place.gateway.ca_path()));
    let url = format!("{}/v2/mine/a/blobs/uploads/", place.gateway.url(0));
    let login = testkit::basic("pusher", "s3cret");
    for kinds in [
        &[BOUNDARY][..],
        &["application/octet-stream", "multipart/form-data"],
    ] {
        let mut headers = vec![("authorization", &*login)];
        headers.extend(kinds.iter().map(|kind| ("content-type", *kind)));
        let refused = web.fetch("POST", &url, &headers);
        assert_eq!(refused.status, 415, "{kinds:?}");
    }
    assert_eq!(origin.count("POST", "*"), 0);
}

#[test]
fn mount_with_digest_creates_no_link() {
    let Some(registry) = found(Registry::start()) else {
        return;
    };
    let place = Place::of(&registry.url());
    let secret = push(&registry.url(), None, "secret/app", &random(1, 10_000));
    // It is in the cache, pulled by a user who may read it.
    let path = format!("/v2/secret/app/blobs/{secret}");
    assert_eq!(place.get("reader", &path).status(), 200);
    let own = place.push("mine/b", b"own");
    let escaped = secret.replace(':', "%3A");
    for query in [
        format!("mount={own}&from=mine/b&digest={secret}"),
        format!("digest={secret}&from=mine/b&mount={own}"),
        format!("mount={own}&from=mine/b&%64igest={escaped}"),
        format!("mount={own}&from=mine/b&digest={secret}&ns=hosted"),
        format!("mount={own}&digest={secret}"),
        format!("mount={own}&from=mine/b&DIGEST={secret}"),
        format!("mount={own}&from=mine/b;digest={secret}"),
        format!("mount={own};digest={secret}&from=mine/b"),
        format!("mount={own}&MOUNT={secret}&from=mine/b"),
        format!("mount={own}&from=mine/b&FROM=secret/app"),
        format!("mount={own}&from=mine/b&%46rom=secret/app"),
        format!("mount={own}&mount={secret}&from=mine/b"),
        format!("mount={own}&from=mine/b&from=secret/app"),
        format!("mount={own}&from=mine/b&other=1"),
        "other=1".to_owned(),
        format!("Digest={secret}"),
    ] {
        let path = format!("/v2/mine/c/blobs/uploads/?{query}");
        let refused = place.send("pusher", "POST", &path, &[], b"");
        assert_eq!(refused.status(), 400, "{query} {refused:?}");
        let blob = format!("/v2/mine/c/blobs/{secret}");
        assert_eq!(place.get("pusher", &blob).status(), 404, "{query}");
    }
    let path = format!("/v2/mine/c/blobs/uploads/?mount={own}&from=mine/b");
    let mounted = place.send("pusher", "POST", &path, &[], b"");
    assert_eq!(mounted.status(), 201, "{mounted:?}");
    let blob = place.get("pusher", &format!("/v2/mine/c/blobs/{own}"));
    assert_eq!((blob.status(), &blob.body[..]), (200, &b"own"[..]));
}

/// A finished upload links the digest that the response names and its sender requested, or nothing.
#[test]
fn only_the_digest_in_the_response_is_linked() {
    let origin = Origin::start();
    let place = Place::of(&origin.url());
    let bytes = random(1, 1000);
    let (digest, other) = (sha256(&bytes), sha256(b"other"));
    // In the cache, and linked in mine/b only.
    origin.push_blob("mine/b", bytes);
    let held = place.get("pusher", &format!("/v2/mine/b/blobs/{digest}"));
    assert_eq!(held.status(), 200);
    let at = |name: &str, digest: &str| format!("/v2/{name}/blobs/{digest}");
    for (index, (query, named, location, learnt)) in [
        (format!("digest={digest}"), Some(&digest), None, true),
        (format!("digest={digest}"), None, Some(&digest), true),
        (
            format!("digest={digest}"),
            Some(&digest),
            Some(&digest),
            true,
        ),
        (format!("digest={digest}"), Some(&other), None, false),
        (format!("digest={digest}"), None, Some(&other), false),
        (
            format!("digest={digest}"),
            Some(&digest),
            Some(&other),
            false,
        ),
        (format!("digest={digest}"), None, None, false),
        (
            format!("digest={other}"),
            Some(&digest),
            Some(&digest),
            false,
        ),
        (String::new(), Some(&digest), Some(&digest), false),
        (
            format!("_state=x&digest={digest}"),
            Some(&digest),
            None,
            true,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        for (method, upload) in [("PUT", "u"), ("POST", "")] {
            if method == "POST" && query.starts_with('_') {
                continue;
            }
            let name = format!("mine/{method}{index}").to_lowercase();
            let mut headers: Vec<(String, String)> = Vec::new();
            if let Some(named) = named {
                headers.push(("Docker-Content-Digest".into(), named.clone()));
            }
            let location = location.map(|digest| at(&name, digest));
            let location = location.unwrap_or_else(|| format!("/v2/{name}/blobs/uploads/u"));
            headers.push(("Location".into(), location));
            let fault = origin.fault(Fault::Status(201, headers).on(method, "*"));
            let path = format!("/v2/{name}/blobs/uploads/{upload}?{query}");
            let done = place.send("pusher", method, &path, &[], b"");
            assert_eq!(done.status(), 201, "{method} {query} {done:?}");
            origin.heal(fault);
            let known = place.get("pusher", &at(&name, &digest)).status() == 200;
            assert_eq!(known, learnt, "{method} {query} {named:?} #{index}");
        }
    }
}

/// An upload's own query is forwarded unchanged, but must not contradict the parsed parameters.
#[test]
fn ambiguous_upload_queries_are_refused() {
    let origin = Origin::start();
    let place = Place::of(&origin.url());
    origin.fault(Fault::status(202).on("PATCH", "*"));
    let (one, two) = (sha256(b"1"), sha256(b"2"));
    let path = "/v2/mine/a/blobs/uploads/u";
    for query in [
        format!("digest={one}&digest={two}"),
        format!("digest={one}&Digest={two}"),
        format!("_state=x;digest={two}&digest={one}"),
        format!("mount={one}&from=secret/app"),
        "from=secret/app".to_owned(),
        format!("MOUNT={one}"),
        format!("DIGEST={one}"),
        "digest=sha256:1".to_owned(),
    ] {
        for method in ["PUT", "PATCH"] {
            let refused = place.send("pusher", method, &format!("{path}?{query}"), &[], b"");
            assert_eq!(refused.status(), 400, "{method} {query}");
        }
    }
    assert_eq!(origin.count("P*", "*"), 0);
    let state = "_state=a%2bB-_~==&x=%41+b";
    let target = format!("{path}?{state}&ns=hosted");
    let patched = place.send("pusher", "PATCH", &target, &[], b"");
    assert_eq!(patched.status(), 202);
    assert_eq!(origin.requests_for("PATCH", "*")[0].query, state);
}

/// More pairs than any client sends are refused before they are compared.
#[test]
fn queries_with_many_pairs_are_refused() {
    let origin = Origin::start();
    let place = Place::of(&origin.url());
    for path in [
        "/v2/mine/a/tags/list",
        "/v2/mine/a/blobs/uploads/u",
        "/v2/_catalog",
        "/v2/",
        "/v1/search",
        "/token",
    ] {
        let query = |n: usize| -> String {
            let pairs: Vec<String> = (0..n).map(|i| format!("k{i}=1")).collect();
            pairs.join("&")
        };
        let reply = place.get("pusher", &format!("{path}?{}", query(33)));
        assert_eq!(reply.status(), 400, "{path} {reply:?}");
        let reply = place.get("pusher", &format!("{path}?{}", query(32)));
        assert_ne!(reply.status(), 400, "{path} {reply:?}");
    }
}
