//! htpasswd files and their hashes: what is an account, what is refused and how it is told, and another
//! reader of such files as the oracle.

use std::panic::catch_unwind;

use proptest::prelude::*;

use super::hash::{Hash, Kind};
use super::htpasswd::{Htpasswd, Reason, check_name, with_account, without_account};
use super::*;

/// All of them are of `password`; bcrypt's by Apache's tool and by OpenBSD's.
const BCRYPT: &str = "$2y$05$nC6nErr9XZJuMJ57WyCob.EuZEjylDt2KaHfbfOtyb.EgL1I2jCVa";
const APR1: &str = "$apr1$lZL6V/ci$eIMz/iKDkbtys/uU7LEK00";
const SHA: &str = "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=";

fn parse(text: &str) -> Result<Htpasswd, String> {
    Htpasswd::parse(text.as_bytes()).map_err(|error| error.to_string())
}

fn verifies(hash: &str, password: &[u8]) -> bool {
    Hash::parse(hash).expect("a hash").verify(password)
}

#[test]
fn files_as_people_have_them() {
    for text in [
        format!("a:{BCRYPT}\nb:{APR1}\nc:{SHA}\n"),
        format!("a:{BCRYPT}\r\nb:{APR1}\r\nc:{SHA}\r\n"),
        format!("\u{feff}a:{BCRYPT}\nb:{APR1}\nc:{SHA}"),
        format!("# users\n\na:{BCRYPT}\n  \n \t# more\n b:{APR1} \t\nc:{SHA}\n\n\n"),
        // Text after another colon is ignored.
        format!("a:{BCRYPT}:A. N. Other\nb:{APR1}:\nc:{SHA}::\n"),
    ] {
        let file = parse(&text).expect(&text);
        assert_eq!(file.len(), 3, "{text:?}");
        for name in ["a", "b", "c"] {
            let account = file.account(name).expect(name);
            assert!(account.hash.verify(b"password"), "{name} of {text:?}");
            assert!(!account.hash.verify(b"Password"), "{name} of {text:?}");
        }
        assert!(file.account("d").is_none() && file.account("").is_none());
    }
    assert!(parse("").expect("empty").is_empty());
    assert!(parse("\u{feff}\n# none\n").expect("empty").is_empty());
    let odd = parse(&format!("a b:{SHA}\nü@x/y:{SHA}\n$1:{SHA}")).expect("names");
    assert_eq!(odd.len(), 3);
}

#[test]
fn lines_that_are_no_accounts_are_told_without_their_hash() {
    for (text, expected) in [
        (
            "a",
            "line 1: it has no colon; write name:hash, or remove it",
        ),
        ("\n\n:x", "line 3: the name is empty"),
        (
            "anonymous:x",
            "line 1: `anonymous` and `*` mean any client and any logged-in user in rules; write another name",
        ),
        (
            "*:x",
            "line 1: `anonymous` and `*` mean any client and any logged-in user in rules; write another name",
        ),
        (
            "a\u{7}:x",
            "line 1: a name has no colon, no control character, no `#` before it and no space around it",
        ),
        (
            "a :x",
            "line 1: a name has no colon, no control character, no `#` before it and no space around it",
        ),
        (
            "a:secret",
            "line 1: a's hash is neither bcrypt, apr1 nor {SHA}, but plain text or crypt; write it anew with `roadstead passwd`",
        ),
        (
            "a:",
            "line 1: a's hash is neither bcrypt, apr1 nor {SHA}, but plain text or crypt; write it anew with `roadstead passwd`",
        ),
        (
            "a:$6$salt$digest\nb:$1$x$y",
            "line 1: a's hash is SHA-512 crypt, which is not supported; write it anew with `roadstead passwd`; \
             line 2: b's hash is MD5 crypt, which is too weak; write it anew with `roadstead passwd`",
        ),
        (
            "a:$2y$18$nC6nErr9XZJuMJ57WyCob.EuZEjylDt2KaHfbfOtyb.EgL1I2jCVa",
            "line 1: a's bcrypt hash has cost 18; 4 to 17 can be checked; write it anew with `roadstead passwd`",
        ),
        (
            "a:$2y$10$short",
            "line 1: a's bcrypt hash is cut short or mistyped; write it anew with `roadstead passwd`",
        ),
        (
            "a:$apr1$short",
            "line 1: a's apr1 hash is cut short or mistyped; write it anew with `roadstead passwd`",
        ),
        (
            "a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g",
            "line 1: a's {SHA} hash is cut short or mistyped; write it anew with `roadstead passwd`",
        ),
    ] {
        assert_eq!(parse(text).expect_err(text), expected, "{text:?}");
    }
    let twice = format!("a:{SHA}\nb:{SHA}\na:{SHA}\n");
    assert_eq!(
        parse(&twice).expect_err("twice"),
        "line 3: the name is in line 1 already; keep one of them"
    );
    let not_text = Htpasswd::parse(b"a:\xff\n").expect_err("not UTF-8");
    assert_eq!(not_text.as_slice()[0].reason, Reason::NotText);
    let many = "x\n".repeat(50);
    let told = parse(&many).expect_err("no colons");
    assert!(told.ends_with("; and 40 more"), "{told}");
    let long = "n".repeat(256);
    assert_eq!(check_name(&long), Err(NameError::Long));
    assert_eq!(check_name(&long[1..]), Ok(()));
}

