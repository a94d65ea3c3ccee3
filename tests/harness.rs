//! Tests of the harness: the raw clients report the scripted upstream's faults, and every process that is started ends.

use testkit::gateway::Gateway;
use testkit::http::{Cut, End, Raw, Web, at_once};
use testkit::image::random;
use testkit::origin::{Auth, Bearer, Fault, Latch, Origin};

/// A body larger than any internal step.
const SIZE: usize = 300_000;

fn origin() -> (Origin, testkit::origin::Image) {
    let origin = Origin::start();
    let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
    (origin, image)
}

#[test]
fn origin_serves_an_image() {
    let (origin, image) = origin();
    let mut raw = Raw::connect(&origin.url(), None);
    assert_eq!(raw.get("/v2/").status(), 200);
    let head = raw.head(&image.tag_path());
    assert_eq!(head.header("docker-content-digest"), Some(&*image.digest));
    assert_eq!(raw.get(&image.tag_path()).body, image.manifest);
    let layer = raw.get(&image.layer_path(0));
    assert_eq!((layer.end, layer.body), (End::Complete, random(1, SIZE)));
    let part = raw.exchange("GET", &image.layer_path(0), &[("Range", "bytes=-10")]);
    assert_eq!(part.status(), 206);
    assert_eq!(
        part.header("content-range"),
        Some("bytes 299990-299999/300000")
    );
    let beyond = raw.exchange("GET", &image.layer_path(0), &[("Range", "bytes=300000-")]);
    assert_eq!(
        (beyond.status(), beyond.header("content-range")),
        (416, Some("bytes */300000"))
    );
    assert_eq!(
        raw.get("/v2/library/app/manifests/none")
            .error_code()
            .as_deref(),
        Some("MANIFEST_UNKNOWN")
    );
    assert_eq!(origin.count("GET", "*/blobs/*"), 3);
    assert_eq!(
        origin.bytes_sent(&image.layer_path(0)),
        300_010 + u64::try_from(beyond.body.len()).unwrap()
    );
    assert_eq!(origin.connections(), 1);
}

#[test]
fn faults_end_bodies_as_scripted() {
    let (origin, image) = origin();
    let path = image.layer_path(0);
    let announced = SIZE as u64;
    let cases = [
        (
            vec![Fault::TruncateAt(1000)],
            1000,
            End::Short {
                announced,
                cut: Cut::Closed,
            },
        ),
        (
            vec![Fault::ResetAt(1000)],
            1000,
            End::Short {
                announced,
                cut: Cut::Reset,
            },
        ),
        (vec![Fault::Chunked], SIZE, End::Complete),
        (
            vec![Fault::Chunked, Fault::TruncateAt(1000)],
            1000,
            End::NoLastChunk(Cut::Closed),
        ),
        (
            vec![Fault::Chunked, Fault::TruncateAt(announced)],
            SIZE,
            End::NoLastChunk(Cut::Closed),
        ),
        (vec![Fault::CloseDelimited], SIZE, End::Closed),
        (
            vec![Fault::CloseDelimited, Fault::TruncateAt(1000)],
            1000,
            End::Closed,
        ),
        (
            vec![Fault::CloseDelimited, Fault::ResetAt(1000)],
            1000,
            End::Torn(Cut::Reset),
        ),
        (vec![Fault::Overlong(5)], SIZE + 5, End::Complete),
        (vec![Fault::Throttle(3_000_000)], SIZE, End::Complete),
    ];
    for (faults, length, end) in cases {
        origin.heal_all();
        for fault in &faults {
            origin.fault(fault.clone().on("GET", "*/blobs/*"));
        }
        let reply = Raw::connect(&origin.url(), None).get(&path);
        assert_eq!((reply.body.len(), &reply.end), (length, &end), "{faults:?}");
    }
}

#[test]
fn tls_distinguishes_close_from_reset() {
    let origin = Origin::start_tls();
    let image = origin.push_image("library/app", "latest", &[random(1, SIZE)]);
    let path = image.layer_path(0);
    let ca = origin.ca_path();
    origin.fault(Fault::TruncateAt(1000).on("GET", "*").times(1));
    let short = testkit::http::get(&origin.url(), Some(&ca), &path);
    let announced = SIZE as u64;
    assert_eq!(
        short.end,
        End::Short {
            announced,
            cut: Cut::Closed
        }
    );
    origin.fault(Fault::ResetAt(1000).on("GET", "*").times(1));
    let torn = testkit::http::get(&origin.url(), Some(&ca), &path);
    assert_eq!(
        torn.end,
        End::Short {
            announced,
            cut: Cut::Reset
        }
    );
    let whole = Web::h1(Some(&ca)).get(&format!("{}{path}", origin.url()));
    assert_eq!(
        (whole.status, whole.body.len(), whole.broken),
        (200, SIZE, None)
    );
    assert_eq!(origin.count("GET", &path), 3);
}

