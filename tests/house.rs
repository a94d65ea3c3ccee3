//! The rules of the house (design, "The house"), read off the source: floors, which crate is named
//! where, who touches the disk, the length of files, no `unwrap()`, no ignored tests.

#[path = "house/proof.rs"]
mod proof;
#[path = "house/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::path::Path;

use source::Source;

/// Floor 0, which everybody may use: what the protocols say, one question for many, files that change, and
/// how all of it speaks and counts.
const GROUND: &[&str] = &[
    "spec",
    "flight",
    "generation",
    "telemetry",
    "metrics",
    "reload",
    "share",
    "socket_file",
];

/// Every room, the rooms above the ground that it may use, and why those.
const FLOORS: &[(&str, &[&str], &str)] = &[
    ("spec", &[], "pure: it uses nothing of ours"),
    (
        "flight",
        &[],
        "one question for many, whoever asks: it knows nobody",
    ),
    (
        "generation",
        &[],
        "which answers still count, whatever they are about: it knows nobody",
    ),
    (
        "telemetry",
        &[],
        "everybody speaks through it, so it knows nobody",
    ),
    (
        "reload",
        &[],
        "files that change, whoever reads them: it knows nobody",
    ),
    (
        "share",
        &[],
        "what one client may have open, whoever listens: it knows nobody",
    ),
    (
        "socket_file",
        &[],
        "what a listener leaves on disk, whoever listens: it knows nobody",
    ),
    ("metrics", &[], "everybody counts, so it knows nobody"),
    (
        "store",
        &[],
        "floor 1: it knows neither the upstreams nor who asks",
    ),
    (
        "upstream",
        &[],
        "floor 1: it knows neither the disk nor who asks",
    ),
    ("access", &[], "floor 1: it decides before anybody looks"),
    (
        "mirror",
        &["store", "upstream", "access"],
        "floor 2: cached reads, from the disk and the network, for who has a permit",
    ),
    (
        "gateway",
        &["access", "mirror"],
        "floor 4: it gets bytes from the mirror alone, never from store or upstream",
    ),
    (
        "admin",
        &["store", "mirror"],
        "floor 4: it looks at the cache, never at the gateway beside it",
    ),
    (
        "config",
        &["store", "upstream", "access", "mirror", "gateway", "admin"],
        "it knows every floor's settings, and no floor knows it",
    ),
    (
        "serve",
        &[
            "store", "upstream", "access", "mirror", "gateway", "admin", "config",
        ],
        "it puts the house together",
    ),
    (
        "cli",
        &["access", "admin", "config", "serve"],
        "the commands",
    ),
    (
        "main",
        &["cli"],
        "it parses the command line and calls one function",
    ),
];

/// Rooms on the ground that use nothing at all, not even each other.
const SOLITARY: &[&str] = &[
    "spec",
    "flight",
    "generation",
    "telemetry",
    "metrics",
    "socket_file",
];

/// Words that only these files may say outside of tests, and why. A path that ends in `/` is a room.
const NAMED: &[(&[&str], &[&str], &str)] = &[
    (
        &["pingora"],
        &["src/gateway/"],
        "only the gateway names pingora",
    ),
    (
        &["reqwest"],
        &["src/upstream/"],
        "only upstream asks the network",
    ),
    (
        &["fs", "::"],
        &[
            // what is on disk
            "src/store/",
            // handles of files that the store opened, by the rule after this one
            "src/mirror/beside.rs",
            "src/mirror/bucket.rs",
            "src/mirror/download.rs",
            "src/mirror/fill.rs",
            "src/mirror/source.rs",
            "src/mirror/reader.rs",
            // files of the operator that change
            "src/reload.rs",
            // our CA and what it issues
            "src/gateway/tls/authority.rs",
            // the socket file of a listener
            "src/socket_file.rs",
            "src/gateway/front.rs",
            "src/admin/listen.rs",
            // the accounts and the token key
            "src/access/disk.rs",
            // the configuration, and password files that it names
            "src/config/mod.rs",
            "src/config/settings.rs",
        ],
        "only the store touches the disk, but for keys, sockets and the configuration",
    ),
    (
        &["object_store"],
        &["src/store/bucket/"],
        "only the store's bucket is asked over the network",
    ),
    (
        &["rcgen"],
        &["src/gateway/tls/"],
        "certificates are made in one place",
    ),
    (
        &["TcpListener"],
        &["src/gateway/front.rs", "src/admin/listen.rs"],
        "connections are taken in one place, those of operators in another",
    ),
    (
        &["saphyr_parser"],
        &["src/config/"],
        "only the configuration reads YAML",
    ),
    (
        &["serde_yaml"],
        &["src/config/"],
        "only the configuration reads YAML",
    ),
    (
        &["clap"],
        &["src/cli.rs"],
        "only the command line names clap",
    ),
    (
        &["println", "!"],
        &["src/cli.rs"],
        "the rest speaks through tracing",
    ),
    (
        &["prometheus"],
        &["src/metrics/"],
        "counters are made in one place",
    ),
    (
        &["hyper"],
        &["src/admin/", "src/cli/"],
        "only operators are spoken to like that",
    ),
    (
        &["eprintln", "!"],
        &["src/cli.rs", "src/cli/operate.rs"],
        "the rest speaks through tracing",
    ),
    (
        &["print", "!"],
        &["src/serve.rs"],
        "what is said once at start",
    ),
    (&["eprint", "!"], &[], "the rest speaks through tracing"),
    (&["dbg", "!"], &[], "left over"),
    (&["todo", "!"], &[], "left over"),
    (&["unimplemented", "!"], &[], "left over"),
    (
        &[".", "unwrap", "(", ")"],
        &[],
        "say what is known with expect, or return the error",
    ),
];

