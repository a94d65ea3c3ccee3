//! The tables of keys are what the parser does: forms, defaults, and what is required.

use super::fault::Report;
use super::reference::{Absent, Key, Kind};
use super::tests::{no_env, typed};
use super::{KEYS, read, yaml};

/// A text that no form takes but those that take any.
const NONSENSE: &str = "\u{1}no: such value";

/// Puts a value, on a line of its own, where a key is.
type Place<'a> = &'a dyn Fn(&str) -> String;

/// Calls `act` with every key and its place.
fn visit(keys: &'static [Key], around: Place<'_>, act: &mut dyn FnMut(&'static Key, Place<'_>)) {
    for key in keys {
        let place = |value: &str| around(&format!("{{{}:\n {value}}}", key.name));
        act(key, &place);
        let below = |value: &str| match key.kind {
            Kind::Items(_) => place(&format!("[{value}]")),
            _ => place(value),
        };
        visit(key.kind.keys(), &below, act);
    }
}

/// Whether anything is said against the last line.
fn is_refused(text: &str) -> bool {
    let mut report = Report::new("f");
    let tree = yaml::tree(text, &no_env, &mut report);
    read(&tree, &mut report);
    let line = format!("f:{}:", text.lines().count());
    let faults = report.verdict().err();
    let faults = faults.iter().flat_map(|faults| faults.as_slice().iter());
    faults
        .map(ToString::to_string)
        .any(|it| it.starts_with(&line))
}

/// Values of a form, and others that are none.
fn samples(form: &str) -> (&'static [&'static str], &'static [&'static str]) {
    match form {
        "path" | "text" => (&["some/thing"], &[""]),
        "text of 32 characters or more" => (&["0123456789abcdef0123456789abcdef"], &["short"]),
        "printable ASCII" => (&["Our registry"], &[NONSENSE]),
        "size" => (&["512MiB"], &["5%", "off", "1h"]),
        "size, or share of the file system, or `off`" => (&["1GiB", "5%", "off"], &["1h"]),
        "size from 1KiB to 1MiB" => (&["1KiB", "1MiB"], &["1B", "2MiB", "off"]),
        "duration" => (&["1h30m", "0s"], &["off", "forever", "5"]),
        "duration above zero" => (&["1h30m"], &["0s", "off"]),
        "duration, or `off`" => (&["1h30m", "off"], &["0s", "forever"]),
        "duration, or `forever`, or `off`" => (&["7d", "forever", "off"], &["1"]),
        "count" => (&["1", "4294967295"], &["0", "off", "1.5"]),
        "count from 1 to 64" => (&["1", "64"], &["0", "65", "off"]),
        "rate, or `off`" => (
            &["200/s", "30/m", "1000000/h", "off"],
            &["200", "0/s", "5/d", "1000001/s", "-1/s"],
        ),
        "count, or `off`" => (&["7", "off"], &["0", "1.5"]),
        "boolean" => (&["true", "false"], &["1", "yes"]),
        "address" => (&[":443", "[::1]:1", "h:1", "unix:p"], &["443", "h", "off"]),
        "address or network" => (&["10.0.0.7", "10.0.0.0/8", "::1"], &["10.0.0.1/8", "h"]),
        "address, or `off`" => (&[":443", "unix:p", "off"], &["443", "h"]),
        "https URL" => (&["https://h/dir", "https://h"], &["http://h", "h"]),
        "e-mail address" => (&["a@h"], &["a", "@", "a@b@c"]),
        "host name" => (&["registry.example.com"], &["*.h", "192.0.2.1", "h:1"]),
        "URL" => (&["http://h:1", "https://h"], &["h:1", "https://h/path"]),
        "http or https URL" => (&["https://h/path?x=1", "http://h:1"], &["h:1", "ftp://h"]),
        "action of an event" => (&["pull", "push", "mount", "delete", "alert"], &["login"]),
        "octal number" => (&["0660", "600"], &["rw", "0o660", "1777", "66"]),
        "name or number" => (&["www-data", "33"], &["a b", ""]),
        "host" => (&["registry.example.com"], &["http://h"]),
        "name of a registry" => (&["ghcr.io"], &[""]),
        "pattern" => (&["team/**", "intern-*"], &["a**", NONSENSE]),
        "image pattern" => (&["library/**", "team/app:1.*"], &["a**", "a@b"]),
        "platform" => (&["linux/amd64", "linux/arm/v7"], &["linux", "all"]),
        "user" => (
            &["somebody", "*", "anonymous", "cert:runner 7"],
            &["a:b", "cert:", "cert:*"],
        ),
        "action" => (&["pull", "push", "delete"], &["all"]),
        "regular expression" => (&["^docker/1"], &["("]),
        "`s3://name/prefix`" => (&["s3://name/prefix", "s3://name"], &["https://name"]),
        "`docker-credential-…`" => (&["docker-credential-pass"], &["/bin/sh"]),
        _ => panic!("a form without samples: {form}"),
    }
}