#[test]
fn content_faults_are_applied() {
    let (origin, image) = origin();
    let path = image.layer_path(0);
    let get = |path: &str| testkit::http::get(&origin.url(), None, path);
    origin.fault(Fault::WrongByteAt(7).on("GET", &path).times(1));
    assert_eq!(get(&path).body[7], random(1, SIZE)[7] ^ 0xff);
    assert_eq!(get(&path).body, random(1, SIZE));
    let redirect = origin.fault(Fault::Redirect(
        307,
        "http://else.where{path}?sig=1".to_owned(),
    ));
    let location = get(&path);
    assert_eq!(location.status(), 307);
    assert_eq!(
        location.header("location"),
        Some(&*format!("http://else.where{path}?sig=1"))
    );
    assert_eq!(origin.applied(redirect), 1);
    origin.heal(redirect);
    origin.fault(
        Fault::status_with(429, "Retry-After", "3")
            .on("GET", "*/manifests/*")
            .after(1)
            .times(1),
    );
    assert_eq!(get(&image.tag_path()).status(), 200);
    let limited = get(&image.tag_path());
    assert_eq!(
        (limited.status(), limited.header("retry-after")),
        (429, Some("3"))
    );
    assert_eq!(get(&image.tag_path()).status(), 200);
    origin.fault(Fault::Gzip);
    origin.fault(Fault::NoDigestHeader);
    let squeezed = get(&image.tag_path());
    assert_eq!(squeezed.header("content-encoding"), Some("gzip"));
    assert_eq!(squeezed.header("etag"), None);
    assert_eq!(squeezed.body, testkit::gzip(&image.manifest));
}

#[test]
fn latch_holds_responses_until_released() {
    let (origin, image) = origin();
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(1000, latch.clone()));
    let replies = std::thread::scope(|scope| {
        let readers = scope.spawn(|| {
            at_once(4, |_| {
                testkit::http::get(&origin.url(), None, &image.layer_path(0))
            })
        });
        latch.wait_reached(4);
        assert_eq!(origin.bytes_sent("*/blobs/*"), 4000);
        latch.release();
        readers.join().unwrap()
    });
    assert!(replies.iter().all(|reply| reply.body.len() == SIZE));
}

#[test]
fn origin_can_stall_and_restart() {
    let (mut origin, image) = origin();
    let stall = origin.fault(Fault::Stall);
    let mut raw = Raw::connect(&origin.url(), None);
    raw.request("GET", "/v2/", &[]);
    origin.wait_for("GET", "/v2/", 1);
    let mut healthy = Raw::connect(&origin.url(), None);
    origin.heal(stall);
    assert_eq!(healthy.get("/v2/").status(), 200);
    raw.shut_down_sending();
    assert_eq!(raw.read_to_end().0, b"", "a stalled response");
    drop((raw, healthy));
    testkit::until("the hung connection to go", || {
        origin.open_connections() == 0
    });
    origin.fault(Fault::StallAt(10));
    let mut raw = Raw::connect(&origin.url(), None);
    raw.request("GET", &image.layer_path(0), &[]);
    let head = raw.read_head().unwrap();
    assert_eq!(
        (head.length(), raw.read_exactly(10).len()),
        (Some(SIZE as u64), 10)
    );
    origin.down();
    assert_ne!(raw.read_some(1), Err(Cut::TimedOut));
    let refused = Raw::connect_with(&origin.url(), testkit::http::Connect::default());
    assert!(refused.is_err());
    origin.heal_all();
    origin.up();
    assert_eq!(
        testkit::http::get(&origin.url(), None, &image.layer_path(0))
            .body
            .len(),
        SIZE
    );
}

