//! An explanation agrees with what a pull then does: the status, `Cache-Status`, and the requests upstream.

use super::*;
use testkit::origin::{Fault, Latch, MEDIA_INDEX, MEDIA_MANIFEST, Quota};

/// The types that a current client accepts.
const ACCEPT: (&str, &str) = (
    "Accept",
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*",
);
/// A layer that is not cached in memory.
const LAYER: usize = 100_000;

/// A pull of `library/app`, and its explanation.
struct Pull<'a> {
    gateway: &'a Gateway,
    origin: &'a Origin,
    reference: &'a str,
    /// More of the question.
    question: Value,
    /// More headers of the client.
    headers: Vec<(&'a str, &'a str)>,
}

impl<'a> Pull<'a> {
    fn of(gateway: &'a Gateway, origin: &'a Origin, reference: &'a str) -> Self {
        Self {
            gateway,
            origin,
            reference,
            question: json!({}),
            headers: vec![ACCEPT],
        }
    }

    fn get(&self, path: &str) -> Reply {
        Raw::connect(self.gateway.url(1), None).exchange("GET", path, &self.headers)
    }

    /// Pulls as clients do: the manifest, that of linux/amd64, its blobs. Returns the first status and `Cache-Status`.
    fn run(&self) -> (u16, String) {
        let path = |reference: &str| format!("/v2/library/app/manifests/{reference}");
        let first = self.get(&path(self.reference));
        let cache = first.header("cache-status").expect("a status");
        let answer = (first.status(), without_ttl(cache));
        if answer.0 != 200 {
            return answer;
        }
        let mut manifest: Value = serde_json::from_slice(&first.body).expect("JSON");
        if let Some(children) = manifest["manifests"].as_array() {
            let child = children
                .iter()
                .find(|child| child["platform"]["architecture"] == "amd64");
            let child = child.or(children.first()).expect("a child");
            let reply = self.get(&path(child["digest"].as_str().expect("a digest")));
            if reply.status() != 200 {
                return answer;
            }
            manifest = serde_json::from_slice(&reply.body).expect("JSON");
        }
        let layers = manifest["layers"].as_array().into_iter().flatten();
        for blob in std::iter::once(&manifest["config"]).chain(layers) {
            let Some(digest) = blob["digest"].as_str() else {
                continue;
            };
            self.get(&format!("/v2/library/app/blobs/{digest}"));
        }
        answer
    }

    /// Explains the pull, then makes it. Returns the explanation.
    #[track_caller]
    fn agrees(&self, case: &str) -> Value {
        let mut question = self.question.clone();
        let separator = if self.reference.contains(':') {
            '@'
        } else {
            ':'
        };
        question["image"] = format!("library/app{separator}{}", self.reference).into();
        question["listener"] = self.gateway.url(1).into();
        question["platform"] = "linux/amd64".into();
        self.origin.clear_requests();
        let told = explain(self.gateway, &question);
        let asks = usize::from(told["asked_upstream"] == true);
        assert_eq!(
            self.origin.requests().len(),
            asks,
            "{case}: it asks nothing"
        );
        self.origin.clear_requests();
        let (status, cache) = self.run();
        assert_eq!(told["answer"]["status"], status, "{case}: {cache} {told:#}");
        let said = told["answer"]["cache_status"].as_str().unwrap_or_default();
        assert_eq!(without_ttl(said), cache, "{case}: {told:#}");
        self.compare(case, &told);
        told
    }

    /// Compares the planned requests with those that were made, some of which come behind the answers.
    #[track_caller]
    fn compare(&self, case: &str, told: &Value) {
        let planned = told["upstream"]["requests"].as_array().expect("requests");
        let planned = planned.iter().map(|request| {
            let url = request["url"].as_str().expect("a URL");
            let path = url.strip_prefix(&self.origin.url());
            let path = path.expect("a URL of the upstream").replace('…', "*");
            let method = request["method"].as_str().expect("a method").to_owned();
            (method, path, request["certain"] == true)
        });
        let planned: Vec<(String, String, bool)> = planned.collect();
        let made = || {
            let requests = self.origin.requests().into_iter();
            let requests = requests.filter(|one| one.path != "/v2/" && one.path != "/token");
            requests
                .map(|one| (one.method, one.path))
                .collect::<Vec<_>>()
        };
        let is_incomplete = told["upstream"]["incomplete"] == true;
        until(&format!("{case}: {planned:?}, not {:?}", made()), || {
            let mut left = made();
            let all_made = planned.iter().all(|(method, path, is_certain)| {
                let same =
                    |(own, of): &(String, String)| own == method && testkit::matches(path, of);
                let found = left.iter().position(same);
                found.map(|at| left.remove(at)).is_some() || !is_certain
            });
            all_made && (left.is_empty() || is_incomplete)
        });
        let cost = told["upstream"]["requests"]
            .as_array()
            .expect("requests")
            .iter();
        let cost = cost.filter(|request| request["counted"] == true).count();
        assert_eq!(told["upstream"]["rate_limit_cost"], cost, "{case}");
    }
}

