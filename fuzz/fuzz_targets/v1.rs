//! The v1 API: an accepted path renders to one that parses to the same, and lists yield well-formed ids.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci::v1::{Endpoint, Path, ids_in_list, ids_of_tags, parse, plain};

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
    let endpoint = match parse(path) {
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
    let graphic = |byte: u8| byte.is_ascii_graphic() && !b"?#\\".contains(&byte);
    assert!(rendered.bytes().all(graphic), "{rendered}");
    match (parse(&rendered), endpoint) {
        (Ok(Path::Image { id, part }), Endpoint::Image { id: was, part: had }) => {
            assert_eq!((id, part), (was, had));
        }
        (
            Ok(Path::Named { name, resource }),
            Endpoint::Named {
                repository,
                resource: had,
            },
        ) => assert_eq!((plain(&name), resource), (plain(repository.as_str()), had)),
        (again, _) => panic!("{rendered} is read as {again:?}"),
    }
});