/// Every way to damage one character of a good hash is a hash that says no, or is refused.
#[test]
fn damaged_hashes() {
    for good in [BCRYPT, APR1, SHA] {
        let cheap = good.replace("$05$", "$04$");
        for at in 0..good.len() {
            for letter in ["", "$", "x", ".", "/", "0", "~", " ", "\u{e9}", "\0"] {
                let text = format!("{}{letter}{}", &cheap[..at], &cheap[at + 1..]);
                // A cost of 10 and more would take minutes here.
                let slow =
                    matches!(Hash::parse(&text), Ok(ref hash) if hash.kind() > Kind::Bcrypt(5));
                if text != cheap && text != good && !slow {
                    let right = Hash::parse(&text).is_ok_and(|hash| hash.verify(b"password"));
                    assert!(!right, "{text}");
                }
            }
            assert!(Hash::parse(&good[..at]).is_err(), "{}", &good[..at]);
        }
    }
}

#[test]
fn passwords_at_their_limits() {
    let bcrypt = |password: &[u8]| {
        let parts = bcrypt::hash_with_salt(password, 4, [7; 16]).expect("a hash");
        parts.format_for_version(bcrypt::Version::TwoY)
    };
    // bcrypt reads 72 bytes, and so does Apache's.
    let (long, cut) = ([b'x'; 80], [b'x'; 72]);
    assert!(verifies(&bcrypt(&long), &cut) && verifies(&bcrypt(&cut), &long));
    assert!(!verifies(&bcrypt(&cut), &cut[1..]));
    for hash in [bcrypt(b""), SHA.to_owned(), APR1.to_owned()] {
        assert!(!verifies(&hash, &[b'x'; 1025]));
        assert!(!verifies(&hash, b"password\0"));
        assert!(!verifies(&hash, b"\0"));
    }
    assert!(verifies(&bcrypt(b""), b""));
    for version in ["2a", "2b", "2y"] {
        let hash = bcrypt(b"p").replace("2y", version);
        assert!(verifies(&hash, b"p") && !verifies(&hash, b"q"), "{hash}");
    }
}

#[test]
fn the_decoy_costs_what_most_accounts_cost() {
    let cost = |cost: u32| format!("$2y${cost:02}${}", &BCRYPT[7..]);
    let kind = |hashes: &[&str]| {
        let lines = (0..).zip(hashes).map(|(n, hash)| format!("u{n}:{hash}\n"));
        parse(&lines.collect::<String>())
            .expect("a file")
            .decoy
            .kind()
    };
    let (five, ten) = (cost(5), cost(10));
    assert_eq!(kind(&[]), Kind::Bcrypt(10));
    assert_eq!(kind(&[SHA]), Kind::Sha1);
    assert_eq!(kind(&[SHA, APR1, APR1]), Kind::Apr1);
    assert_eq!(kind(&[&five, &ten, &five, SHA]), Kind::Bcrypt(5));
    assert_eq!(kind(&[&five, &ten, SHA]), Kind::Bcrypt(10));
}

#[test]
fn one_line_changes() {
    let good = |text: &str, expected: &str, added: bool| {
        let changed = with_account(text.as_bytes(), "a", "new").expect(text);
        let (bytes, was_added) = changed;
        assert_eq!(String::from_utf8_lossy(&bytes), expected, "{text:?}");
        assert_eq!(was_added, added, "{text:?}");
    };
    for (text, expected) in [
        ("", "a:new\n"),
        ("\u{feff}", "\u{feff}a:new\n"),
        ("b:x", "b:x\na:new\n"),
        ("b:x\n", "b:x\na:new\n"),
        ("b:x\r\n", "b:x\r\na:new\r\n"),
        ("b:x\r\nc:y", "b:x\r\nc:y\r\na:new\r\n"),
        ("# a:x\naa:x\na\n\n", "# a:x\naa:x\na\n\na:new\n"),
    ] {
        good(text, expected, true);
    }
    for (text, expected) in [
        ("a:x", "a:new"),
        ("a:x\n", "a:new\n"),
        ("\u{feff}a:x\r\nb:y\r\n", "\u{feff}a:new\r\nb:y\r\n"),
        ("b:y\n\t a:x:note \n\n# end", "b:y\n\t a:new \n\n# end"),
    ] {
        good(text, expected, false);
    }
    assert_eq!(
        with_account(b"a:x\nb:y\na:z\n", "a", "new"),
        Err(vec![1, 3])
    );
    let binary = with_account(b"b:\xff\x00\n", "a", "new").expect("added").0;
    assert_eq!(binary, b"b:\xff\x00\na:new\n");
}

