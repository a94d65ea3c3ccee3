//! Pushes: streamed bodies, locations at the gateway, rights checked before bodies, and a cache that follows writes.
//! The registry behind is a real one where its behaviour matters.

mod bodies;
mod client;
mod locations;
mod rights;
mod upload_methods;

use client::{Pusher, with};
use testkit::gateway::Gateway;
use testkit::http::get;
use testkit::image::{Layout, random};
use testkit::origin::{Fault, MEDIA_MANIFEST, Origin};
use testkit::real::{Missing, Registry, found, program, run};
use testkit::{process, sha256};

/// All clients may do everything.
const ANYTHING: &str = "access: {rules: [{users: [anonymous], repositories: [\"**\"], actions: [pull, push, delete]}]}\n";

fn gateway(v2: &str, more: &str) -> Gateway {
    Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{v2}\", push: true}}]\n{ANYTHING}{more}"
    ))
}

/// A real registry behind a gateway.
fn real(more: &str) -> Option<(Registry, Gateway)> {
    let registry = found(Registry::start())?;
    let gateway = gateway(&registry.url(), more);
    Some((registry, gateway))
}

#[test]
fn blob_mounts() {
    let Some((registry, gateway)) = real("") else {
        return;
    };
    for (version, client) in Pusher::all(&gateway) {
        let (base, app) = (
            format!("team/base-{version}"),
            format!("hosted/team/app-{version}"),
        );
        let digest = client.blob(&base, &random(3, 100_000));
        let mounted = client.ask(
            "POST",
            &format!("/v2/{app}/blobs/uploads/?mount={digest}&from={base}"),
        );
        assert_eq!(mounted.status, 201, "{version} {mounted:?}");
        assert_eq!(
            mounted.location(&client.base),
            client.url(&format!("/v2/{app}/blobs/{digest}"))
        );
        // It is linked at once: served by the gateway and the registry.
        assert_eq!(
            client
                .ask("GET", &format!("/v2/{app}/blobs/{digest}"))
                .status,
            200
        );
        let direct = format!("/v2/team/app-{version}/blobs/{digest}");
        assert_eq!(get(&registry.url(), None, &direct).status(), 200);
        // Without `from` the source is found by the cache's links, or it becomes an upload.
        let other = format!("/v2/team/other-{version}/blobs/uploads/?mount=");
        assert_eq!(client.ask("POST", &format!("{other}{digest}")).status, 201);
        let unknown = sha256(b"no registry has this");
        assert_eq!(client.ask("POST", &format!("{other}{unknown}")).status, 202);
    }
}

