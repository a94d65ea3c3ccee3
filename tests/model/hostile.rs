//! Attempts to get at secrets: uploads whose queries and bodies different parsers read differently, and paths in
//! odd spellings.

use super::bindings::NAMES;
use super::generate::Generator;
use super::rules::{Action, Place};
use super::script::{Body, Step};
use super::world::USERS;

/// The material of an attempt.
struct Attempt {
    /// The wanted content, and a repository that holds it.
    secret: String,
    from: Place,
    /// A mount that the sender is allowed: a content, and the repository to mount it from.
    own: Option<(String, Place)>,
}

/// Starts an upload that tries to mount a secret or to get it linked, then probes for it.
pub fn upload(generator: &mut Generator) {
    let registry = generator.pick(&["hosted", "hosted", "vault"]);
    let name = generator.pick(&["secret/a", "secret/a", "secret/b", "team/a"]);
    let from = Place::new(registry, name);
    let Some((who, place)) = outsider(generator, &from).or_else(|| generator.pick_push()) else {
        return;
    };
    let held = generator.contents_of(&from);
    let secret = if held.is_empty() || generator.chance(10) {
        generator.pick_content()
    } else {
        held[generator.random.usize(0..held.len())].clone()
    };
    let own = own_mount(generator, &who, &place);
    let attempt = Attempt { secret, from, own };
    let query = query(generator, &attempt);
    let query: Vec<&str> = query.iter().map(String::as_str).collect();
    let form = generator.chance(40).then(|| form(generator, &attempt));
    let plain = form.is_some() && generator.chance(50);
    generator.begin(&who, &place, if plain { &[] } else { &query });
    if let Some((kind, body)) = form {
        let step = generator.script.steps.last_mut().expect("just begun");
        step.headers.push(("Content-Type".to_owned(), kind));
        step.body = body;
    }
    // It may now be in the target, in the source of the allowed mount, or anywhere else.
    let Attempt { secret, from, own } = attempt;
    generator.probe(&who, &place, &secret);
    let other = match own {
        Some((_, own)) if generator.chance(50) => own,
        _ => Place::new(&from.registry, generator.pick(&NAMES)),
    };
    if generator.chance(50) {
        generator.probe(&who, &other, &secret);
    }
    if generator.chance(30) {
        let reader = generator.pick_caller();
        generator.probe(&reader, &place, &secret);
    }
}

/// Picks a user who may push in the same registry but may not pull from a repository, and where to push.
fn outsider(generator: &mut Generator, from: &Place) -> Option<(String, Place)> {
    let (mut names, mut users) = (NAMES, USERS);
    generator.random.shuffle(&mut names);
    generator.random.shuffle(&mut users);
    let places = names.map(|name| Place::new(&from.registry, name));
    let mut pairs = places
        .iter()
        .flat_map(|place| users.map(|user| (user, place)));
    let (user, place) = pairs.find(|(user, place)| {
        generator.may(user, Action::Push, place) && !generator.may(user, Action::Pull, from)
    })?;
    Some((user.to_owned(), place.clone()))
}

/// Finds a mount that a user is allowed.
fn own_mount(generator: &mut Generator, who: &str, place: &Place) -> Option<(String, Place)> {
    let mut names = NAMES;
    generator.random.shuffle(&mut names);
    names.into_iter().find_map(|name| {
        let from = Place::new(&place.registry, name);
        if !generator.may(who, Action::Pull, &from) {
            return None;
        }
        let held = generator.contents_of(&from).into_iter();
        let blob = held
            .into_iter()
            .find(|content| !generator.is_manifest(content))?;
        Some((blob, from))
    })
}