fn assert_takes(place: Place<'_>, form: &str, as_item: bool) {
    let written = |value: &str| {
        let value = serde_json::to_string(value).expect("text");
        place(&if as_item { format!("[{value}]") } else { value })
    };
    let (good, bad) = samples(form);
    for value in good {
        let text = written(value);
        assert!(!is_refused(&text), "{form}: {text}");
    }
    for value in bad {
        let text = written(value);
        assert!(is_refused(&text), "{form}: {text}");
    }
    assert!(as_item || is_refused(&place("[a]")), "{form}: a list");
}

fn assert_chooses(place: Place<'_>, words: &[&str]) {
    for word in words {
        assert!(!is_refused(&place(word)), "{}", place(word));
    }
    assert!(is_refused(&place("nonsense")), "{}", place("nonsense"));
}

#[test]
fn keys_take_what_the_reference_says() {
    let mut keys = 0;
    visit(KEYS, &str::to_owned, &mut |key, place| {
        match key.kind {
            Kind::Scalar(form) | Kind::Secret(form) => assert_takes(place, form, false),
            Kind::List(form) => assert_takes(place, form, true),
            Kind::Choice(words) | Kind::ChoiceOrSection(words, _) => assert_chooses(place, words),
            Kind::ChoiceOrList(words, form) => {
                assert_chooses(place, words);
                let (good, bad) = samples(form);
                let written = |value| place(&format!("[{value:?}]"));
                assert!(good.iter().all(|it| !is_refused(&written(it))));
                assert!(bad.iter().all(|it| is_refused(&written(it))));
            }
            Kind::Section(_) | Kind::Items(_) => {
                assert!(is_refused(&place("nonsense")), "{}", key.name);
            }
            Kind::Map(..) => {
                assert_eq!(key.name, "pins");
                let digest = format!("\"sha256:{}\"", "0".repeat(64));
                let written = |tag: &str| place(&format!("{{\"{tag}\": {digest}}}"));
                assert!(!is_refused(&written("team/app:1")));
                assert!(is_refused(&written("team/app")));
                assert!(is_refused(&place("nonsense")) && is_refused(&place("[a]")));
            }
        }
        keys += 1;
    });
    assert!(keys > 60, "{keys}");
}

#[test]
fn what_is_absent_without_the_reference_saying_required_is_not_missed() {
    visit(KEYS, &str::to_owned, &mut |key, place| {
        for below in key.kind.keys() {
            let message = format!("{} is missing here", below.name);
            let text = match key.kind {
                Kind::Items(_) => place("[{}]"),
                _ => place("{}"),
            };
            let missed = typed(&text).is_err_and(|faults| {
                let mut faults = faults.as_slice().iter();
                faults.any(|fault| fault.to_string().contains(&message))
            });
            let required = matches!(below.absent, Absent::Required);
            assert_eq!(missed, required, "{}: {message}", key.name);
        }
    });
}

/// The defaults that the tables name, written out; `first` comes before them.
fn written_out(keys: &[Key], first: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    if !first.is_empty() {
        parts.push(first.to_owned());
    }
    for key in keys {
        match (&key.kind, &key.absent) {
            (_, Absent::Is(value)) => parts.push(format!("{}: {value:?}", key.name)),
            (Kind::Section(keys), _) => {
                parts.push(format!("{}: {}", key.name, written_out(keys, "")));
            }
            _ => {}
        }
    }
    format!("{{{}}}", parts.join(", "))
}

#[test]
fn the_defaults_of_the_reference_are_those_of_the_program() {
    let keys = |name: &str| -> &'static [Key] {
        let key = KEYS.iter().find(|key| key.name == name);
        key.expect("a section").kind.keys()
    };
    let per_client = |keys: &'static [Key]| -> &'static [Key] {
        let key = keys.iter().find(|key| key.name == "per_client");
        key.expect("a section").kind.keys()
    };
    let listener = "address: \":1\"";
    let registry = "name: ghcr.io";
    for (explicit, implicit) in [
        (written_out(KEYS, ""), "{}".to_owned()),
        (
            format!("listen: [{}]", written_out(keys("listen"), listener)),
            format!("listen: [{{{listener}}}]"),
        ),
        (
            format!(
                "registries: [{}]",
                written_out(keys("registries"), registry)
            ),
            format!("registries: [{{{registry}}}]"),
        ),
        (
            format!("access: {}", written_out(keys("access"), "")),
            "access: {}".to_owned(),
        ),
        (
            format!(
                "limits: {{per_client: {}}}",
                written_out(per_client(keys("limits")), "")
            ),
            String::new(),
        ),
    ] {
        let typed = |text: &str| format!("{:?}", typed(text).expect(text));
        assert_ne!(explicit, implicit);
        assert_eq!(typed(&explicit), typed(&implicit), "{explicit}");
    }
}
