//! One hostname for all clients: every client as anonymous, as a reader, as the pusher and with a wrong password, and
//! the outcome of all its attempts, at the registries of [`one_host`](crate::real::one_host).

use std::cell::Cell;

use crate::real::one_host::{Backend, PASSWORD, PUSHERS, Scene};
use testkit::http::get;
use testkit::real::{Account, Containerd, Docker, Member, Missing, RawMember, Tool, found};

use Outcome::{Refused, Works};
use Role::{Anonymous, Pusher, Reader, Wrong};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Anonymous,
    Reader,
    Wrong,
    Pusher,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Works,
    /// The client reports a denial, and no registry gets a request.
    Refused,
}

/// The outcomes, in both registries. `team/app` is for logged-in users, `open/app` and docker.io's `library/small` are
/// public. The pusher comes last, since its writes are visible.
#[rustfmt::skip]
const EXPECTED: [(Role, [Outcome; 6]); 4] = [
    //           log in   pull team  open     library  push     delete
    (Anonymous, [Refused, Refused,   Works,   Works,   Refused, Refused]),
    (Reader,    [Works,   Works,     Works,   Works,   Refused, Refused]),
    // A wrong password is never treated as none: see `UNASKED`.
    (Wrong,     [Refused, Refused,   Refused, Refused, Refused, Refused]),
    (Pusher,    [Works,   Works,     Works,   Works,   Works,   Works]),
];

/// Attempts for which clients have no command.
#[rustfmt::skip]
const CANNOT: [(&str, &[&str]); 6] = [
    ("raw",     &[]),
    ("skopeo",  &[]),
    ("podman",  &["delete"]),
    ("buildah", &["delete"]),
    ("docker",  &["delete"]),
    ("ctr",     &["log in", "delete"]),
];

/// Clients that send a password only after a challenge: where the public may pull, a wrong one is never seen.
const UNASKED: [&str; 1] = ["ctr"];

impl Role {
    /// The account of the `nth` attempt.
    fn account(self, nth: usize) -> Option<Account<'static>> {
        let (user, password) = match self {
            Self::Anonymous => return None,
            Self::Reader => ("reader", PASSWORD),
            Self::Pusher => (PUSHERS[0], PASSWORD),
            Self::Wrong => (PUSHERS[nth], "wr0ng"),
        };
        Some(Account { user, password })
    }
}

/// One client in one role.
struct Row<'a> {
    scene: &'a Scene,
    client: &'a str,
    role: Role,
    attempts: Cell<usize>,
}

impl Row<'_> {
    fn can(&self, what: &str) -> bool {
        let row = CANNOT.iter().find(|(client, _)| *client == self.client);
        !row.expect("a client of the table").1.contains(&what)
    }

    /// One cell: an attempt and its expected outcome. The error names the cell.
    fn tried<T: std::fmt::Debug>(
        &self,
        what: &str,
        expected: Outcome,
        member: &mut dyn Member,
        attempt: impl FnOnce(&mut dyn Member) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        if self.role == Wrong {
            // As if the password had been changed since the login.
            member.be(self.account());
        }
        let told = match (expected, attempt(member)) {
            (Works, Ok(value)) => return Ok(Some(value)),
            (Refused, Err(said)) if sounds_refused(&said) => return Ok(None),
            (_, came) => came,
        };
        let Self { client, role, .. } = self;
        Err(format!(
            "{client}, {role:?}, {what}: {expected:?} was expected: {told:?}"
        ))
    }

    /// The account of the next attempt.
    fn account(&self) -> Option<Account<'static>> {
        let nth = self.attempts.get();
        self.attempts.set(nth + 1);
        self.role.account(nth)
    }

    fn play(&self, expected: [Outcome; 6], member: &mut dyn Member) -> Result<(), String> {
        let [login, team, open, library, push, delete] = expected;
        self.enter(login, member)?;
        let before = self.scene.counters();
        self.pulls([team, open, library], member)?;
        for backend in &self.scene.backends {
            self.writes(backend, push, delete, member)?;
        }
        if self.role != Pusher {
            for (after, before) in self.scene.counters().iter().zip(&before) {
                let asked = (after - before).0.into_keys();
                let reads = |key: &String| key.starts_with("GET ") || key.starts_with("HEAD ");
                let writes: Vec<String> = asked.filter(|key| !reads(key)).collect();
                assert_eq!(writes, [""; 0], "{} as {:?}", self.client, self.role);
            }
        }
        Ok(())
    }

    /// Takes on the role, by a login if the client has one.
    fn enter(&self, expected: Outcome, member: &mut dyn Member) -> Result<(), String> {
        member.be(None);
        let Some(account) = self.account() else {
            return Ok(());
        };
        if !self.can("log in") {
            assert_eq!(member.log_in(account), None);
            member.be(Some(account));
            return Ok(());
        }
        let log_in = |member: &mut dyn Member| member.log_in(account).expect("it can");
        self.tried("log in", expected, member, log_in).map(|_| ())
    }

    fn pulls(&self, expected: [Outcome; 3], member: &mut dyn Member) -> Result<(), String> {
        let [team, open, library] = expected;
        let old = self.scene.layout.made("old").digest;
        let mut names = vec![("library/small:1".to_owned(), library)];
        for backend in &self.scene.backends {
            names.push((backend.name("team/app:1"), team));
            names.push((backend.name("open/app:1"), open));
        }
        for (name, expected) in names {
            let shows = !UNASKED.contains(&self.client) || name.contains("team/");
            let expected = match self.role {
                Wrong if !shows => Works,
                _ => expected,
            };
            let asked = self.scene.counters();
            let what = format!("pull {name}");
            match self.tried(&what, expected, member, |member| member.pull(&name))? {
                Some(digest) => {
                    assert_eq!(digest, old, "{name}");
                    // The reader pulled it before: the old image is cached and fresh when a new one is pushed.
                    let after = self.scene.counters();
                    let pairs = after.iter().zip(&asked);
                    let asked = pairs.map(|(after, asked)| (after - asked).of("* */manifests/*"));
                    let asked = asked.fold(0, |sum, count| sum + count.requests);
                    assert!(self.role != Pusher || asked == 0, "{name}: {asked}");
                }
                None => assert_eq!(self.scene.counters(), asked, "{name}: no registry is asked"),
            }
        }
        Ok(())
    }

    /// Pushes a new image under a tag that is in the cache and fresh, pulls it, and deletes it.
    fn writes(
        &self,
        backend: &Backend,
        push: Outcome,
        delete: Outcome,
        member: &mut dyn Member,
    ) -> Result<(), String> {
        let name = backend.name("team/app:1");
        let image = self.scene.layout.reference("new");
        let what = format!("push {name}");
        let pushed = self.tried(&what, push, member, |member| member.push(&image, &name))?;
        if let Some(digest) = pushed {
            assert_ne!(digest, self.scene.layout.made("old").digest);
            let what = format!("pull {name} anew");
            let pulled = self.tried(&what, Works, member, |member| member.pull(&name))?;
            assert_eq!(pulled, Some(digest), "the new one");
        }
        if !self.can("delete") {
            assert_eq!(member.delete(&name), None);
            return Ok(());
        }
        let what = format!("delete {name}");
        let deleted = self.tried(&what, delete, member, |member| {
            member.delete(&name).expect("it can")
        })?;
        if deleted.is_some() {
            let said = member.pull(&name).expect_err("it is gone");
            assert!(said.contains("unknown") && !sounds_refused(&said), "{said}");
        }
        Ok(())
    }
}

