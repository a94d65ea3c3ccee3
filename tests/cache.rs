//! Cached reads: tags and their lifetime, conditional requests, ranges, links, lists, 404s.

mod disk_space;
mod links;
mod not_found;
mod upstream_requests;

use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Fault, Image, Origin};
use testkit::{sha256, until};

const FULL: [(&str, &str); 4] = [
    (
        "Accept",
        "application/vnd.docker.distribution.manifest.v2+json",
    ),
    (
        "Accept",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ),
    ("Accept", "application/vnd.oci.image.manifest.v1+json"),
    ("Accept", "application/vnd.oci.image.index.v1+json"),
];

fn scene(more: &str) -> (Origin, Image, Gateway) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, 100_000)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), more);
    (origin, image, gateway)
}

fn plain(gateway: &Gateway) -> Raw {
    Raw::connect(gateway.url(1), None)
}

fn cache_status(reply: &Reply) -> &str {
    reply
        .header("cache-status")
        .expect("every answer says how it came about")
}

#[test]
fn manifest_bytes_are_unchanged() {
    let (origin, image, gateway) = scene("");
    let mut raw = plain(&gateway);
    for path in [image.tag_path(), image.digest_path()] {
        for method in ["GET", "HEAD"] {
            let reply = raw.exchange(method, &path, &FULL);
            assert_eq!(
                (reply.status(), reply.end.clone()),
                (200, End::Complete),
                "{method} {path}"
            );
            assert_eq!(
                reply.header("content-type"),
                Some("application/vnd.oci.image.manifest.v1+json")
            );
            assert_eq!(
                reply.header("content-length"),
                Some(&*image.manifest.len().to_string())
            );
            assert_eq!(reply.header("docker-content-digest"), Some(&*image.digest));
            assert_eq!(
                reply.header("etag"),
                Some(&*format!("\"{}\"", image.digest))
            );
            assert_eq!(
                reply.header("docker-distribution-api-version"),
                Some("registry/2.0")
            );
            if method == "GET" {
                assert!(reply.body == image.manifest);
            }
        }
    }
    // One HEAD for the tag and one GET by digest; Docker Hub would count a GET by tag twice.
    assert_eq!(origin.count("HEAD", &image.tag_path()), 1);
    assert_eq!(origin.count("GET", &image.digest_path()), 1);
    assert_eq!(origin.requests().len(), 2);
    let accepts = origin.requests_for("HEAD", "*")[0]
        .headers_named("accept")
        .join(", ");
    for kind in FULL {
        assert!(accepts.contains(kind.1), "{accepts}");
    }
}

#[test]
fn fresh_tag_is_cached_and_stale_tag_costs_one_head() {
    let (origin, image, mut gateway) = scene("store: {tag_ttl: 1h}\n");
    assert_eq!(
        cache_status(&get(gateway.url(1), None, &image.tag_path())),
        "roadstead; fwd=uri-miss; stored"
    );
    let fresh = get(gateway.url(1), None, &image.tag_path());
    assert!(
        cache_status(&fresh).starts_with("roadstead; hit; ttl=3"),
        "{}",
        cache_status(&fresh)
    );
    let counts = |origin: &Origin| (origin.count("HEAD", "*"), origin.count("GET", "*"));
    assert_eq!(counts(&origin), (1, 1));

    let yaml = |ttl: &str| {
        format!(
            "registries: [{{name: docker.io, v2: \"{}\", tag_ttl: {ttl}}}]\n",
            origin.url()
        )
    };
    // The records survive a restart.
    gateway.restart_with(&yaml("1h"));
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert_eq!(counts(&origin), (1, 1));

    gateway.restart_with(&yaml("0s"));
    let revalidated = get(gateway.url(1), None, &image.tag_path());
    assert_eq!(
        cache_status(&revalidated),
        "roadstead; fwd=stale; detail=revalidated"
    );
    assert!(revalidated.body == image.manifest);
    assert_eq!(counts(&origin), (2, 1));

    // The tag moves: a HEAD, and a GET by digest.
    let moved = origin.push_image("library/app", "latest", &[random(2, 1000)]);
    let reply = get(gateway.url(1), None, &image.tag_path());
    assert_eq!(
        cache_status(&reply),
        "roadstead; fwd=stale; stored; detail=moved"
    );
    assert!(reply.body == moved.manifest);
    assert_eq!(
        (counts(&origin), origin.count("GET", &moved.digest_path())),
        ((3, 2), 1)
    );

    // It moves back: the bytes are stored, so no GET.
    origin.tag("library/app", "latest", &image.digest);
    assert!(get(gateway.url(1), None, &image.tag_path()).body == image.manifest);
    assert_eq!(counts(&origin), (4, 2));

    // A client's HEAD never costs a GET.
    origin.push_image("library/app", "latest", &[random(3, 1000)]);
    assert_eq!(plain(&gateway).head(&image.tag_path()).status(), 200);
    assert_eq!(counts(&origin), (5, 2));
}