fn without_ttl(status: &str) -> String {
    let status = status.trim_start_matches("roadstead; ");
    let parts = status.split("; ").filter(|part| !part.starts_with("ttl="));
    parts.collect::<Vec<_>>().join("; ")
}

#[test]
fn pulls_cost_what_was_explained() {
    let (origin, image, mut gateway) = scene(LAYER, ANYWHERE);
    let cold = Pull::of(&gateway, &origin, "latest").agrees("cold");
    assert_parts(
        &cold,
        &[
            ("/tag/state", "absent".into()),
            ("/upstream/rate_limit_cost", 1.into()),
            ("/upstream/incomplete", true.into()),
            ("/upstream/fetch_bytes", Value::Null),
        ],
    );
    metrics_after(&gateway, "blob", 2);
    let warm = Pull::of(&gateway, &origin, "latest").agrees("warm");
    assert_parts(
        &warm,
        &[
            ("/tag/state", "fresh".into()),
            ("/tag/digest", image.digest.as_str().into()),
            ("/upstream/requests", json!([])),
            ("/upstream/fetch_bytes", 0.into()),
            ("/manifest/images/0/layers/0/state", "present".into()),
            ("/manifest/images/0/layers/0/linked", true.into()),
        ],
    );
    assert_says(&warm, "/answer/because", "without the registry");
    Pull::of(&gateway, &origin, &image.digest).agrees("by digest");

    evict(&gateway, &image.layer(0).0);
    let part = Pull::of(&gateway, &origin, "latest").agrees("evicted layer");
    assert_parts(
        &part,
        &[
            ("/upstream/fetch_bytes", LAYER.into()),
            ("/upstream/rate_limit_cost", 0.into()),
        ],
    );
    metrics_after(&gateway, "blob", 6);
    gateway.kill();
    evict(&gateway, &image.digest);
    gateway.restart();
    let part = Pull::of(&gateway, &origin, "latest").agrees("evicted manifest");
    assert_parts(
        &part,
        &[
            ("/upstream/rate_limit_cost", 1.into()),
            ("/manifest/state", "missing".into()),
            ("/manifest/linked", true.into()),
        ],
    );
}

/// The tag is unknown to the registry: what was explained is what it says, once it was asked.
#[test]
fn asking_tells_what_the_registry_has() {
    let (origin, image, gateway) = scene(LAYER, &format!("{ANYWHERE}store: {{tag_ttl: 0s}}\n"));
    let ask = |reference| Pull {
        question: json!({"ask": true}),
        ..Pull::of(&gateway, &origin, reference)
    };
    let found = ask("latest").agrees("asked, cold");
    assert_parts(
        &found,
        &[
            ("/upstream/said/outcome", "found".into()),
            ("/upstream/said/digest", image.digest.as_str().into()),
            ("/manifest/digest", image.digest.as_str().into()),
            ("/manifest/state", "missing".into()),
        ],
    );
    let same = ask("latest").agrees("asked, unchanged");
    assert_parts(
        &same,
        &[
            ("/upstream/said/outcome", "same".into()),
            ("/tag/state", "stale".into()),
        ],
    );
    let missing = ask("none").agrees("asked, unknown");
    assert_parts(
        &missing,
        &[
            ("/upstream/said/outcome", "not-found".into()),
            ("/answer/status", 404.into()),
        ],
    );
    let remembered = Pull::of(&gateway, &origin, "none").agrees("remembered 404");
    assert_parts(
        &remembered,
        &[
            ("/tag/state", "not-found".into()),
            ("/upstream/requests", json!([])),
        ],
    );
    let next = origin.push_image("library/app", "latest", &[random(2, LAYER)]);
    let moved = ask("latest").agrees("asked, moved");
    assert_parts(
        &moved,
        &[
            ("/upstream/said/outcome", "moved".into()),
            ("/upstream/said/digest", next.digest.as_str().into()),
            ("/upstream/rate_limit_cost", 1.into()),
        ],
    );
    assert_says(&moved, "/upstream/said/because", &next.digest);
}