/// Whether a client's output means a denial, rather than a failure.
fn sounds_refused(said: &str) -> bool {
    let said = said.to_lowercase();
    let words = [
        "unauthorized",
        "invalid username/password",
        "authentication required",
        "denied",
        "insufficient_scope",
    ];
    // Port numbers contain digits too.
    let status = |wanted: &[&str]| {
        let mut numbers = said.split(|letter: char| !letter.is_ascii_alphanumeric());
        numbers.any(|number| wanted.contains(&number))
    };
    let slowed = said.contains("too many") || status(&["429"]);
    !slowed && (words.iter().any(|word| said.contains(word)) || status(&["401", "403"]))
}

/// The whole table with one client.
fn play(scene: &Scene, client: &str, member: &mut dyn Member) {
    let mut told = Vec::new();
    for (role, expected) in EXPECTED {
        let row = Row {
            scene,
            client,
            role,
            attempts: Cell::default(),
        };
        if let Err(fault) = row.play(expected, member) {
            told.push(fault);
        }
    }
    assert!(told.is_empty(), "\n{}", told.join("\n"));
    scene.check_wires();
}

/// A scene with a client in it.
fn scene<M: Member>(
    client: &str,
    member: impl FnOnce(&Scene) -> Result<M, Missing>,
) -> Option<(Scene, M)> {
    let scene = found(Scene::start())?;
    let mut member = found(member(&scene))?;
    play(&scene, client, &mut member);
    Some((scene, member))
}

#[test]
fn raw() {
    scene("raw", |it| {
        Ok(RawMember::new(
            it.gateway.authority(0),
            &it.gateway.ca_path(),
        ))
    });
}

#[test]
fn skopeo() {
    scene("skopeo", |it| {
        Tool::skopeo(&it.authority(), &it.gateway.ca_path())
    });
}

#[test]
fn podman() {
    scene("podman", |it| {
        Tool::podman(&it.authority(), &it.gateway.ca_path())
    });
}

#[test]
fn buildah() {
    scene("buildah", |it| {
        Tool::buildah(&it.authority(), &it.gateway.ca_path())
    });
}

#[test]
fn docker() {
    let new =
        |it: &Scene| Docker::member(&it.authority(), &it.gateway.ca_path(), it.gateway.url(1));
    let Some((scene, docker)) = scene("docker", new) else {
        return;
    };
    // The same daemon, with its mirror of Docker Hub, which is never sent a login.
    let before = scene.counters();
    docker.docker(&["pull", "small:1"]).expect("by the mirror");
    assert_eq!(
        scene.counters(),
        before,
        "it was pulled before, by the other name"
    );
    let plain = get(scene.gateway.url(1), None, "/v2/");
    assert_eq!(
        (plain.status(), plain.header("www-authenticate")),
        (200, None)
    );
}

#[test]
fn ctr() {
    scene("ctr", |it| {
        Containerd::member(&it.authority(), &it.gateway.ca_path())
    });
}