#[test]
fn concurrent_clients_share_one_revalidation() {
    let (origin, image, gateway) = scene("");
    let latch = testkit::origin::Latch::new();
    origin.fault(Fault::Delay(std::time::Duration::from_millis(300)).on("HEAD", "*"));
    let replies = testkit::http::at_once(16, |_| get(gateway.url(1), None, &image.tag_path()));
    assert!(replies.iter().all(|reply| reply.body == image.manifest));
    assert_eq!(
        (origin.count("HEAD", "*"), origin.count("GET", "*")),
        (1, 1)
    );
    drop(latch);
}

#[test]
fn registries_without_digest_header_or_head_are_supported() {
    for fault in [
        Fault::NoDigestHeader.on("HEAD", "*/manifests/*"),
        Fault::status(405).on("HEAD", "*/manifests/*"),
        Fault::Chunked.on("*", "*/manifests/*"),
    ] {
        let (origin, image, gateway) = scene("");
        origin.fault(fault.clone());
        for method in ["HEAD", "GET", "GET"] {
            let reply = plain(&gateway).exchange(method, &image.tag_path(), &FULL);
            assert_eq!(reply.status(), 200, "{fault:?}");
            assert_eq!(
                reply.header("docker-content-digest"),
                Some(&*image.digest),
                "{fault:?}"
            );
            assert_eq!(
                reply.header("content-length"),
                Some(&*image.manifest.len().to_string()),
                "{fault:?}"
            );
            assert!(
                method == "HEAD" || reply.body == image.manifest,
                "{fault:?}"
            );
        }
        assert!(origin.count("GET", "*") <= 1, "{fault:?}");
        let by_digest = get(gateway.url(1), None, &image.digest_path());
        assert!(by_digest.body == image.manifest, "{fault:?}");
    }
}

#[test]
fn manifest_with_a_digest_mismatch_is_not_served() {
    let (origin, image, gateway) = scene("");
    for fault in [
        Fault::WrongByteAt(10),
        Fault::Body(b"{}".to_vec()),
        Fault::TruncateAt(20),
        Fault::DigestHeader(sha256(b"another")),
        Fault::Body(vec![b' '; (4 << 20) + 1]),
    ] {
        let rule = origin.fault(fault.clone().on("GET", "*/manifests/*"));
        let reply = get(gateway.url(1), None, &image.digest_path());
        if matches!(fault, Fault::DigestHeader(_)) {
            // The bytes have the requested digest; the header does not matter.
            assert_eq!(reply.status(), 200);
            break;
        }
        assert!((500..504).contains(&reply.status()), "{fault:?}: {reply:?}");
        assert!(reply.error_code().is_some(), "{fault:?}");
        origin.heal(rule);
    }
    assert!(get(gateway.url(1), None, &image.digest_path()).body == image.manifest);
}

#[test]
fn manifests_are_limited_to_four_mebibytes() {
    let origin = Origin::start();
    let gateway = Gateway::mirror("docker.io", &origin.url(), "");
    for (size, status) in [(4 << 20, 200), ((4 << 20) + 1, 502)] {
        let mut bytes = br#"{"schemaVersion":2,"mediaType":"a/b"}"#.to_vec();
        bytes.resize(size, b' ');
        let digest = sha256(&bytes);
        origin.push_manifest("library/app", Some("big"), "a/b", bytes.clone());
        let reply = get(
            gateway.url(1),
            None,
            &format!("/v2/library/app/manifests/{digest}"),
        );
        assert_eq!(reply.status(), status);
        assert!(status != 200 || reply.body == bytes);
        assert!(status != 200 || reply.header("content-type") == Some("a/b"));
    }
}

