//! Certificates that change while the gateway runs.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;

use super::Scene;
use super::certificates::{listening_with, pair};
use crate::wire::h2::{self, DATA, END_STREAM, H2};
use testkit::gateway::Gateway;
use testkit::http::{Connect, End, Raw};
use testkit::image::random;
use testkit::origin::{Fault, Latch};
use testkit::tls::{Ca, Leaf, certificates, shown};
use testkit::{temp_dir, until};

const IN_USE: &str = "reloaded changed files";
const REFUSED: &str = "changed files are refused";

/// The certificate that a new connection gets; the handshake proves that its key matches.
fn served(gateway: &Gateway, ca: &Path, name: &str) -> CertificateDer<'static> {
    shown(gateway.authority(0), ca, name)
}

fn leaf_of(path: &Path) -> CertificateDer<'static> {
    certificates(path).swap_remove(0)
}

/// The number of log lines with these words about this file.
fn said(gateway: &Gateway, words: &str, file: &Path) -> usize {
    let (log, file) = (gateway.log(), file.display().to_string());
    let lines = log.lines();
    lines
        .filter(|line| line.contains(words) && line.contains(&file))
        .count()
}

/// Copies a pair into place: the certificate first, then the key.
fn install(from: &Leaf, to: &Leaf) {
    std::fs::copy(&from.certificate, &to.certificate).expect("copied");
    std::fs::copy(&from.key, &to.key).expect("copied");
}

/// The paths of a pair in a folder.
fn place(folder: &Path, name: &str) -> Leaf {
    Leaf {
        certificate: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    }
}

#[test]
fn reload_keeps_connections_and_bodies() {
    const SIZE: usize = 1 << 20;

    let ca = Ca::new();
    let leaf = ca.issue(&["localhost", "127.0.0.1"]);
    let listen = listening_with(&[pair(&leaf)]);
    let scene = Scene::new(SIZE, &listen);
    let latch = Latch::new();
    scene
        .origin
        .fault(Fault::PauseAt(SIZE as u64 / 2, latch.clone()).on("GET", "*/blobs/*"));
    let gateway = &scene.gateway;
    let (url, trusted) = (gateway.url(0), ca.path());
    let body = random(1, SIZE);
    let (early, late) = body.split_at(SIZE / 2);

    let mut idle = Raw::connect(url, Some(&trusted));
    assert_eq!(idle.get("/v2/").status(), 200);
    let mut h1 = Raw::connect(url, Some(&trusted));
    h1.request("GET", &scene.path, &[]);
    assert_eq!(h1.read_head().expect("an answer").status, 200);
    assert!(h1.read_exactly(early.len() as u64) == early);
    let mut h2 = H2::connect(url, &trusted, 8 << 20);
    let request = h2::request(1, &h2::pseudo("GET", &scene.path));
    h2.send(&request).expect("it is taken");
    let mut received = Vec::new();
    // The rest is read with the end of the stream, which may come by itself.
    let mut read_to = |h2: &mut H2, length: usize| {
        let mut ended = false;
        while received.len() < length || (length == SIZE && !ended) {
            let frame = h2.next().expect("it goes on");
            if frame.kind == DATA {
                received.extend(frame.payload);
                ended = frame.flags & END_STREAM != 0;
            }
        }
        assert!(received == body[..length], "other bytes");
    };
    read_to(&mut h2, early.len());

    let old = leaf_of(&leaf.certificate);
    let new = leaf_of(&ca.issue(&["localhost", "127.0.0.1"]).certificate);
    assert_ne!(old, new);
    until("the new certificate", || {
        served(gateway, &trusted, "localhost") == new
    });

    assert_eq!(idle.get("/v2/").status(), 200);
    let answer = h2.exchange(3, &h2::pseudo("GET", "/v2/"));
    assert_eq!(answer.expect("an answer").status(), 200);
    latch.release();
    assert!(h1.read_exactly(late.len() as u64) == late);
    read_to(&mut h2, SIZE);
    assert_eq!(h1.get("/v2/").status(), 200);
    assert_eq!(scene.origin.count("GET", "*/blobs/*"), 1);
}

