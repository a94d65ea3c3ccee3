//! Malformed requests by the hundred, sent to the real binary over plain HTTP/1.1, TLS and HTTP/2. A request that can
//! be parsed gets a 4xx with the specification's JSON, or its fault is ignored as RFC 9110 says; never a 5xx, a crash,
//! a hang, or an upstream request.

mod case;
mod fields;
mod frames;
mod paths;
mod unparsable;

use std::collections::HashSet;

use crate::wire::h2::H2;
use case::Case;
use fields::Stored;
use testkit::gateway::Gateway;
use testkit::http::{self, Raw};
use testkit::image::random;
use testkit::origin::Origin;

/// Fewer cases than this mean that a table was cut.
const AT_LEAST: usize = 300;

/// An upstream, a gateway in front of it, and the content of its store.
struct Scene {
    origin: Origin,
    gateway: Gateway,
    stored: Stored,
}

impl Scene {
    fn new(limits: &str) -> Self {
        let origin = Origin::start();
        let image = origin.push_image("library/app", "latest", &[random(1, 5_000)]);
        let bytes = random(2, 3_000);
        let sha512 = testkit::sha512(&bytes);
        origin.push_blob_as("library/app", &sha512, bytes.clone());
        let v2 = origin.url();
        let gateway = Gateway::start(&format!(
            "registries:\n\
             - {{name: docker.io, v2: \"{v2}\", default: true}}\n\
             - {{name: ghcr.io, v2: \"{v2}\"}}\n\
             listen:\n\
             - {{address: \"127.0.0.1:0\"}}\n\
             - {{address: \"127.0.0.1:0\", tls: off}}\n\
             - {{address: \"127.0.0.1:0\", tls: off, read_only: true, registry: docker.io}}\n\
             {limits}"
        ));
        let blobs = vec![
            (
                image.layer_path(0),
                image.layer(0).0.clone(),
                image.layer(0).1.to_vec(),
            ),
            (format!("/v2/library/app/blobs/{sha512}"), sha512, bytes),
        ];
        let manifest = (
            [image.tag_path(), image.digest_path()],
            image.manifest.to_vec(),
        );
        for path in blobs.iter().map(|(path, ..)| path).chain(&manifest.0) {
            assert_eq!(
                http::get(gateway.url(1), None, path).status(),
                200,
                "{path}"
            );
        }
        // The other accept class has its own pointer.
        let accept = [("Accept", testkit::origin::MEDIA_MANIFEST)];
        let by_tag = image.tag_path();
        Raw::connect(gateway.url(1), None).exchange("GET", &by_tag, &accept);
        testkit::until("all of it to be served without asking", || {
            origin.clear_requests();
            for (path, ..) in &blobs {
                http::get(gateway.url(1), None, path);
            }
            origin.requests().is_empty()
        });
        Self {
            origin,
            gateway,
            stored: Stored { blobs, manifest },
        }
    }

    /// Whether the gateway still runs and answers.
    fn is_well(&mut self) -> Result<(), String> {
        if !self.gateway.is_running() {
            return Err("the gateway ended".to_owned());
        }
        let reply = http::get(self.gateway.url(1), None, &self.stored.blobs[0].0);
        if reply.status() == 200 && reply.body == self.stored.blobs[0].2 {
            Ok(())
        } else {
            Err(format!("no good answer afterwards: {reply:?}"))
        }
    }

    /// Panics with all failures, if there are any.
    #[track_caller]
    fn verdict(&self, wrong: &[String]) {
        let asked: Vec<String> = self
            .origin
            .requests()
            .iter()
            .map(|request| format!("{} {}?{}", request.method, request.path, request.query))
            .collect();
        assert!(
            wrong.is_empty() && asked.is_empty(),
            "{} went wrong:\n{}\nupstream was asked: {asked:#?}",
            wrong.len(),
            wrong.join("\n")
        );
    }
}

#[test]
fn valid_requests_get_the_specified_responses() {
    let mut scene = Scene::new("");
    let mut cases = paths::cases();
    let paths = cases.len();
    cases.extend(fields::cases(&scene.stored));
    let distinct: HashSet<_> = cases.iter().map(Case::identity).collect();
    assert_eq!(distinct.len(), cases.len(), "a case stands twice");
    println!("{} distinct bad requests", cases.len());
    assert!(cases.len() >= AT_LEAST);

    let ca = scene.gateway.ca_path();
    let mut wrong = Vec::new();
    let mut note = |case: &Case, how: &str, outcome: Result<(), String>| {
        if let Err(error) = outcome {
            wrong.push(format!("{how}: {case}\n    {error}"));
        }
    };
    for (index, case) in cases.iter().enumerate() {
        let tls = scene.gateway.url(0);
        note(case, "h1", case.over_h1(scene.gateway.url(1), None));
        note(case, "h1 over TLS", case.over_h1(tls, Some(&ca)));
        if index < paths {
            note(case, "read only", case.over_h1(scene.gateway.url(2), None));
        }
        note(case, "afterwards", scene.is_well());
    }
    // One connection serves many cases; a connection that was refused below HTTP is replaced.
    let (mut connection, mut stream) = (None, 1);
    for case in &cases {
        let open = connection.get_or_insert_with(|| {
            stream = 1;
            H2::connect(scene.gateway.url(0), &ca, 1 << 30)
        });
        let outcome = case.over_h2(open, stream);
        stream += 2;
        if outcome.is_err() || stream > 100 {
            connection = None;
        }
        note(case, "h2", outcome);
    }
    note(&cases[0], "after all", scene.is_well());
    scene.verdict(&wrong);
}

