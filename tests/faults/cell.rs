//! One cell of the matrix: a fault, the subject of a request, and its time.

use std::panic::AssertUnwindSafe;
use std::sync::{Barrier, mpsc};

use super::client::{BOTH, READ_TIMEOUT, View, open};
use super::scene::{HALF, Scene, World, manifests_in_flight};
use super::table::{Case, Expected, Seen, When};
use testkit::SOON;
use testkit::http::{Web, at_once};
use testkit::origin::{Fault, Image, Latch};

/// The subject of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Blob,
    Tag,
    Digest,
}

/// The time of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nothing is stored; one client of each protocol.
    Cold,
    /// Everything is stored.
    Warm,
    /// Nothing is stored; sixteen clients of each protocol.
    Sixteen,
    /// Half of it has arrived when the client comes; a fault of answers begins at that moment.
    Late,
}

#[derive(Clone)]
pub struct Cell {
    pub case: Case,
    pub subject: Subject,
    pub mode: Mode,
}

/// The bytes of a blob held back until it is verified.
const TAIL: usize = 64 << 10;

impl Cell {
    /// Runs the cell; the error says what was wrong.
    pub fn run(self) -> Result<(), String> {
        let name = format!("{}, {:?}, {:?}", self.case.name, self.subject, self.mode);
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| match self.mode {
            Mode::Cold => self.at_once(1, self.row().cold),
            Mode::Sixteen => self.at_once(16, self.row().cold),
            Mode::Warm => self.warm(),
            Mode::Late => self.late(),
        }));
        outcome.map_err(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            format!("{name}: {}", text.unwrap_or("?"))
        })
    }

    fn row(&self) -> Expected {
        match self.subject {
            Subject::Blob => self.case.blob,
            Subject::Tag => self.case.tag,
            Subject::Digest => self.case.digest,
        }
    }

    fn path(&self, image: &Image) -> String {
        match self.subject {
            Subject::Blob => image.layer_path(0),
            Subject::Tag => image.tag_path(),
            Subject::Digest => image.digest_path(),
        }
    }

    /// `n` clients of each protocol, with an empty store.
    fn at_once(&self, n: usize, expected: Seen) {
        let Scene { mut world, gateway } = Scene::new(self.case.reach);
        let old = world.images.clone();
        let web = Web::h2_within(Some(&gateway.ca_path()), READ_TIMEOUT);
        (self.case.apply)(&mut world);
        // All clients have joined before a blob is complete, so that there is one download to count.
        let latch = Latch::new();
        let fills = self.subject == Subject::Blob && expected.is_a_body();
        if fills {
            let hold = Fault::PauseAt(HALF, latch.clone());
            world.origin.fault(hold.on("GET", "*/blobs/*"));
        }
        let barrier = Barrier::new(2 * n);
        let views = at_once(2 * n, |client| {
            let which = client % 2;
            let opened = open(BOTH[which], &gateway, &web, &self.path(&old[which]));
            if fills {
                barrier.wait();
                latch.release();
            }
            (which, opened.finish())
        });
        for (which, view) in &views {
            self.judge(expected, self.now(&world, &old, *which), view);
        }
        self.count(&world, &old, expected);
    }

    /// One client of each protocol, after everything was pulled.
    fn warm(&self) {
        let Scene { mut world, gateway } = Scene::new(self.case.reach);
        let old = world.images.clone();
        let web = Web::h2_within(Some(&gateway.ca_path()), READ_TIMEOUT);
        for (protocol, image) in BOTH.iter().zip(&old) {
            for path in [image.tag_path(), image.digest_path(), image.layer_path(0)] {
                let view = open(*protocol, &gateway, &web, &path).finish();
                assert_eq!((view.status, &view.broken), (200, &None), "warming up");
            }
        }
        (self.case.apply)(&mut world);
        world.origin.clear_requests();
        for (which, protocol) in BOTH.into_iter().enumerate() {
            let view = open(protocol, &gateway, &web, &self.path(&old[which])).finish();
            self.judge(self.row().warm, self.now(&world, &old, which), &view);
        }
        if self.subject != Subject::Tag {
            assert_eq!(world.origin.requests().len(), 0, "it was here");
        }
    }

    fn late(&self) {
        let Scene { mut world, gateway } = Scene::new(self.case.reach);
        let old = world.images.clone();
        let web = Web::h2_within(Some(&gateway.ca_path()), READ_TIMEOUT);
        if self.case.when == When::Body {
            (self.case.apply)(&mut world);
        }
        let latch = Latch::new();
        let (half, path) = match self.subject {
            Subject::Blob => (HALF, "*/blobs/*"),
            Subject::Tag | Subject::Digest => (5, "*/manifests/*"),
        };
        world
            .origin
            .fault(Fault::PauseAt(half, latch.clone()).on("GET", path));
        let (arrived, arrivals) = mpsc::sync_channel(BOTH.len());
        let (gateway, web, old) = (&gateway, &web, &old);
        let ask = move |which: usize| open(BOTH[which], gateway, web, &self.path(&old[which]));
        let [first, late] = std::thread::scope(|threads| {
            let first = [0, 1].map(|which| threads.spawn(move || ask(which).finish()));
            latch.wait_reached(2);
            if self.case.when == When::Answer {
                (self.case.apply)(&mut world);
            }
            let late = [0, 1].map(|which| {
                let arrived = arrived.clone();
                threads.spawn(move || {
                    let opened = ask(which);
                    let _ = arrived.send(());
                    opened.finish()
                })
            });
            // The headers of a blob come while the latch is closed, a manifest's after it.
            match self.subject {
                Subject::Blob => {
                    for _ in &late {
                        arrivals.recv_timeout(SOON).expect("headers");
                    }
                }
                Subject::Tag | Subject::Digest => {
                    let mut answered = 0;
                    testkit::until("the late ones", || {
                        answered += arrivals.try_iter().count();
                        answered + manifests_in_flight(gateway) >= 4
                    });
                }
            }
            latch.release();
            [first, late].map(|both| both.map(|thread| thread.join().expect("a client")))
        });
        for which in [0, 1] {
            let now = self.now(&world, old, which);
            self.judge(self.row().late, now, &late[which]);
            self.judge(self.row().first, &old[which], &first[which]);
        }
        if self.subject == Subject::Blob {
            self.count(&world, old, self.row().late);
        }
    }

    /// The image that the paths of `old` refer to now.
    fn now<'a>(&self, world: &'a World, old: &'a [Image; 2], which: usize) -> &'a Image {
        match self.subject {
            Subject::Tag => &world.images[which],
            Subject::Blob | Subject::Digest => &old[which],
        }
    }

    /// Compares a view with the expectation, byte for byte.
    fn judge(&self, expected: Seen, image: &Image, view: &View) {
        let (digest, bytes, media_type) = match self.subject {
            Subject::Blob => {
                let (digest, bytes) = image.layer(0);
                (digest, bytes, "application/octet-stream")
            }
            Subject::Tag | Subject::Digest => (&image.digest, &image.manifest, &*image.media_type),
        };
        let short = (view.status, view.code(), view.body.len(), &view.broken);
        let length = view.header("content-length").map(str::parse::<usize>);
        match expected {
            Seen::Whole | Seen::Stale => {
                assert_eq!((view.status, &view.broken), (200, &None), "{short:?}");
                assert!(view.body == *bytes, "other bytes: {short:?}");
                assert_eq!(length, Some(Ok(bytes.len())));
                assert_eq!(view.header("docker-content-digest"), Some(&**digest));
                assert_eq!(view.header("content-type"), Some(media_type));
                let stale = (
                    view.header("warning").is_some(),
                    view.header("age").is_some(),
                );
                let expected = expected == Seen::Stale;
                assert_eq!(
                    stale,
                    (expected, expected),
                    "{:?}",
                    view.header("cache-status")
                );
            }
            Seen::Error(status, code) => {
                assert_eq!(
                    (view.status, view.code().as_deref(), &view.broken),
                    (status, Some(code), &None),
                    "{short:?}"
                );
                assert_eq!(view.header("docker-content-digest"), None);
                let retry = view.header("retry-after").is_some();
                assert_eq!(retry, matches!(status, 429 | 503), "Retry-After");
            }
            Seen::Broken => {
                assert_eq!(view.status, 200, "{short:?}");
                let how = view.broken.as_deref().unwrap_or("a complete body");
                let visible = how.contains("Short") || how.contains("internal error");
                assert!(visible, "{short:?}");
                let announced = length.expect("a length").expect("a number");
                assert!(
                    view.body.len() + TAIL <= announced,
                    "of the tail: {short:?}"
                );
                let pairs = view.body.iter().zip(bytes);
                let wrong = pairs.filter(|(seen, right)| seen != right).count();
                assert!(wrong <= self.case.wrong_bytes, "{wrong} wrong bytes");
            }
        }
    }

    /// Checks the number of upstream requests.
    fn count(&self, world: &World, old: &[Image; 2], expected: Seen) {
        let asked = |image| world.origin.count("GET", &self.path(image));
        match self.subject {
            Subject::Blob if expected.is_a_body() => {
                for image in old {
                    let (asked, gets) = (asked(image), self.case.gets.clone());
                    assert!(gets.contains(&asked), "{asked} downloads, not {gets:?}");
                }
            }
            Subject::Digest if expected == Seen::Whole => {
                for image in old {
                    assert!(
                        self.case.manifest_gets.contains(&asked(image)),
                        "{}",
                        asked(image)
                    );
                }
            }
            _ if self.case.pauses => {
                let asked = world.origin.requests().len();
                assert!(asked <= 12, "{asked} requests to an upstream that fails");
            }
            _ => {}
        }
    }
}