#[test]
fn every_kind_of_file_replacement_is_detected() {
    let ca = Ca::new();
    let dir = temp_dir();
    let folder = dir.path();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, folder.join(name)).expect("a link");
    };
    let version = |name: &str| {
        std::fs::create_dir(folder.join(name)).expect("a folder");
        install(&ca.issue(&["a.example"]), &place(&folder.join(name), "tls"));
    };
    // As Kubernetes mounts a secret.
    version("..1");
    link("..1", "..data");
    link("..data/tls.pem", "tls.pem");
    link("..data/tls.key", "tls.key");
    let files = place(folder, "tls");
    let gateway = Gateway::start(&listening_with(&[pair(&files)]));
    let now = || served(&gateway, &ca.path(), "a.example");
    assert_eq!(now(), leaf_of(&files.certificate));

    let swap = || {
        version("..2");
        link("..2", "..new");
        std::fs::rename(folder.join("..new"), folder.join("..data")).expect("swapped");
    };
    let rename = || {
        let fresh = place(folder, "fresh");
        install(&ca.issue(&["a.example"]), &fresh);
        std::fs::rename(&fresh.certificate, &files.certificate).expect("renamed");
        std::fs::rename(&fresh.key, &files.key).expect("renamed");
    };
    let write = || install(&ca.issue(&["a.example"]), &files);
    let relink = || {
        // As certbot does: links to the files themselves.
        let fresh = place(folder, "live2");
        install(&ca.issue(&["a.example"]), &fresh);
        for (target, name) in [("live2.pem", "tls.pem"), ("live2.key", "tls.key")] {
            std::fs::remove_file(folder.join(name)).expect("removed");
            link(target, name);
        }
    };
    let ways: [(&str, &dyn Fn()); 4] = [
        ("a swapped link", &swap),
        ("a rename", &rename),
        ("a write in place", &write),
        ("other links", &relink),
    ];
    for (count, (way, change)) in ways.into_iter().enumerate() {
        let before = now();
        change();
        let new = leaf_of(&files.certificate);
        assert_ne!(new, before, "{way}");
        until(way, || now() == new);
        until("a line that says so", || {
            said(&gateway, IN_USE, &files.certificate) == count + 1
        });
    }
}

/// A pair's name, the damage done to it, and the words about it in the log.
type Harm<'a> = (&'a str, &'a dyn Fn(&Leaf), &'a str);