#[test]
fn stale_tags_and_links_are_asked_for_as_explained() {
    let more = format!("{ANYWHERE}store: {{tag_ttl: 0s, link_ttl: 0s}}\n");
    let (origin, image, gateway) = scene(LAYER, &more);
    pull(&gateway, &image);
    metrics_after(&gateway, "blob", 2);
    let stale = Pull::of(&gateway, &origin, "latest").agrees("stale tag and links");
    assert_parts(
        &stale,
        &[
            ("/tag/state", "stale".into()),
            ("/tag/ttl_seconds", 0.into()),
            ("/upstream/rate_limit_cost", 0.into()),
            ("/upstream/requests/0/method", "HEAD".into()),
        ],
    );
    assert_says(&stale, "/answer/because", "if the registry confirms it");
    // The tag is asked for before the answer, the links of the manifest and the blobs behind it.
    let requests = stale["upstream"]["requests"].as_array().expect("requests");
    assert_eq!(requests.len(), 4, "{requests:#?}");
}

#[test]
fn platforms_of_an_index_are_fetched_as_explained() {
    let origin = Origin::start();
    let gateway = Gateway::mirror("docker.io", &origin.url(), ANYWHERE);
    let image = origin.push_image("library/app", "one", &[random(1, LAYER)]);
    let index = origin.push_index("library/app", "latest", &[&image]);
    assert_eq!(index.media_type, MEDIA_INDEX);
    let known = Raw::connect(gateway.url(1), None).exchange("GET", &index.tag_path(), &[ACCEPT]);
    assert_eq!(known.status(), 200);
    let told = Pull::of(&gateway, &origin, "latest").agrees("an index without its image");
    assert_parts(
        &told,
        &[
            ("/manifest/images/0/state", "missing".into()),
            ("/manifest/images_total", 1.into()),
            ("/upstream/rate_limit_cost", 1.into()),
        ],
    );
    metrics_after(&gateway, "blob", 2);
    let told = Pull::of(&gateway, &origin, "latest").agrees("a whole index");
    assert_parts(
        &told,
        &[
            ("/manifest/images/0/platform", "linux/amd64".into()),
            ("/upstream/requests", json!([])),
        ],
    );
}

#[test]
fn content_of_other_repositories_is_claimed_as_explained() {
    let origin = Origin::start();
    let gateway = Gateway::mirror("docker.io", &origin.url(), ANYWHERE);
    let image = origin.push_image("library/app", "latest", &[random(1, LAYER)]);
    for (_, bytes) in &image.blobs {
        origin.push_blob("library/other", bytes.clone());
    }
    let bytes = image.manifest.clone();
    origin.push_manifest("library/other", Some("latest"), MEDIA_MANIFEST, bytes);
    let other = [image.tag_path(), image.blob_path(0), image.layer_path(0)];
    for path in other.map(|path| path.replace("/app/", "/other/")) {
        assert_eq!(fetch(&gateway, &path).status(), 200, "{path}");
    }
    metrics_after(&gateway, "blob", 2);
    let told = Pull::of(&gateway, &origin, &image.digest).agrees("by digest, elsewhere");
    assert_parts(
        &told,
        &[
            ("/manifest/state", "present".into()),
            ("/manifest/linked", false.into()),
            ("/upstream/rate_limit_cost", 0.into()),
            ("/upstream/fetch_bytes", 0.into()),
        ],
    );
    assert_says(
        &told,
        "/upstream/requests/0/because",
        "not known to have it",
    );
}