/// Short, since many of these requests never finish.
const LIMITS: &str = "limits: {header_timeout: 1s, idle_timeout: 1s}\n";

#[test]
fn malformed_requests_are_refused_without_desync() {
    let mut scene = Scene::new(LIMITS);
    let wires = unparsable::wires();
    println!("{} distinct requests that are hardly HTTP", wires.len());
    let ca = scene.gateway.ca_path();
    let listeners = [
        (scene.gateway.url(0), Some(ca.as_path())),
        (scene.gateway.url(1), None),
    ];
    let mut wrong = Vec::new();
    // The cases mostly wait for timeouts, so they run concurrently.
    for batch in wires.chunks(16) {
        wrong.extend(http::at_once(batch.len(), |index| {
            let wire = &batch[index];
            let outcomes = listeners.map(|(url, ca)| {
                let statuses = unparsable::answers(url, ca, &wire.bytes);
                (statuses != Ok(wire.statuses.to_vec())).then(|| {
                    let start = &wire.bytes[..wire.bytes.len().min(200)];
                    let sent = start.escape_ascii();
                    format!("{url}: {sent}\n    {statuses:?}, not {:?}", wire.statuses)
                })
            });
            outcomes.into_iter().flatten().collect::<Vec<_>>()
        }));
    }
    let mut wrong: Vec<String> = wrong.into_iter().flatten().collect();
    wrong.extend(scene.is_well().err());
    scene.verdict(&wrong);
}

#[test]
fn request_smuggled_in_a_body_gets_no_response() {
    let mut scene = Scene::new(LIMITS);
    let hidden = unparsable::smuggled();
    let outcomes = http::at_once(hidden.len(), |index| {
        unparsable::answers(scene.gateway.url(1), None, &hidden[index])
    });
    let mut wrong = Vec::new();
    for (bytes, outcome) in hidden.iter().zip(outcomes) {
        if outcome != Ok(vec![400]) {
            wrong.push(format!("{}\n    {outcome:?}", bytes.escape_ascii()));
        }
    }
    wrong.extend(scene.is_well().err());
    scene.verdict(&wrong);
}

#[test]
fn invalid_h2_frames_affect_no_other_connection() {
    let mut scene = Scene::new(LIMITS);
    let mut broken = frames::connections();
    broken.extend(frames::requests());
    println!("{} distinct things wrong with HTTP/2", broken.len());
    let ca = scene.gateway.ca_path();
    let mut wrong = Vec::new();
    for batch in broken.chunks(16) {
        let outcomes = http::at_once(batch.len(), |index| {
            frames::outcome(scene.gateway.url(0), &ca, &batch[index].bytes)
        });
        for (broken, outcome) in batch.iter().zip(outcomes) {
            if outcome != Ok(broken.outcome) {
                wrong.push(format!(
                    "{}: {outcome:?}, not {:?}",
                    broken.what, broken.outcome
                ));
            }
        }
    }
    wrong.extend(scene.is_well().err());
    scene.verdict(&wrong);
}

#[test]
fn plain_http_on_a_tls_port_gets_an_error() {
    let mut scene = Scene::new(LIMITS);
    let address = scene.gateway.authority(0);
    let url = format!("http://{address}");
    let cases = frames::no_tls();
    let outcomes = http::at_once(cases.len(), |index| {
        let mut raw = Raw::connect(&url, None);
        raw.send(cases[index].0);
        let (bytes, cut) = raw.read_to_end();
        (String::from_utf8_lossy(&bytes).into_owned(), cut)
    });
    let mut wrong = Vec::new();
    for ((sent, status), (answer, cut)) in cases.iter().zip(outcomes) {
        let told = answer.starts_with("HTTP/1.1 400") && answer.contains("https://");
        // A TLS alert or silence is fine too.
        let silent = !answer.contains("HTTP");
        if cut == http::Cut::TimedOut || !(if status.is_some() { told } else { silent }) {
            wrong.push(format!("{}: {answer:?} {cut:?}", sent.escape_ascii()));
        }
    }
    wrong.extend(scene.is_well().err());
    scene.verdict(&wrong);
}