#[test]
fn pull_after_push_returns_the_pushed_content() {
    let Some((registry, gateway)) = real("store: {missing_ttl: 60s, tag_ttl: 1h}\n") else {
        return;
    };
    // The tag would be fresh for an hour, and its absence for a minute.
    let yaml = format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, tag_ttl: 1h, missing_ttl: 60s}}]\n{ANYTHING}",
        registry.url()
    );
    drop(gateway);
    let gateway = Gateway::start(&yaml);
    for (version, client) in Pusher::all(&gateway) {
        let repository = format!("team/{version}");
        let path = format!("/v2/{repository}/manifests/latest");
        let tags = format!("/v2/{repository}/tags/list");
        assert_eq!(client.ask("GET", &path).status, 404);
        assert_eq!(client.ask("GET", &tags).status, 404);
        let first = client.image(&repository, "latest", &random(1, 200_000));
        let pulled = client.ask("GET", &path);
        assert!(pulled.body == first, "{version}");
        assert!(
            pulled
                .header("cache-status")
                .is_some_and(|it| it.starts_with("roadstead; hit")),
            "{pulled:?}"
        );
        assert_eq!(pulled.header("content-type"), Some(MEDIA_MANIFEST));
        assert_eq!(client.ask("GET", &tags).body, client.ask("GET", &tags).body);
        let second = client.image(&repository, "latest", &random(2, 200_000));
        assert!(client.ask("GET", &path).body == second, "{version}");
        client.image(&repository, "other", &random(3, 1000));
        let listed = client.ask("GET", &tags);
        assert!(
            String::from_utf8_lossy(&listed.body).contains("\"other\""),
            "{listed:?}"
        );
        // A deleted manifest is gone, with all its tags.
        let digest = sha256(&second);
        client.send(
            "PUT",
            &format!("/v2/{repository}/manifests/twin"),
            &[("Content-Type", MEDIA_MANIFEST)],
            Some(second.clone()),
        );
        assert!(
            client
                .ask("GET", &format!("/v2/{repository}/manifests/twin"))
                .body
                == second
        );
        let deleted = client.ask("DELETE", &format!("/v2/{repository}/manifests/{digest}"));
        assert_eq!(deleted.status, 202, "{deleted:?}");
        for reference in ["latest", "twin", &digest] {
            let gone = client.ask("GET", &format!("/v2/{repository}/manifests/{reference}"));
            assert_eq!(gone.status, 404, "{version} {reference}");
        }
        let layer = sha256(&random(2, 200_000));
        let blob = format!("/v2/{repository}/blobs/{layer}");
        assert_eq!(client.ask("GET", &blob).status, 200);
        assert_eq!(client.ask("DELETE", &blob).status, 202);
        assert_eq!(client.ask("GET", &blob).status, 404);
    }
}

#[test]
fn push_with_unknown_outcome_is_revalidated() {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 1000)]);
    let yaml = format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, tag_ttl: 1h}}]\n{ANYTHING}",
        origin.url()
    );
    let gateway = Gateway::start(&yaml);
    let [(_, client), _] = Pusher::all(&gateway);
    let tag = image.tag_path();
    for lost in [Fault::status(500), Fault::Hangup] {
        let heads = origin.count("HEAD", &tag);
        client.ask("GET", &tag);
        client.ask("GET", &tag);
        let fresh = origin.count("HEAD", &tag);
        assert!(fresh <= heads + 1, "the tag is cached");
        let fault = origin.fault(lost.on("PUT", "*"));
        let put = client.send(
            "PUT",
            &tag,
            &[("Content-Type", MEDIA_MANIFEST)],
            Some(image.manifest.to_vec()),
        );
        assert!(put.status >= 500, "{put:?}");
        origin.heal(fault);
        testkit::until("the tag is asked for again", || {
            client.ask("GET", &tag);
            origin.count("HEAD", &tag) > fresh
        });
    }
}

#[test]
fn registry_without_cache_is_only_routed() {
    let origin = Origin::start();
    let image = origin.push_image("team/app", "latest", &[random(1, 300_000)]);
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", cache: false}}]\n",
        origin.url()
    ));
    for (version, client) in Pusher::all(&gateway) {
        for _ in 0..2 {
            let blob = client.ask("GET", &image.layer_path(0));
            assert!(blob.body == image.layer(0).1, "{version}");
            assert_eq!(blob.header("cache-status"), Some("roadstead; fwd=bypass"));
            let part = client.send("GET", &image.layer_path(0), &[("Range", "bytes=5-9")], None);
            assert_eq!(
                (part.status, part.header("content-range")),
                (206, Some("bytes 5-9/300000"))
            );
            assert!(part.body == image.layer(0).1[5..10]);
            assert!(client.ask("GET", &image.tag_path()).body == image.manifest);
            assert_eq!(
                client
                    .ask("GET", "/v2/team/none/manifests/x")
                    .code()
                    .as_deref(),
                Some("NAME_UNKNOWN")
            );
        }
    }
    assert_eq!(origin.count("GET", &image.layer_path(0)), 8);
    let blobs = std::fs::read_dir(gateway.store().join("blobs")).expect("a folder");
    assert_eq!(blobs.count(), 0);
    // A body that the upstream cuts off is cut off for the client.
    origin.fault(Fault::TruncateAt(1000).on("GET", "*/blobs/*"));
    let cut = get(gateway.url(1), None, &image.layer_path(0));
    assert!(!cut.is_complete() && cut.body.len() == 1000);
}