#[test]
fn limits_of_the_upstream_are_explained() {
    let more = format!("{ANYWHERE}store: {{tag_ttl: 0s}}\n");
    let (origin, image, gateway) = scene(LAYER, &more);
    pull(&gateway, &image);
    origin.push_image("library/app", "new", &[random(2, LAYER)]);
    let limit = Fault::status_with(429, "Retry-After", "3000").on("GET", "*/manifests/*");
    let limit = origin.fault(limit);
    let refused = Pull::of(&gateway, &origin, "new").run();
    assert_eq!(refused.0, 429);
    origin.heal(limit);
    let told = Pull::of(&gateway, &origin, "new").agrees("limited");
    assert_parts(
        &told,
        &[
            ("/answer/status", 429.into()),
            ("/upstream/rate_limit_cost", 0.into()),
        ],
    );
    assert!(
        told["upstream"]["rate_limit"]["retry_at"].is_string(),
        "{told:#}"
    );
    // HEADs and blobs are not held back.
    Pull::of(&gateway, &origin, "latest").agrees("limited, cached");
}

/// While the circuit breaker is open nothing is asked: what may be is served stale.
#[test]
fn open_breaker_is_explained() {
    let more = format!("{ANYWHERE}store: {{tag_ttl: 0s}}\n");
    let (mut origin, image, gateway) = scene(LAYER, &more);
    pull(&gateway, &image);
    metrics_after(&gateway, "blob", 2);
    origin.down();
    let question =
        |reference: &str| json!({"image": format!("app:{reference}"), "listener": gateway.url(1)});
    for (reference, status, words) in [
        ("latest", 200, "cannot be asked now"),
        ("none", 503, "unavailable"),
    ] {
        testkit::eventually("an explanation while the breaker is open", || {
            fetch(&gateway, &image.tag_path());
            let is_open = |told: &Value| told["upstream"]["breaker"]["state"] == "open";
            let told = explain(&gateway, &question(reference));
            let real = fetch(&gateway, &format!("/v2/library/app/manifests/{reference}"));
            if !is_open(&told) || !is_open(&explain(&gateway, &question(reference))) {
                return None;
            }
            assert_parts(
                &told,
                &[
                    ("/answer/status", status.into()),
                    ("/upstream/requests", json!([])),
                ],
            );
            assert_says(&told, "/answer/because", words);
            let cache = real.header("cache-status").map(without_ttl);
            assert_eq!(real.status(), status);
            assert_eq!(told["answer"]["cache_status"].as_str(), cache.as_deref());
            Some(())
        });
    }
}

/// Clients that cannot read everything, and registries that are not the same for all.
#[test]
fn other_clients_and_registries_agree() {
    const DOCKER_1_6: &str = "docker/1.6.0 go/go1.4 git-commit/0 kernel/4.9.0 os/linux arch/amd64";
    let origin = Origin::start();
    origin.push_image("library/app", "latest", &[random(1, LAYER)]);
    let gateway = Gateway::mirror("docker.io", &origin.url(), ANYWHERE);
    let old = Pull {
        question: json!({"client": "docker-1.6"}),
        headers: vec![("User-Agent", DOCKER_1_6)],
        ..Pull::of(&gateway, &origin, "latest")
    };
    let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let payload = br#"{"schemaVersion": 1, "name": "library/app", "fsLayers": []}"#;
    origin.convert(
        "library/app",
        "latest",
        &testkit::sha256(payload),
        signed,
        payload.to_vec(),
    );
    let told = old.agrees("schema 1, cold");
    assert_parts(
        &told,
        &[
            ("/tag/accept_class", "schema1".into()),
            ("/upstream/rate_limit_cost", 1.into()),
        ],
    );
    let told = old.agrees("schema 1, warm");
    assert_parts(&told, &[("/upstream/requests", json!([]))]);

    // Nothing is cached.
    let uncached = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", cache: false}}]\n{ANYWHERE}",
        origin.url()
    ));
    let told = Pull::of(&uncached, &origin, "latest").agrees("cache: false");
    assert_parts(
        &told,
        &[("/route/cached", false.into()), ("/tag", Value::Null)],
    );
    assert_says(
        &told,
        "/upstream/requests/0/because",
        "nothing of this registry is cached",
    );

    // An account that may read more than the public.
    let public = Gateway::start(&format!(
        "registries: [{{name: docker.io, v2: \"{}\", visibility: public, credentials: {{username: me, password: p}}}}]\n{ANYWHERE}",
        origin.url()
    ));
    let told = Pull::of(&public, &origin, "latest").agrees("public, cold");
    assert_says(&told, "/upstream/requests/0/because", "without the account");
    let told = Pull::of(&public, &origin, "latest").agrees("public, warm");
    assert_parts(&told, &[("/upstream/requests", json!([]))]);

    // The registry decides for each caller.
    let caller = Gateway::start(&format!(
        "registries: [{{name: theirs, v2: \"{}\", visibility: caller, hosts: [theirs.test]}}]\n{ANYWHERE}",
        origin.url()
    ));
    let pull = Pull {
        question: json!({"host": "theirs.test"}),
        headers: vec![ACCEPT, ("Host", "theirs.test")],
        ..Pull::of(&caller, &origin, "latest")
    };
    let told = pull.agrees("caller, cold");
    assert_parts(&told, &[("/access/decision", "delegated".into())]);
    let told = pull.agrees("caller, warm");
    assert_parts(&told, &[("/upstream/requests/0/method", "HEAD".into())]);
}

