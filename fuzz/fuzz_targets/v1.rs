//! The v1 API: a path that is accepted is read back as it is rendered, and lists give ids that stand in them.

#![no_main]

use libfuzzer_sys::fuzz_target;
use roadstead_fuzz::spec::v1::{Endpoint, Path, ids_in_list, ids_of_tags, parse};
use roadstead_fuzz::spec::v2::segments;

fuzz_target!(|bytes: &[u8]| {
    for id in ids_in_list(bytes).iter().chain(&ids_of_tags(bytes)) {
        let id = id.as_str();
        assert!(
            matches!(id.len(), 16 | 64) && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
    }
    let Ok(path) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(segments) = segments(path) else { return };
    let Some(("v1", rest)) = segments.split_first().map(|(v1, rest)| (v1.as_str(), rest)) else {
        return;
    };
    let endpoint = match parse(rest, path.ends_with('/')) {
        Ok(Path::Named { name, resource }) => {
            let Ok(repository) = name.parse() else { return };
            Endpoint::Named {
                repository,
                resource,
            }
        }
        Ok(Path::Image { id, part }) => Endpoint::Image { id, part },
        _ => return,
    };
    let rendered = endpoint.path();
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#\\".contains(&byte);
    assert!(rendered.bytes().all(plain), "{rendered}");
    let again = roadstead_fuzz::spec::v2::segments(&rendered).expect("a rendered path is valid");
    let again = parse(&again[1..], rendered.ends_with('/'));
    match (again, endpoint) {
        (Ok(Path::Image { id, part }), Endpoint::Image { id: was, part: had }) => {
            assert_eq!((id, part), (was, had));
        }
        (
            Ok(Path::Named { name, resource }),
            Endpoint::Named {
                repository,
                resource: had,
            },
        ) => assert_eq!((name, resource), (repository.to_string(), had)),
        (again, _) => panic!("{rendered} is read as {again:?}"),
    }
});