/// The mirror holds files that the store opened; it opens none.
const ONLY_THE_TYPE: (&str, &[&str]) = ("src/mirror/", &["std", "::", "fs", "::", "File"]);

/// The longest file in src, in lines.
const LONGEST: usize = 680;

/// What is wrong with these sources: `file:line: rule`.
fn faults(sources: &[Source]) -> Vec<String> {
    let tests = test_files(sources);
    let mut faults = Vec::new();
    for source in sources {
        floors(source, &mut faults);
        if !tests.contains(&source.path) {
            names(source, &mut faults);
        }
        for token in source.find(&["#", "[", "ignore"]) {
            faults.push(format!("{}:{}: an ignored test", source.path, token.line));
        }
        if source.lines > LONGEST {
            let Source { path, lines, .. } = source;
            faults.push(format!(
                "{path}:{lines}: longer than {LONGEST} lines; split it"
            ));
        }
    }
    faults
}

/// Files that are tests as a whole.
fn test_files(sources: &[Source]) -> BTreeSet<String> {
    let files = sources.iter().flat_map(|source| {
        let folder = source
            .path
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let modules = source.test_modules();
        modules
            .into_iter()
            .map(move |module| format!("{folder}/{module}.rs"))
    });
    files.collect()
}

/// The room that a file belongs to.
fn room(path: &str) -> &str {
    let inner = path.strip_prefix("src/").unwrap_or(path);
    let first = inner.split('/').next().unwrap_or(inner);
    first.strip_suffix(".rs").unwrap_or(first)
}

fn floors(source: &Source, faults: &mut Vec<String>) {
    let Source { path, .. } = source;
    let own = room(path);
    if own == "lib" {
        return;
    }
    let Some((_, below, reason)) = FLOORS.iter().find(|(name, ..)| *name == own) else {
        return faults.push(format!(
            "{path}:1: {own} has no floor; give it one in {}",
            file!()
        ));
    };
    for used in source.uses() {
        let Some(other) = used.path.first().map(String::as_str) else {
            let line = used.line;
            faults.push(format!("{path}:{line}: the whole house; name the room"));
            continue;
        };
        let ground = GROUND.contains(&other) && !SOLITARY.contains(&own);
        if other != own && !ground && !below.contains(&other) {
            let line = used.line;
            faults.push(format!(
                "{path}:{line}: {own} uses {other}; {own} is {reason}"
            ));
        }
    }
}

fn names(source: &Source, faults: &mut Vec<String>) {
    let Source { path, .. } = source;
    for (words, allowed, reason) in NAMED {
        let may = |allowed: &&str| {
            path == allowed || (allowed.ends_with('/') && path.starts_with(allowed))
        };
        if allowed.iter().any(may) {
            continue;
        }
        for token in source.find(words).filter(|token| !token.test) {
            let said = words.concat();
            faults.push(format!("{path}:{}: {said} here; {reason}", token.line));
        }
    }
    let (room, whole) = ONLY_THE_TYPE;
    if path.starts_with(room) {
        let count = |words| source.find(words).filter(|token| !token.test).count();
        if count(&["fs", "::"]) != count(whole) {
            faults.push(format!("{path}:1: it opens files; that is the store's"));
        }
    }
}

/// Every Rust file below a folder of the crate.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the crate") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("UTF-8");
                let path = path.strip_prefix(root).expect("below the root");
                sources.push(Source::parse(&path.to_string_lossy(), &text));
            }
        }
    }
    sources
}

#[test]
fn the_house_keeps_its_rules() {
    let sources = sources("src");
    let faults = faults(&sources);
    assert!(faults.is_empty(), "{}", faults.join("\n"));

    // The tables are about rooms and files that exist.
    let rooms: BTreeSet<&str> = sources.iter().map(|source| room(&source.path)).collect();
    for (room, ..) in FLOORS {
        assert!(rooms.contains(room), "{room} is in FLOORS, but not in src");
    }
    for path in NAMED.iter().flat_map(|(_, allowed, _)| *allowed) {
        let there = sources.iter().any(|source| source.path.starts_with(path));
        assert!(there, "{path} is in NAMED, but not in src");
    }
    // What is counted is what is used: mirror stands on these three.
    let mirror = sources
        .iter()
        .filter(|source| room(&source.path) == "mirror");
    let used: BTreeSet<String> = mirror
        .flat_map(Source::uses)
        .filter_map(|used| used.path.into_iter().next())
        .collect();
    for room in ["store", "upstream", "access", "spec"] {
        assert!(used.contains(room), "the mirror without {room}? {used:?}");
    }
}

/// A test that is never run proves nothing.
#[test]
fn no_test_is_ignored() {
    let mut faults = Vec::new();
    for source in sources("tests") {
        for token in source.find(&["#", "[", "ignore"]) {
            faults.push(format!("{}:{}: an ignored test", source.path, token.line));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
