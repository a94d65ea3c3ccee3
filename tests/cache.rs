//! Cached reads: tags and their lifetime, conditional requests, ranges, links, lists, 404s.

mod disk_space;
mod links;
mod manifests;
mod not_found;
mod tags;
mod upstream_requests;

use testkit::gateway::Gateway;
use testkit::http::{End, Raw, Reply, get};
use testkit::image::random;
use testkit::origin::{Image, Origin};
use testkit::until;

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