/// A query that some parser may read as the allowed mount.
fn query(generator: &mut Generator, attempt: &Attempt) -> Vec<String> {
    let Attempt { secret, from, own } = attempt;
    let (mount, source) = (format!("mount=<{secret}>"), format!("from=<{}>", from.name));
    let mut pairs = match own {
        Some((content, from)) => vec![
            format!("mount=<{content}>"),
            format!("from=<{}>", from.name),
        ],
        None => Vec::new(),
    };
    let first = generator.random.bool();
    let mut add = |pair: String| {
        if first {
            pairs.insert(0, pair);
        } else {
            pairs.push(pair);
        }
    };
    match generator.random.u8(0..26) {
        0..5 => add(format!("digest=<{secret}>")),
        5 => add(format!("dig%65st=<{secret}>")),
        6 => add(format!("DIGEST=<{secret}>")),
        7 => add(mount),
        8 => add(source),
        9 => {
            add(mount);
            add(source);
        }
        10 => add(format!("MOUNT=<{secret}>&FROM=<{}>", from.name)),
        11 => add(format!("x=1;{mount};{source}")),
        12 => add(format!("m%6Funt=<{secret}>&fr%6Fm=<{}>", from.name)),
        13 => return vec![mount, source],
        14 => {
            let prefixed = format!("from={}/<{}>", from.registry, from.name);
            return vec![mount, prefixed];
        }
        15 => return vec![mount],
        16 => return vec![mount, format!("from=<{}>", generator.pick(&NAMES))],
        17 => return vec![format!("digest=<{secret}>")],
        18 => return vec![mount, format!("origin={}", from.registry)],
        19 => return vec![mount, source, "origin=vault".to_owned()],
        _ => {}
    }
    pairs
}

/// A form that adds to the query, and its Content-Type.
fn form(generator: &mut Generator, attempt: &Attempt) -> (String, Body) {
    let Attempt { secret, from, .. } = attempt;
    let pairs = match generator.random.u8(0..4) {
        0 => vec![("digest", secret)],
        1 => vec![("from", &from.name)],
        _ => vec![("mount", secret), ("from", &from.name)],
    };
    let value = |value: &str| format!("<{value}>");
    let pairs = pairs
        .into_iter()
        .map(|(name, content)| (name.to_owned(), value(content)));
    let pairs: Vec<(String, String)> = pairs.collect();
    let kind = generator.pick(&[
        "multipart/form-data; boundary=xx",
        "multipart/form-data; boundary=xx",
        "Multipart/Form-Data;boundary=\"xx\"",
        "multipart/mixed; boundary=xx",
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-Urlencoded; charset=utf-8",
        " application/x-www-form-urlencoded",
        "application/octet-stream",
    ]);
    let body = if kind.to_ascii_lowercase().starts_with("multipart") {
        Body::Parts(pairs)
    } else {
        let text: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        Body::Text(text.join("&"))
    };
    (kind.to_owned(), body)
}

/// Adds a request with a path that parsers may read differently.
pub fn odd_path(generator: &mut Generator) {
    let who = generator.pick_caller();
    let (own, content) = (generator.pick(&NAMES), generator.pick_content());
    let other = generator.pick(&["secret/a", "secret/b", "team/a"]);
    let target = match generator.random.u8(0..8) {
        0 => format!("/v2/<{own}>/../../<{other}>/blobs/<{content}>"),
        1 => format!("/v2/<{own}>/%2e%2e/%2e%2e/<{other}>/blobs/<{content}>"),
        2 => format!("//v2//<{other}>//blobs//<{content}>"),
        3 => format!("/v2/<{own}>%2F..%2F<{other}>/manifests/<{other}#v1>"),
        4 => format!("/v2/<{own}>/blobs/<{content}>?ns=hosted&ns=vault"),
        5 => format!("/v2/<{own}>/blobs/<{content}>?n%73=vault"),
        6 => format!("/v2/vault/hosted/<{other}>/blobs/<{content}>"),
        _ => format!("/v2/<{own}>/blobs/<{content}>/../../../<{other}>/tags/list"),
    };
    generator.push(Step {
        who,
        method: "GET".to_owned(),
        target,
        ..Step::default()
    });
}