/// Proxies in front of a registry answer in HTML; clients get the specification's JSON, and HEADs its length.
#[test]
fn forwarded_errors_are_never_html() {
    let origin = Origin::start();
    let gateway = Gateway::start(&format!(
        "registries: [{{name: hosted, v2: \"{}\", push: true, cache: false}}]\n{ANYTHING}",
        origin.url()
    ));
    for (version, client) in Pusher::all(&gateway) {
        for (status, code) in [
            (403, "DENIED"),
            (404, "NAME_UNKNOWN"),
            (413, "SIZE_INVALID"),
            (429, "TOOMANYREQUESTS"),
            (500, "UNKNOWN"),
            (503, "UNAVAILABLE"),
        ] {
            let fault = origin.fault(Fault::status_with(status, "Retry-After", "7"));
            let html = origin.fault(Fault::header("Content-Type", "text/html"));
            for method in ["PATCH", "GET"] {
                let path = "/v2/team/app/blobs/uploads/u";
                let answer = client.ask(method, path);
                assert_eq!(
                    (answer.status, answer.code().as_deref()),
                    (status, Some(code)),
                    "{version} {method}"
                );
                assert_eq!(answer.header("content-type"), Some("application/json"));
                assert_eq!(answer.header("retry-after"), Some("7"));
            }
            origin.heal(html);
            // The registry's own error passes through.
            let answer = client.ask("PATCH", "/v2/team/app/blobs/uploads/u");
            assert_eq!(answer.status, status);
            assert!(String::from_utf8_lossy(&answer.body).contains("errors"));
            origin.heal(fault);
        }
        let image = origin.push_image("team/app", "latest", &[random(1, 1000)]);
        let head = client.ask("HEAD", &image.layer_path(0));
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("1000"))
        );
        let tag = format!("\"{}\"", image.layer(0).0);
        let same = client.send(
            "GET",
            &image.layer_path(0),
            &[("If-None-Match", &tag)],
            None,
        );
        assert_eq!((same.status, same.body.len()), (304, 0));
    }
}

#[test]
fn skopeo_pulls_what_it_pushed() {
    let Some((_registry, gateway)) = real("") else {
        return;
    };
    let mut layout = Layout::new();
    let small = layout.add_image("small", 1, 2 << 20);
    let multi = layout.add_index("multi", 2, 1 << 20);
    let ca = gateway.ca_path();
    let skopeo = |arguments: &[&str]| -> Result<(), Missing> {
        let certificates = testkit::real::certificates(gateway.dir(), &ca);
        let mut skopeo = process::command(program("skopeo")?);
        skopeo.args([
            "--insecure-policy",
            "copy",
            "--quiet",
            "--all",
            "--preserve-digests",
        ]);
        skopeo.arg(format!("--src-cert-dir={}", certificates.display()));
        skopeo.arg(format!("--dest-cert-dir={}", certificates.display()));
        skopeo.args(arguments);
        run(&mut skopeo).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        Ok(())
    };
    let authority = gateway.authority(0);
    for (made, name) in [(&small, "team/small:1"), (&multi, "hosted/team/multi:1")] {
        let there = format!("docker://{authority}/{name}");
        let pushed = skopeo(&[&layout.reference(&made.tag), &there]);
        if found(pushed).is_none() {
            return;
        }
        let back = format!("dir:{}", gateway.dir().join("back").display());
        found(skopeo(&[&there, &back]));
        let manifest = std::fs::read(gateway.dir().join("back/manifest.json")).expect("a manifest");
        assert_eq!(sha256(&manifest), made.digest, "{name}");
    }
}
