//! A request target, `path?query`: accepted parts are harmless, and rendered ones parse to the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::page;
use oci::v2::{Endpoint, Path, Query, Resource, Target, parse, segments};

fuzz_target!(|text: &str| {
    // `Link` and `Location` of an upstream.
    if let Ok(Some(next)) = page::next(&Resource::Tags, [text]) {
        assert_eq!(page::selection(&Resource::Tags, &next).as_ref(), Ok(&next));
    }
    if let Some(target) = Target::split(text) {
        assert!(target.path.starts_with('/') && !target.path.starts_with("//"));
        let _ = target.named();
    }
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    if let Ok(query) = Query::parse(query) {
        query_holds(&query);
    }
    let Ok(segments) = segments(path) else { return };
    for segment in &segments {
        assert!(!segment.is_empty() && segment != "." && segment != "..");
        assert!(!segment.contains(|c: char| "/\\%".contains(c) || c.is_control()));
    }
    let Some(("v2", rest)) = segments.split_first().map(|(v2, rest)| (&**v2, rest)) else {
        return;
    };
    if let Ok(Path::Named { name, resource }) = parse(rest)
        && let Ok(repository) = name.parse()
    {
        endpoint_holds(&Endpoint {
            repository,
            resource,
        });
    }
});

/// A rendered path parses to the same endpoint.
fn endpoint_holds(endpoint: &Endpoint) {
    let rendered = endpoint.path();
    assert!(
        rendered.bytes().all(|byte| byte.is_ascii_graphic()),
        "{rendered}"
    );
    assert!(!rendered.contains(['?', '#', '\\']), "{rendered}");
    let segments = segments(&rendered).expect("a rendered path is valid");
    let Endpoint {
        repository,
        resource,
    } = endpoint.clone();
    let name = repository.to_string();
    assert_eq!(segments[0], "v2");
    assert_eq!(parse(&segments[1..]), Ok(Path::Named { name, resource }));
}

fn query_holds(query: &Query) {
    let rendered = query.render();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%=&?".contains(&byte);
    assert!(rendered.bytes().all(plain), "{rendered}");
    let text = rendered.strip_prefix('?').unwrap_or(&rendered);
    assert_eq!(Query::parse(text).as_ref(), Ok(query), "{rendered}");
    for key in ["n", "last", "ns", ""] {
        let value = query.value(key);
        assert!(!value.is_some_and(|value| value.contains(char::is_control)));
        assert_eq!(query.clone().without(key).value(key), None);
        assert_eq!(query.clone().with(key, "a&b").value(key), Some("a&b"));
    }
}
