//! Tokens: what is minted is read back until it expires or the password changes, and nothing else is.

use proptest::prelude::*;

use super::htpasswd::{Account, Htpasswd};
use super::token::{
    BadToken, Token, TokenKey, TokenKind, docker_token_value, token_in_docker_value,
};
use super::*;
use std::time::{Duration, SystemTime};

const SHA: &str = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";
const OTHER: &str = "{SHA}AAAAAAAAAAAAAAAAAAAAAAAAAAA=";

fn key() -> TokenKey {
    TokenKey::new(b"a secret that only this test knows")
}

fn account(name: &str, hash: &str) -> Arc<Account> {
    let file = Htpasswd::parse(format!("{name}:{hash}").as_bytes()).expect("a file");
    file.account(name).expect("there").clone()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
}

fn token(account: Option<&Arc<Account>>, scopes: &str) -> Token {
    Token {
        account: account.cloned(),
        scopes: Scopes::parse([scopes]),
    }
}

fn read(
    kind: TokenKind,
    text: &str,
    now: SystemTime,
    today: Option<&Arc<Account>>,
) -> Result<Token, BadToken> {
    let look_up = |name: &str| today.filter(|account| **account.name() == *name).cloned();
    let read = key().read(kind, text, now, look_up);
    read.map(|(token, _)| token)
}

#[test]
fn token_is_valid_until_expiry_or_line_change() {
    let alice = account("alice", SHA);
    let minted = token(Some(&alice), "repository:a/b:pull,push registry:catalog:*");
    for (kind, life) in [(TokenKind::Bearer, 300), (TokenKind::Docker, 6 * 3600)] {
        let text = key().mint(kind, &minted, at(0));
        for now in [at(0), at(life - 1)] {
            let read = read(kind, &text, now, Some(&alice)).expect("good");
            assert_eq!(read.scopes, minted.scopes);
            assert_eq!(read.account.expect("a user").name(), alice.name());
        }
        assert!(
            read(kind, &text, at(life), Some(&alice)).is_err(),
            "expired"
        );
        assert!(
            read(kind, &text, at(0), Some(&account("alice", OTHER))).is_err(),
            "changed"
        );
        assert!(read(kind, &text, at(0), None).is_err(), "removed");
        let other_kind = if kind == TokenKind::Docker {
            TokenKind::Bearer
        } else {
            TokenKind::Docker
        };
        assert!(
            read(other_kind, &text, at(0), Some(&alice)).is_err(),
            "of another protocol"
        );
        let other_key = TokenKey::new(b"another secret that no test knows");
        assert!(
            other_key
                .read(kind, &text, at(0), |_| Some(alice.clone()))
                .is_err()
        );
        // Another node with the same key and the same file accepts it.
        let same_key = key();
        assert!(
            same_key
                .read(kind, &text, at(0), |_| Some(account("alice", SHA)))
                .is_ok()
        );
    }
}

#[test]
fn an_anonymous_token_is_nobodys() {
    let text = key().mint(TokenKind::Bearer, &token(None, "repository:a:pull"), at(0));
    let read = read(TokenKind::Bearer, &text, at(1), None).expect("good");
    assert!(read.account.is_none());
    assert_eq!(read.scopes.to_string(), "repository:a:pull");
}

#[test]
fn every_changed_byte_is_seen() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
    let alice = account("alice", SHA);
    let text = key().mint(
        TokenKind::Bearer,
        &token(Some(&alice), "repository:a:pull"),
        at(0),
    );
    let bytes = BASE64.decode(&text).expect("base64");
    for place in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[place] ^= change;
            let changed = BASE64.encode(changed);
            // Whichever user it names now, the line is alice's.
            let forged = key().read(TokenKind::Bearer, &changed, at(0), |_| Some(alice.clone()));
            assert!(forged.is_err(), "byte {place}");
        }
        assert!(
            read(
                TokenKind::Bearer,
                &BASE64.encode(&bytes[..place]),
                at(0),
                Some(&alice)
            )
            .is_err()
        );
    }
    assert!(read(TokenKind::Bearer, &format!("{text}A"), at(0), Some(&alice)).is_err());
    assert_eq!(format!("{:?}", key()), "[redacted]");
}

#[test]
fn docker_token_values_are_read_as_docker_returns_them() {
    let token = "abc-_123";
    let value = docker_token_value(token, "ns/repo", "write");
    assert_eq!(
        value,
        r#"signature=abc-_123,repository="ns/repo",access=write"#
    );
    for (sent, expected) in [
        (value.as_str(), Some(token)),
        (
            r#"signature=abc-_123, repository="ns/repo", access=write"#,
            Some(token),
        ),
        (r#"signature="abc-_123",repository="ns/repo""#, Some(token)),
        (
            r#"repository="ns/repo",access=write,signature=abc-_123"#,
            Some(token),
        ),
        ("signature=abc-_123,signature=other", Some(token)),
        ("signature=", Some("")),
        ("", None),
        (token, None),
    ] {
        assert_eq!(token_in_docker_value(sent), expected, "{sent}");
    }
}

#[test]
fn the_longest_docker_token_value_is_within_dockers_limit() {
    let name = "u".repeat(255);
    let account = account(&name, SHA);
    let repository = "r".repeat(255);
    let scopes = Scopes::repository(&repository, Actions::ALL);
    let token = Token {
        account: Some(account),
        scopes,
    };
    let value = docker_token_value(
        &key().mint(TokenKind::Docker, &token, at(0)),
        &repository,
        "delete",
    );
    assert!(value.len() <= 1600, "{}", value.len());
}

proptest! {
    #[test]
    fn reading_never_panics(text in "[A-Za-z0-9_-]{0,120}|\\PC{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        use base64::Engine as _;
        let alice = account("alice", SHA);
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
        for text in [&text, &encoded] {
            for kind in [TokenKind::Docker, TokenKind::Bearer] {
                prop_assert!(key().read(kind, text, at(0), |_| Some(alice.clone())).is_err());
            }
            let _ = token_in_docker_value(text);
        }
    }

    #[test]
    fn what_is_minted_is_read_back(name in "[a-z@ü]{1,20}", scopes in "(repository:[a-z/]{1,9}:(pull|push|delete) ?){0,5}") {
        let user = account(&name, SHA);
        let minted = token(Some(&user), &scopes);
        let text = key().mint(TokenKind::Bearer, &minted, at(0));
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        let read = read(TokenKind::Bearer, &text, at(299), Some(&user)).expect("good");
        prop_assert_eq!(read.scopes, minted.scopes);
    }
}
