//! Logins, tokens and challenges as the gateway uses them.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use oci::authorization::{Authorization, parse};

/// The hash of `password`.
const SHA: &str = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn settings(dir: &Path) -> Settings {
    let htpasswd = dir.join("htpasswd");
    std::fs::write(&htpasswd, format!("alice:{SHA}\n")).expect("writable");
    Settings {
        htpasswd: Some(htpasswd),
        realm: "Roadstead".to_owned(),
        scheme: Scheme::Bearer,
        token_key: None,
        keys: dir.join("keys"),
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn basic(user: &str, password: &str) -> Authorization {
    Authorization::Basic {
        user: user.to_owned(),
        password: password.into(),
    }
}

/// The header in which Docker returns an `X-Docker-Token`.
fn returned(value: &str) -> Authorization {
    parse(format!("Token {value}").as_bytes()).expect("it parses")
}

/// An authenticator, and alice's login by password.
async fn logged_in(dir: &Path) -> (Authenticator, Login) {
    let gate = Authenticator::open(&settings(dir)).expect("valid settings");
    let alice = gate.login(&basic("alice", "password"), HERE, at(0)).await;
    (gate, alice.expect("right"))
}

#[tokio::test]
async fn from_password_to_token_to_decision() {
    let dir = tempfile::tempdir().expect("a folder");
    let (gate, alice) = logged_in(dir.path()).await;
    assert_eq!(alice.user(), Some("alice"));
    assert_eq!(alice.caller("any"), Caller::User("alice".into()));

    let wanted = Scopes::parse(["repository:team/app:pull,push"]);
    let text = gate.token(&alice, &wanted, at(0)).expect("a token");
    let bearer = Authorization::Bearer(text);
    let came = gate
        .login(&bearer, HERE, at(299))
        .await
        .expect("a good token");
    assert_eq!(came.user(), Some("alice"));
    let actions = |name: &str| match came.caller(name) {
        Caller::Narrowed { user, actions } => {
            assert_eq!(user.as_deref(), Some("alice"));
            actions.to_string()
        }
        caller => panic!("{caller:?} is not narrowed"),
    };
    assert_eq!(
        (actions("team/app"), actions("team/other")),
        ("pull,push".into(), String::new())
    );
    assert_eq!(came.repository(), Some("team/app"));
    assert_eq!(came.catalog_caller(), None);
    // A token cannot be prolonged.
    assert_eq!(gate.token(&came, &wanted, at(299)), None);
    assert_eq!(
        gate.docker_token(&came, "team/app", DockerTokenAccess::Read, at(299)),
        None
    );
    assert_eq!(
        gate.login(&bearer, HERE, at(300)).await.err(),
        Some(Refused::Token)
    );

    // Another start has the same key, another folder another one, and a shared key is the same for all.
    let again = Authenticator::open(&settings(dir.path())).expect("valid settings");
    assert!(again.login(&bearer, HERE, at(0)).await.is_ok());
    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = Authenticator::open(&settings(elsewhere.path())).expect("valid settings");
    assert_eq!(
        other.login(&bearer, HERE, at(0)).await.err(),
        Some(Refused::Token)
    );
    let shared = |dir: &Path| {
        let token_key = Some(TokenKey::new(b"a secret of all nodes"));
        let settings = Settings {
            token_key,
            ..settings(dir)
        };
        Authenticator::open(&settings).expect("valid settings")
    };
    let (one, two) = (shared(dir.path()), shared(elsewhere.path()));
    let bearer = Authorization::Bearer(one.token(&alice, &wanted, at(0)).expect("a token"));
    assert!(two.login(&bearer, HERE, at(0)).await.is_ok());

    // A changed password ends it, and giving it back revives it: the line is what counts.
    std::fs::write(
        dir.path().join("htpasswd"),
        "alice:{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    )
    .expect("writable");
    let changed = Authenticator::open(&Settings {
        htpasswd: Some(dir.path().join("htpasswd")),
        ..settings(elsewhere.path())
    });
    let changed = changed.expect("valid settings");
    assert_eq!(
        changed.login(&bearer, HERE, at(0)).await.err(),
        Some(Refused::Token)
    );
}

#[tokio::test]
async fn anonymous_tokens_and_callers() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = Authenticator::open(&settings(dir.path())).expect("valid settings");
    let anonymous = gate
        .login(&Authorization::Anonymous, HERE, at(0))
        .await
        .expect("anonymous");
    assert_eq!(
        (anonymous.user(), anonymous.caller("a")),
        (None, Caller::Anonymous)
    );
    assert_eq!(anonymous.catalog_caller(), Some(Caller::Anonymous));
    assert_eq!(anonymous.repository(), None);
    let wanted = Scopes::parse(["repository:a:pull registry:catalog:*"]);
    let text = gate.token(&anonymous, &wanted, at(0)).expect("a token");
    let came = gate
        .login(&Authorization::Bearer(text), HERE, at(0))
        .await
        .expect("a valid token");
    let actions = Action::Pull.into();
    assert_eq!(
        came.caller("a"),
        Caller::Narrowed {
            user: None,
            actions
        }
    );
    assert_eq!(came.caller("a").as_str(), "anonymous");
    assert_eq!(came.catalog_caller(), Some(Caller::Anonymous));
    // Without scopes: what `docker login` asks for.
    let text = gate
        .token(&anonymous, &Scopes::default(), at(0))
        .expect("a token");
    let came = gate
        .login(&Authorization::Bearer(text), HERE, at(0))
        .await
        .expect("a valid token");
    assert_eq!(
        came.caller("a"),
        Caller::Narrowed {
            user: None,
            actions: Actions::NONE
        }
    );
}

#[tokio::test]
async fn docker_tokens_grant_one_repository() {
    let dir = tempfile::tempdir().expect("a folder");
    let (gate, alice) = logged_in(dir.path()).await;
    for (access, actions) in [
        (DockerTokenAccess::Read, "pull"),
        (DockerTokenAccess::Write, "pull,push"),
        (DockerTokenAccess::Delete, "delete"),
    ] {
        let value = gate
            .docker_token(&alice, "team/app", access, at(0))
            .expect("a token");
        let end = format!(",repository=\"team/app\",access={}", access.as_str());
        assert!(
            value.starts_with("signature=") && value.ends_with(&end),
            "{value}"
        );
        for sent in [
            value.clone(),
            format!("Token {value}"),
            format!("{value},{value}"),
        ] {
            let came = gate.login(&returned(&sent), HERE, at(6 * 3600 - 1)).await;
            let came = came.expect("a good token");
            assert_eq!(
                (came.user(), came.repository()),
                (Some("alice"), Some("team/app"))
            );
            let Caller::Narrowed { actions: told, .. } = came.caller("team/app") else {
                panic!("not narrowed");
            };
            assert_eq!(told.to_string(), actions);
        }
        // The fields beside the token are not trusted.
        let forged = value
            .replace("team/app", "team/other")
            .replace("=read", "=write");
        let came = gate
            .login(&returned(&forged), HERE, at(0))
            .await
            .expect("the token is good");
        assert_eq!(came.repository(), Some("team/app"));
        let late = gate.login(&returned(&value), HERE, at(6 * 3600)).await;
        assert_eq!(late.err(), Some(Refused::Token));
        // A token of one scheme is invalid in the other.
        let bare = value
            .split(['=', ','])
            .nth(1)
            .expect("the signature")
            .to_owned();
        let crossed = gate.login(&Authorization::Bearer(bare), HERE, at(0)).await;
        assert_eq!(crossed.err(), Some(Refused::Token));
    }
    for name in ["", "a b", "a\"b", "a\r\nb", "\u{e9}", &"n".repeat(600)] {
        assert_eq!(
            gate.docker_token(&alice, name, DockerTokenAccess::Read, at(0)),
            None,
            "{name:?}"
        );
    }
    let v2 = gate
        .token(&alice, &Scopes::parse(["repository:a:pull"]), at(0))
        .expect("a token");
    let crossed = gate
        .login(&returned(&format!("signature={v2}")), HERE, at(0))
        .await;
    assert_eq!(crossed.err(), Some(Refused::Token));
    assert_eq!(
        gate.login(&returned("garbage"), HERE, at(0)).await.err(),
        Some(Refused::Token)
    );
}

#[tokio::test]
async fn refusals() {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = Authenticator::open(&settings(dir.path())).expect("valid settings");
    let mut guesses = 0;
    let retry_after = loop {
        let guess = basic("alice", &format!("guess {guesses}"));
        match gate.login(&guess, HERE, at(0)).await.expect_err("wrong") {
            Refused::SlowDown { retry_after } => break retry_after,
            refused => assert_eq!(refused, Refused::Password),
        }
        guesses += 1;
        assert!(guesses < 50, "never slowed");
    };
    assert!(guesses >= 5, "slowed after {guesses}");
    assert!(retry_after.subsec_nanos() == 0 && retry_after.as_secs() >= 1);
}

#[tokio::test]
async fn without_accounts_all_clients_are_anonymous() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = Settings {
        htpasswd: None,
        ..settings(dir.path())
    };
    let gate = Authenticator::open(&settings).expect("valid settings");
    assert!(!gate.has_accounts());
    for sent in [
        basic("alice", "password"),
        Authorization::Bearer("x".to_owned()),
        Authorization::Token("x".to_owned()),
    ] {
        let login = gate.login(&sent, HERE, at(0)).await.expect("ignored");
        assert_eq!(login.caller("a"), Caller::Anonymous);
    }
    assert!(!settings.keys.exists(), "no key is needed");
}

#[test]
fn what_keeps_it_from_opening() {
    let dir = tempfile::tempdir().expect("a folder");
    let good = settings(dir.path());
    let told = |settings: &Settings| {
        Authenticator::open(settings)
            .map(drop)
            .map_err(|error| telemetry::chain(&error))
            .expect_err("refused")
    };
    let absent = Settings {
        htpasswd: Some(dir.path().join("absent")),
        ..good.clone()
    };
    assert!(
        told(&absent).contains("absent cannot be read; `roadstead passwd` makes it: "),
        "{}",
        told(&absent)
    );
    let reason = std::io::Error::from_raw_os_error(2).to_string();
    assert_eq!(
        told(&absent).matches(&reason).count(),
        1,
        "{}",
        told(&absent)
    );
    std::fs::write(dir.path().join("bad"), "a:b\n\nc\n").expect("writable");
    let bad = Settings {
        htpasswd: Some(dir.path().join("bad")),
        ..good.clone()
    };
    let words = told(&bad);
    assert!(
        words.contains("bad: line 1: a's hash") && words.contains("line 3: "),
        "{words}"
    );
    std::fs::create_dir_all(good.keys.join("token.key")).expect("a folder");
    assert!(told(&good).contains("the token key in "), "{}", told(&good));
}

#[test]
fn challenges() {
    let dir = tempfile::tempdir().expect("a folder");
    let bearer = Authenticator::open(&settings(dir.path())).expect("valid settings");
    let settings = Settings {
        scheme: Scheme::Basic,
        ..settings(dir.path())
    };
    let basic = Authenticator::open(&settings).expect("valid settings");
    let scope = Scopes::parse(["repository:a:pull,push"]);
    let (none, url) = (Scopes::default(), "https://h:5000/token");
    for (gate, scope, error, expected) in [
        (
            &bearer,
            &none,
            None,
            r#"Bearer realm="https://h:5000/token",service="h:5000""#,
        ),
        (
            &bearer,
            &scope,
            None,
            r#"Bearer realm="https://h:5000/token",service="h:5000",scope="repository:a:pull,push""#,
        ),
        (
            &bearer,
            &scope,
            Some(ChallengeError::InsufficientScope),
            r#"Bearer realm="https://h:5000/token",service="h:5000",scope="repository:a:pull,push",error="insufficient_scope""#,
        ),
        (
            &bearer,
            &none,
            Some(ChallengeError::InvalidToken),
            r#"Bearer realm="https://h:5000/token",service="h:5000",error="invalid_token""#,
        ),
        (&basic, &scope, None, r#"Basic realm="Roadstead""#),
        (
            &basic,
            &scope,
            Some(ChallengeError::InvalidToken),
            r#"Basic realm="Roadstead""#,
        ),
    ] {
        assert_eq!(gate.challenge(url, "h:5000", scope, error), expected);
        let read = oci::challenge::parse(expected);
        assert_eq!(read.len(), 1);
        if let Some(told) = read[0].parameter("scope") {
            assert_eq!(Scopes::parse([told]), *scope);
        }
    }
}

#[test]
fn the_answer_of_the_token_endpoint() {
    let granted = Scopes::parse(["repository:a:pull"]);
    let now = at(0) + Duration::from_millis(123);
    let answer = token_answer("abc", &granted, now);
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    let expected = serde_json::json!({
        "token": "abc",
        "access_token": "abc",
        "token_type": "Bearer",
        "expires_in": 300,
        "issued_at": "2027-01-15T08:00:00Z",
        "scope": "repository:a:pull",
    });
    assert_eq!(answer, expected);
}