#[test]
fn broken_certificate_pair_is_logged_once_and_ignored() {
    let ca = Ca::new();
    let dir = temp_dir();
    let new_certificate = |pair: &Leaf| {
        let name = pair.certificate.file_stem().expect("a name");
        let leaf = ca.issue(&[&name.to_string_lossy()]);
        std::fs::copy(leaf.certificate, &pair.certificate).expect("copied");
    };
    let garbage = |path: &PathBuf| std::fs::write(path, "no pem").expect("writable");
    let remove = |path: &PathBuf| std::fs::remove_file(path).expect("removable");
    let cases: [Harm<'_>; 6] = [
        (
            "a.example",
            &new_certificate,
            "a.example.key holds no private key",
        ),
        (
            "b.example",
            &|b| garbage(&b.key),
            "b.example.key holds no private key",
        ),
        (
            "c.example",
            &|c| garbage(&c.certificate),
            "c.example.pem holds no certificate",
        ),
        (
            "d.example",
            &|d| remove(&d.key),
            "d.example.key: No such file",
        ),
        (
            "e.example",
            &|e| remove(&e.certificate),
            "e.example.pem: No such file",
        ),
        (
            "f.example",
            &|f| std::fs::write(&f.certificate, "").expect("writable"),
            "f.example.pem holds no certificate",
        ),
    ];
    let place = |name: &str| place(dir.path(), name);
    let renew = |name: &str| {
        install(&ca.issue(&[name]), &place(name));
        leaf_of(&place(name).certificate)
    };
    let names = cases.iter().map(|(name, ..)| *name).chain(["good.example"]);
    let pairs: Vec<String> = names
        .map(|name| {
            renew(name);
            pair(&place(name))
        })
        .collect();
    let gateway = Gateway::start(&listening_with(&pairs));
    let now = |name: &str| served(&gateway, &ca.path(), name);
    let before = cases.map(|(name, ..)| now(name));

    for (name, harm, _) in cases {
        harm(&place(name));
    }
    for ((name, _, words), before) in cases.iter().zip(&before) {
        let certificate = place(name).certificate;
        until("the refusal", || {
            assert_eq!(now(name), *before);
            said(&gateway, REFUSED, &certificate) > 0
        });
        let log = gateway.log();
        let mut lines = log.lines();
        let line = lines.find(|line| line.contains(REFUSED) && line.contains(name));
        let line = line.expect("it was said");
        assert!(line.contains("ERROR") && line.contains(words), "{line}");
    }
    // Another pair is renewed meanwhile, a few checks later.
    let renewed = renew("good.example");
    until("the good pair", || now("good.example") == renewed);
    for ((name, ..), before) in cases.iter().zip(&before) {
        let certificate = place(name).certificate;
        assert_eq!(now(name), *before, "{name}");
        assert_eq!(said(&gateway, REFUSED, &certificate), 1, "{name}");
        assert_eq!(said(&gateway, IN_USE, &certificate), 0, "{name}");
    }

    let renewed = cases.map(|(name, ..)| renew(name));
    for ((name, ..), renewed) in cases.iter().zip(&renewed) {
        until(name, || now(name) == *renewed);
        until("a line that says so", || {
            said(&gateway, IN_USE, &place(name).certificate) == 1
        });
    }
    assert_eq!(gateway.log().matches("ERROR").count(), cases.len());
}

/// A leaf of the gateway's own authority that expires in `days` days.
fn issue_own(keys: &Path, days: u64) -> String {
    let read = |name: &str| std::fs::read_to_string(keys.join(name)).expect(name);
    let key = rcgen::KeyPair::from_pem(&read("ca.key")).expect("a key");
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read("ca.pem"), key).expect("a CA");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_after = (SystemTime::now() + Duration::from_secs(days * 86_400)).into();
    let leaf_key = rcgen::KeyPair::from_pem(&read("leaf.key")).expect("a key");
    let leaf = params.signed_by(&leaf_key, &issuer).expect("a leaf");
    leaf.pem()
}

fn days_left(leaf: &CertificateDer<'_>) -> i64 {
    let (_, leaf) = x509_parser::parse_x509_certificate(leaf).expect("a certificate");
    let left = leaf.validity().time_to_expiration();
    left.expect("it has not ended").whole_days()
}

#[test]
fn own_certificate_is_renewed_before_expiry() {
    let gateway = Gateway::start("registries: [docker.io]\n");
    let (keys, ca) = (gateway.dir().join("var/keys"), gateway.ca_path());
    let now = || served(&gateway, &ca, "localhost");
    let first = now();
    assert!(days_left(&first) > 390);
    let mut idle = Raw::connect(gateway.url(0), Some(&ca));
    assert_eq!(idle.get("/v2/").status(), 200);

    // As if the gateway had run for a year.
    std::fs::write(keys.join("leaf.pem"), issue_own(&keys, 29)).expect("writable");
    let short = leaf_of(&keys.join("leaf.pem"));
    assert_eq!(days_left(&short), 28);
    until("another certificate", || {
        let now = now();
        now != first && now != short
    });
    let renewed = now();
    assert!(days_left(&renewed) > 390);
    assert_eq!(renewed, leaf_of(&keys.join("leaf.pem")));
    assert_eq!(idle.get("/v2/").status(), 200);
    // It has all the names again.
    let how = Connect {
        ca: Some(&ca),
        server_name: Some("127.0.0.1"),
        ..Connect::default()
    };
    let mut raw = Raw::connect_with(gateway.url(0), how).expect("a name of ours");
    let reply = raw.get("/v2/");
    assert_eq!((reply.status(), reply.end), (200, End::Complete));
}