#[test]
fn ranges_and_conditions() {
    let (origin, image, gateway) = scene("");
    let layer = image.layer(0).1.clone();
    let size = layer.len();
    let path = image.layer_path(0);
    let tag = format!("\"{}\"", image.layer(0).0);
    let weak = format!("W/{tag}");
    get(gateway.url(1), None, &path);
    let mut raw = plain(&gateway);
    let part = |from: usize, to: usize| {
        (
            206,
            Some(format!("bytes {from}-{}/{size}", to - 1)),
            from..to,
        )
    };
    let whole = || (200, None, 0..size);
    let unsatisfiable = || (416, Some(format!("bytes */{size}")), 0..0);
    for (headers, (status, content_range, bytes)) in [
        (vec![("Range", "bytes=0-")], part(0, size)),
        (vec![("Range", "bytes=0-0")], part(0, 1)),
        (vec![("Range", "bytes=10-19")], part(10, 20)),
        (vec![("Range", "bytes=10-99999999")], part(10, size)),
        (vec![("Range", "bytes=-5")], part(size - 5, size)),
        (vec![("Range", "bytes=-99999999")], part(0, size)),
        (vec![("Range", "bytes=99999999-")], unsatisfiable()),
        (vec![("Range", "bytes=-0")], unsatisfiable()),
        (vec![("Range", "bytes=5-1")], unsatisfiable()),
        (vec![("Range", "lines=1-2")], whole()),
        (
            vec![("Range", "bytes=1-2"), ("If-Range", tag.as_str())],
            part(1, 3),
        ),
        (
            vec![("Range", "bytes=1-2"), ("If-Range", weak.as_str())],
            whole(),
        ),
        (
            vec![("Range", "bytes=1-2"), ("If-Range", "\"other\"")],
            whole(),
        ),
        (vec![("If-None-Match", "\"other\"")], whole()),
    ] {
        let reply = raw.exchange("GET", &path, &headers);
        assert_eq!(
            (reply.status(), reply.end.clone()),
            (status, End::Complete),
            "{headers:?}"
        );
        assert_eq!(
            reply.header("content-range"),
            content_range.as_deref(),
            "{headers:?}"
        );
        assert_eq!(cache_status(&reply), "roadstead; hit");
        if status == 416 {
            assert_eq!(reply.error_code().as_deref(), Some("RANGE_INVALID"));
        } else {
            assert!(reply.body == layer[bytes], "{headers:?}");
            assert_eq!(reply.header("accept-ranges"), Some("bytes"));
            assert_eq!(reply.header("etag"), Some(&*tag));
        }
    }
    for (path, tag) in [
        (path.as_str(), tag.clone()),
        (&image.tag_path(), format!("\"{}\"", image.digest)),
    ] {
        for method in ["GET", "HEAD"] {
            for value in [
                tag.clone(),
                format!("W/{tag}"),
                "*".into(),
                tag.trim_matches('"').to_owned(),
            ] {
                let reply = raw.exchange(method, path, &[("If-None-Match", &value)]);
                assert_eq!(
                    (reply.status(), reply.body.len()),
                    (304, 0),
                    "{method} {path} {value}"
                );
                assert_eq!(reply.header("etag"), Some(&*tag));
            }
        }
    }
    assert_eq!(origin.count("GET", &path), 1);
}