#[test]
fn token_endpoint_issues_tokens() {
    let (origin, image) = origin();
    origin.require(Auth::bearer());
    let refused = testkit::http::get(&origin.url(), None, &image.tag_path());
    let scope = "repository:library/app:pull";
    let challenge = format!(
        "Bearer realm=\"{}/token\",service=\"origin\",scope=\"{scope}\"",
        origin.url()
    );
    assert_eq!(refused.header("www-authenticate"), Some(&*challenge));
    let token = |more: &str| {
        let path = format!("/token?service=origin&scope=repository%3Alibrary%2Fapp%3Apull{more}");
        let reply = testkit::http::get(&origin.url(), None, &path);
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap();
        format!("Bearer {}", body["token"].as_str().unwrap())
    };
    let with = |token: &str| {
        let mut raw = Raw::connect(&origin.url(), None);
        raw.exchange("GET", &image.tag_path(), &[("Authorization", token)])
    };
    let first = token("");
    assert_eq!(with(&first).status(), 200);
    origin.change_bearer(|bearer| bearer.grants = false);
    assert!(
        with(&token(""))
            .header("www-authenticate")
            .unwrap()
            .contains("insufficient_scope")
    );
    origin.revoke_tokens();
    assert_eq!(with(&first).status(), 401);
    let account = Some(("me".to_owned(), "secret".to_owned()));
    origin.require(Auth::Bearer(Bearer {
        account,
        ..Bearer::default()
    }));
    assert_eq!(
        testkit::http::get(&origin.url(), None, "/token").status(),
        401
    );
    let mut raw = Raw::connect(&origin.url(), None);
    let basic = testkit::basic("me", "secret");
    assert_eq!(basic, "Basic bWU6c2VjcmV0");
    assert_eq!(
        raw.exchange("GET", "/token", &[("Authorization", &basic)])
            .status(),
        200
    );
    let form = "grant_type=password&username=me&password=secret";
    raw.send(format!(
        "POST /token HTTP/1.1\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    ));
    assert_eq!(raw.reply("POST").status(), 200);
    assert_eq!(origin.count("*", "/token"), 5);
}

#[test]
fn lists_are_paged_and_referrers_are_found() {
    let (origin, image) = origin();
    for tag in ["1", "2", "3"] {
        origin.tag("library/app", tag, &image.digest);
    }
    let get = |path: &str| testkit::http::get(&origin.url(), None, path);
    let page = get("/v2/library/app/tags/list?n=2&last=1");
    assert_eq!(page.text(), r#"{"name":"library/app","tags":["2","3"]}"#);
    let next = "</v2/library/app/tags/list?last=3&n=2>; rel=\"next\"";
    assert_eq!(page.header("link"), Some(next));
    let signature = origin.push_referrer(&image, "application/x-signature", b"signed");
    let found = get(&image.referrers_path());
    assert!(found.text().contains(&signature.digest));
    let none = get(&format!("{}?artifactType=other", image.referrers_path()));
    assert_eq!(none.header("oci-filters-applied"), Some("artifactType"));
    assert!(!none.text().contains(&signature.digest));
}

#[test]
fn gateway_binary_starts_logs_and_stops() {
    let (origin, image) = origin();
    let mut gateway = Gateway::mirror("docker.io", &origin.url(), "");
    let path = image.layer_path(0);
    let over_tls = testkit::http::get(gateway.url(0), Some(&gateway.ca_path()), &path);
    assert_eq!(over_tls.body, random(1, SIZE));
    let plain = Web::h1(None).get(&format!("{}{path}", gateway.url(1)));
    assert_eq!((plain.status, plain.body), (200, over_tls.body));
    assert!(gateway.rss_kib() > 0 && gateway.peak_rss_kib() > 0 && gateway.open_fds() > 3);
    gateway.kill();
    assert!(!gateway.is_running());
    gateway.restart();
    assert_eq!(
        testkit::http::get(gateway.url(1), None, &path).end,
        End::Complete
    );
    assert!(gateway.terminate().success());
}

#[test]
fn absent_program_is_reported_missing() {
    use testkit::real::{Missing, program};
    assert_eq!(
        program("no-such-program"),
        Err(Missing("no-such-program".to_owned()))
    );
    assert!(program("sh").is_ok());
}

#[test]
fn private_addresses_are_free_and_differ() {
    let (one, other) = (testkit::private_address(), testkit::private_address());
    assert_ne!(one.ip(), other.ip());
    assert!(one.ip().is_loopback() && std::net::TcpListener::bind(one).is_ok());
}

#[test]
fn throttled_reader_slows_the_sender() {
    let origin = Origin::start();
    let size = 32 << 20;
    let digest = origin.push_blob("library/app", random(2, size));
    let how = testkit::http::Connect {
        receive_buffer: Some(16 << 10),
        ..testkit::http::Connect::default()
    };
    let mut raw = Raw::connect_with(&origin.url(), how).unwrap();
    raw.request("GET", &format!("/v2/library/app/blobs/{digest}"), &[]);
    assert_eq!(raw.read_head().unwrap().length(), Some(size as u64));
    assert_eq!(
        raw.read_slowly(100_000, 1_000_000).unwrap(),
        random(2, 100_000)
    );
    assert!(origin.bytes_sent("*") < size as u64 / 2);
    assert_eq!(origin.open_connections(), 1);
}

#[test]
fn web_client_speaks_h1_and_h2() {
    use testkit::real::{Registry, found};
    let Some(registry) = found(Registry::start_tls()) else {
        return;
    };
    let (url, ca) = (format!("{}/v2/", registry.url()), registry.ca_path());
    assert_eq!(Web::h2(Some(&ca)).get(&url).version, http::Version::HTTP_2);
    assert_eq!(Web::h1(Some(&ca)).get(&url).version, http::Version::HTTP_11);
    assert_eq!(registry.counters().of("GET /v2/").requests, 2);
}
