//! Wrong, changed and guessed passwords.

use testkit::http::Raw;
use testkit::{basic, until};

use super::{USERS, scene};

#[test]
fn changed_password_takes_effect_at_once() {
    let scene = scene("");
    let reader = basic("reader", "s3cret");
    let (token, _) = scene.token("repository:team/app:pull", Some(&reader));
    let path = scene.team.tag_path();
    assert_eq!(scene.ask("GET", &path, Some(&token)).status(), 200);
    assert_eq!(scene.ask("GET", &path, Some(&reader)).status(), 200);
    // One account is removed; the other stays.
    let pusher = USERS.lines().nth(1).expect("a line");
    std::fs::write(scene.users.path().join("users"), format!("{pusher}\n")).expect("writable");
    until("the account is gone", || {
        scene.ask("GET", &path, Some(&reader)).status() == 401
    });
    assert_eq!(scene.ask("GET", &path, Some(&token)).status(), 401);
    assert_eq!(
        scene
            .ask("GET", &path, Some(&basic("pusher", "s3cret")))
            .status(),
        200
    );
}

/// A login is verified once for a connection, which must not outlast the account.
#[test]
fn changed_password_takes_effect_on_open_connections() {
    let scene = scene("");
    let reader = basic("reader", "s3cret");
    let (token, _) = scene.token("repository:team/app:pull", Some(&reader));
    let path = scene.team.tag_path();
    let mut open = [reader, token].map(|authorization| {
        let raw = Raw::connect(scene.gateway.url(1), None);
        (raw, authorization)
    });
    let mut statuses = || {
        let ask = |(raw, authorization): &mut (Raw, String)| {
            let fields = [("Authorization", authorization.as_str())];
            raw.exchange("GET", &path, &fields).status()
        };
        open.each_mut().map(ask)
    };
    for _ in 0..3 {
        assert_eq!(statuses(), [200, 200]);
    }
    std::fs::write(scene.users.path().join("users"), "").expect("writable");
    until("the account is gone", || statuses() == [401, 401]);
}

#[test]
fn each_request_of_a_connection_has_its_own_login() {
    let scene = scene("");
    let path = scene.team.tag_path();
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    let (right, wrong) = (basic("reader", "s3cret"), basic("reader", "s3creT"));
    for (authorization, expected) in [
        (Some(&right), 200),
        (Some(&right), 200),
        (None, 401),
        (Some(&wrong), 401),
        (Some(&right), 200),
    ] {
        let fields = authorization.map(|value| ("Authorization", value.as_str()));
        let reply = raw.exchange("GET", &path, fields.as_slice());
        assert_eq!(reply.status(), expected, "{authorization:?}");
    }
}

#[test]
fn password_guesses_are_slowed_without_lockout() {
    let scene = scene("");
    let path = scene.team.tag_path();
    let mut number = 0;
    until("guesses are slowed", || {
        number += 1;
        let guess = basic("pusher", &format!("guess {number}"));
        let reply = scene.ask("GET", &path, Some(&guess));
        let slowed = reply.status() == 429;
        assert!(slowed || reply.status() == 401);
        assert_eq!(slowed, reply.header("retry-after").is_some());
        slowed
    });
    assert!(number > 10, "only after {number}");
    // Another user from that address can log in.
    assert_eq!(
        scene
            .ask("GET", &path, Some(&basic("reader", "s3cret")))
            .status(),
        200
    );
    assert!(!scene.gateway.log().contains("s3cret") && !scene.gateway.log().contains("guess"));
}

/// Tools that retry with an outdated password do not count as guessing: they get 401, however many there are, and no
/// other client has to wait.
#[test]
fn old_password_gets_401() {
    let scene = scene("");
    let path = scene.team.tag_path();
    for round in 0..6 {
        for tool in 0..17 {
            let user = if tool % 2 == 0 { "pusher" } else { "reader" };
            let old = basic(user, &format!("old {}", tool / 6));
            let reply = scene.ask("GET", &path, Some(&old));
            assert_eq!(reply.status(), 401, "round {round}, tool {tool}");
        }
    }
    let right = basic("pusher", "s3cret");
    assert_eq!(scene.ask("GET", &path, Some(&right)).status(), 200);
}

#[test]
fn failed_logins_are_logged_without_the_password() {
    let scene = scene("");
    let path = scene.team.tag_path();
    for user in ["pusher", &"n".repeat(2_000)] {
        let wrong = basic(user, "s3cret-too");
        assert_eq!(scene.ask("GET", &path, Some(&wrong)).status(), 401);
    }
    // Basic allows no control characters, a form does.
    let form = "grant_type=password&username=no%1b%5b31mbody%0a&password=s3cret-too";
    let mut raw = Raw::connect(scene.gateway.url(1), None);
    raw.send(format!(
        "POST /token HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    ));
    assert_eq!(raw.reply("POST").status(), 401);
    let log = scene.gateway.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("login failed"))
        .collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (line, user) in lines.iter().zip(["pusher", "nnnn", "body"]) {
        assert!(line.contains(user) && line.contains("127.0.0.1"), "{line}");
        assert!(!line.contains('\u{1b}') && line.len() < 400, "{line}");
    }
    assert!(!log.contains("s3cret"), "{log}");
}