#[test]
fn lists_are_cached_for_a_minute() {
    let (origin, image, gateway) = scene("");
    for tag in ["a", "b", "c"] {
        origin.tag("library/app", tag, &image.digest);
    }
    let mut raw = plain(&gateway);
    let page = raw.get("/v2/app/tags/list?n=2");
    assert_eq!(page.status(), 200);
    assert!(
        page.text().contains(r#""tags":["a","b"]"#),
        "{}",
        page.text()
    );
    // The next page is requested from the gateway, under the name that the client used.
    let link = page.header("link").expect("a next page").to_owned();
    let target = link
        .trim_start_matches("<http://localhost")
        .split('>')
        .next()
        .expect("a URL")
        .to_owned();
    assert!(target.starts_with("/v2/app/tags/list?"), "{link}");
    assert!(raw.get(&target).text().contains(r#""tags":["c","latest"]"#));
    let again = raw.get("/v2/app/tags/list?n=2");
    assert_eq!(
        (again.body, again.head.header("cache-status")),
        (page.body, Some("roadstead; hit"))
    );
    assert_eq!(origin.count("GET", "/v2/library/app/tags/list"), 2);

    let referrer = origin.push_referrer(&image, "application/vnd.example", b"signed");
    let referrers = raw.get(&image.referrers_path());
    assert_eq!(
        referrers.header("content-type"),
        Some("application/vnd.oci.image.index.v1+json")
    );
    assert!(referrers.text().contains(&referrer.digest));
    let filtered = raw.get(&format!(
        "{}?artifactType=application%2Fother",
        image.referrers_path()
    ));
    assert!(!filtered.text().contains(&referrer.digest));
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
}

#[test]
fn namespace_is_echoed_and_ping_is_answered_locally() {
    let (origin, image, gateway) = scene("");
    let mut raw = plain(&gateway);
    for path in ["/v2/", "/v2", "//v2/"] {
        let ping = raw.get(path);
        assert_eq!((ping.status(), ping.text().as_str()), (200, "{}"));
        assert_eq!(ping.header("www-authenticate"), None);
        assert_eq!(
            ping.header("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
    assert!(origin.requests().is_empty());
    let reply = raw.get(&format!("{}?ns=registry-1.docker.io", image.tag_path()));
    assert_eq!(reply.header("oci-namespace"), Some("registry-1.docker.io"));
    assert!(
        origin
            .requests()
            .iter()
            .all(|request| !request.query.contains("ns="))
    );
}

#[test]
fn cache_control_is_public_only_for_public_digests() {
    let public = "public, max-age=31536000, immutable";
    let (origin, image, gateway) = scene("");
    let mut raw = plain(&gateway);
    let control =
        |raw: &mut Raw, path: &str| raw.get(path).header("cache-control").map(str::to_owned);
    for (path, expected) in [
        (image.digest_path(), public),
        (image.layer_path(0), public),
        (image.tag_path(), "private"),
        ("/v2/app/tags/list".to_owned(), "private"),
    ] {
        assert_eq!(
            control(&mut raw, &path).as_deref(),
            Some(expected),
            "{path}"
        );
    }
    let ruled = Gateway::mirror(
        "docker.io",
        &origin.url(),
        "access: {rules: [{users: [anonymous], repositories: [\"docker.io/**\"], actions: [pull]}]}\n",
    );
    let mut raw = plain(&ruled);
    for path in [image.digest_path(), image.layer_path(0), image.tag_path()] {
        assert_eq!(
            control(&mut raw, &path).as_deref(),
            Some("private"),
            "{path}"
        );
    }
}

#[test]
fn access_log_has_a_line_per_request_and_fill() {
    let (_origin, image, gateway) = scene("log: {format: json}\n");
    get(gateway.url(1), None, &image.layer_path(0));
    get(gateway.url(1), None, "/v2/app/blobs/nonsense");
    let lines = || -> Vec<serde_json::Value> {
        gateway
            .log()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    };
    let of = |target: &str| -> Vec<serde_json::Value> {
        lines()
            .into_iter()
            .filter(|line| line["target"] == target)
            .collect()
    };
    until("two access lines and one of a fill", || {
        of("access").len() == 2 && of("fill").len() == 1
    });
    // A line is written after its response, so the two lines may be in either order.
    let by_status = |status: u16| {
        of("access")
            .into_iter()
            .find(|line| line["status"] == status)
    };
    let access = by_status(200).expect("a line");
    assert!(by_status(400).is_some());
    assert!(access["timestamp"].is_string());
    assert!(
        access["client"]
            .as_str()
            .expect("an address")
            .starts_with("127.0.0.1:")
    );
    assert!(access["ms"].is_number());
    for (key, value) in [
        ("user", "anonymous"),
        ("method", "GET"),
        ("path", &image.layer_path(0)),
        ("registry", "docker.io"),
        ("repository", "library/app"),
        ("cache", "fwd=uri-miss; stored"),
    ] {
        assert_eq!(access[key], value, "{key}");
    }
    assert_eq!(
        (&access["status"], &access["bytes"]),
        (&200.into(), &100_000.into())
    );
    assert!(
        access["upstream"]
            .as_str()
            .expect("a URL")
            .starts_with("http://127.0.0.1:")
    );
    let fill = &of("fill")[0];
    assert_eq!(fill["digest"], image.layer(0).0);
    assert_eq!(
        (&fill["message"], &fill["bytes"]),
        (&"committed".into(), &100_000.into())
    );
}