#[test]
fn all_lines_of_an_account_are_deleted() {
    for (text, expected) in [
        ("", None),
        ("aa:x\n#a:x\na\n", None),
        ("a:x", Some("")),
        ("b:y\r\n a:x\r\nc:z", Some("b:y\r\nc:z")),
        ("\u{feff}a:x\n\nb:y\na:z", Some("\u{feff}\nb:y\n")),
    ] {
        let deleted = without_account(text.as_bytes(), "a");
        let deleted = deleted.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(deleted.as_deref(), expected, "{text:?}");
    }
}

/// What the other reader says; `None` where it panics.
fn oracle(file: &str, name: &str, password: &str) -> Option<bool> {
    let (file, name, password) = (file.to_owned(), name.to_owned(), password.to_owned());
    catch_unwind(move || htpasswd_verify::Htpasswd::from(file.as_str()).check(name, password)).ok()
}

/// A line of a kind that the other reader knows, of this password.
fn line(kind: u8, password: &str, salt: [u8; 16]) -> String {
    match kind % 3 {
        0 => {
            let parts = bcrypt::hash_with_salt(password, 4, salt).expect("a hash");
            parts.format_for_version(bcrypt::Version::TwoY)
        }
        1 => {
            let salt: String = salt[..8]
                .iter()
                .map(|byte| char::from(b'A' + byte % 26))
                .collect();
            let digest = htpasswd_verify::md5::md5_apr1_encode(password, &salt);
            htpasswd_verify::md5::format_hash(&digest, &salt)
        }
        _ => {
            use base64::Engine as _;
            use sha1::Digest as _;
            let digest = sha1::Sha1::digest(password);
            format!(
                "{{SHA}}{}",
                base64::engine::general_purpose::STANDARD.encode(digest)
            )
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Its MD5 reads blocks of 64 bytes through an unaligned pointer, hence the short passwords.
    #[test]
    fn the_oracle_agrees(
        kind in 0_u8..3,
        password in "[^\\x00]{0,12}",
        other in "[^\\x00]{0,12}",
        salt in any::<[u8; 16]>(),
    ) {
        let hash = line(kind, &password, salt);
        let file = format!("user:{hash}");
        let ours = parse(&file).expect(&file);
        let account = ours.account("user").expect("the only one");
        for guess in [&password, &other, "", "password"] {
            let right = account.hash.verify(guess.as_bytes());
            if let Some(theirs) = oracle(&file, "user", guess) {
                prop_assert_eq!(right, theirs, "{} {:?}", hash, guess);
            }
            prop_assert_eq!(right, guess == password, "{} {:?}", hash, guess);
        }
        prop_assert_ne!(oracle(&file, "user", &password), Some(false));
    }

    #[test]
    fn a_changed_file_says_so(before in "(([ab]|#x|):?x?\r?\n){0,4}[ab]?", name in "[abc]") {
        if let Ok((after, added)) = with_account(before.as_bytes(), &name, SHA) {
            let line = format!("{name}:{SHA}");
            let after = String::from_utf8(after).expect("UTF-8");
            let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>();
            let (mut old, mut new) = (lines(&before), lines(&after));
            prop_assert_eq!(new.iter().filter(|known| **known == line).count(), 1);
            new.retain(|known| *known != line);
            if !added {
                old.retain(|known| !known.starts_with(&format!("{name}:")));
            }
            prop_assert_eq!(old, new);
        }
    }
}

proptest! {
    #[test]
    fn no_input_panics(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "((a|b|\\PC{0,3})(:)(\\$2y\\$04\\$|\\$apr1\\$|\\{SHA\\}|)[./A-Za-z0-9$=+é]{0,56}\r?\n){0,4}".prop_map(String::into_bytes),
        ],
        password in prop::collection::vec(any::<u8>(), 0..80),
    ) {
        if let Ok(file) = Htpasswd::parse(&bytes) {
            for name in file.names() {
                let account = file.account(name).expect("listed");
                if account.hash.kind() <= Kind::Bcrypt(4) {
                    account.hash.verify(&password);
                }
            }
        }
        let _ = with_account(&bytes, "a", "x");
    }
}