/// Bytes that are being fetched, or were, are told as such.
#[test]
fn downloads_are_explained_while_they_run() {
    let (origin, image, gateway) = scene(600_000, ANYWHERE);
    let manifest = fetch(&gateway, &image.tag_path());
    assert_eq!(manifest.status(), 200);
    assert_eq!(fetch(&gateway, &image.blob_path(0)).status(), 200);
    let latch = Latch::new();
    origin.fault(Fault::PauseAt(200_000, latch.clone()).on("GET", &image.layer_path(0)));
    let mut raw = Raw::connect(gateway.url(1), None);
    raw.request("GET", &image.layer_path(0), &[]);
    raw.read_head().expect("an answer");
    latch.wait_reached(1);
    let question = json!({"image": "app", "listener": gateway.url(1)});
    let told = testkit::eventually("bytes of the layer", || {
        let told = explain(&gateway, &question);
        let cached = told["manifest"]["images"][0]["layers"][0]["cached_bytes"].as_u64();
        (cached > Some(100_000)).then_some(told)
    });
    assert_parts(
        &told,
        &[
            ("/manifest/images/0/layers/0/state", "fetching".into()),
            ("/upstream/requests", json!([])),
        ],
    );
    latch.release();
}

/// A registry that allows ten pulls, of which five are reserved for what is not cached.
#[test]
fn few_pulls_are_explained() {
    let more = format!("{ANYWHERE}store: {{tag_ttl: 0s}}\n");
    let (origin, image, gateway) = scene(LAYER, &more);
    origin.limit_pulls(Quota {
        limit: 10,
        window: Duration::from_secs(21_600),
        is_stated: true,
    });
    let ask = || Pull {
        question: json!({"ask": true}),
        ..Pull::of(&gateway, &origin, "latest")
    };
    ask().agrees("cold");
    for number in 0..4 {
        let other = origin.push_image(&format!("library/other-{number}"), "latest", &[]);
        assert_eq!(fetch(&gateway, &other.tag_path()).status(), 200);
    }
    let next = origin.push_image("library/app", "latest", &[random(2, LAYER)]);
    let reserved = ask().agrees("reserved");
    assert_parts(
        &reserved,
        &[
            ("/manifest/digest", image.digest.as_str().into()),
            ("/upstream/rate_limit_cost", 0.into()),
            ("/upstream/rate_limit_remaining", 5.into()),
        ],
    );
    assert_says(&reserved, "/answer/because", "for what is not cached");
    origin.renew_pulls();
    let moved = ask().agrees("renewed");
    assert_parts(
        &moved,
        &[
            ("/manifest/digest", next.digest.as_str().into()),
            ("/upstream/rate_limit_cost", 1.into()),
        ],
    );
}

#[test]
fn stretched_tags_are_explained() {
    let more = format!("{ANYWHERE}store: {{tag_ttl: 1s}}\n");
    let (origin, _, gateway) = scene(LAYER, &more);
    origin.limit_pulls(Quota {
        limit: 1,
        window: Duration::from_secs(21_600),
        is_stated: true,
    });
    let latest = || Pull::of(&gateway, &origin, "latest");
    latest().agrees("cold");
    let question = json!({"image": "library/app", "listener": gateway.url(1)});
    until("the end of its own lifetime", || {
        let told = explain(&gateway, &question);
        let because = told["tag"]["because"].as_str().unwrap_or_default();
        because.starts_with("few pulls are left")
    });
    let told = latest().agrees("stretched");
    assert_parts(
        &told,
        &[
            ("/tag/state", "fresh".into()),
            ("/tag/ttl_seconds", 21_600.into()),
            ("/upstream/requests", json!([])),
        ],
    );
}
