//! 100,000 repositories: they are listed, searched and sorted in pages of bounded size and memory.

use std::collections::BTreeSet;

use super::*;

const REPOSITORIES: usize = 100_000;
/// The most bytes of an item of a list.
const ITEM: usize = 300;
/// The most memory that lists and surveys may take beside what the gateway has at rest, in KiB.
const MEMORY_KIB: u64 = 96 << 10;
/// Each repository is read from the disk; this machine may be busy.
const LONG: Duration = Duration::from_secs(180);

/// A page of the list of repositories, as sent and as parsed.
#[track_caller]
fn page(gateway: &Gateway, query: &str) -> (usize, Value) {
    let reply = ask(gateway, &format!("/api/v1/repositories?{query}"));
    assert_eq!(reply.status(), 200, "{query}: {reply:?}");
    let page = serde_json::from_slice(&reply.body).expect("JSON");
    (reply.body.len(), page)
}

#[test]
fn hundred_thousand_repositories_are_listed_in_pages() {
    let _alone = crate::heavy_test();
    let dir = testkit::store::memory_dir();
    let store = dir.path().display();
    let more = format!("{ANYWHERE}store: {{path: {store}}}\n");
    let (_origin, image, mut gateway) = scene(1_000_000, &more);
    pull(&gateway, &image);
    gateway.terminate();
    testkit::store::add_repositories(dir.path(), "docker.io", REPOSITORIES);
    gateway.restart();
    testkit::eventually_within(LONG, "the store to be counted", || {
        let overview = read(&gateway, "/api/v1/overview");
        (overview["store"]["scanning"] == false).then_some(())
    });
    let before = gateway.rss_kib();
    gateway.reset_peak();
    let total = REPOSITORIES + 1;
    for (query, limit) in [("", 50), ("limit=500", 500), ("limit=1", 1)] {
        let (bytes, page) = page(&gateway, query);
        assert_eq!(page["total"], total, "{query}");
        assert_eq!(members(&page, "repository").len(), limit, "{query}");
        assert!(bytes < limit * ITEM + 500, "{query}: {bytes} bytes");
    }

    // Page by page, each once and in order.
    let (mut seen, mut query) = (Vec::new(), "q=project-07&limit=500".to_owned());
    loop {
        let (_, page) = page(&gateway, &query);
        assert_eq!(page["total"], 10_000);
        seen.extend(members(&page, "repository"));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        query = format!("q=project-07&limit=500&after={}", next.replace(' ', "+"));
    }
    let expected = (70_000..80_000).map(|number| {
        let project = number / 1000;
        format!("project-{project:03}/service-{number:06}")
    });
    assert_eq!(seen, expected.collect::<Vec<_>>());
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len());
    for (words, found) in [
        ("SERVICE-054321", 1),
        ("library app", 1),
        ("no-such-name", 0),
    ] {
        let (_, page) = page(&gateway, &format!("q={}", words.replace(' ', "+")));
        assert_eq!(page["total"], found, "{words}");
    }

    // The survey of all sizes may take longer than a request waits.
    let sort = "/api/v1/repositories?sort=size&limit=3";
    let largest = testkit::eventually_within(LONG, "the largest ones", || {
        let reply = ask(&gateway, sort);
        let body: Value = serde_json::from_slice(&reply.body).expect("JSON");
        if reply.status() == 503 {
            assert_eq!(body["code"], "store-scanning", "{body}");
            return None;
        }
        assert_eq!(reply.status(), 200, "{reply:?}");
        Some(body)
    });
    assert_eq!(members(&largest, "repository")[0], "library/app");
    assert_eq!(largest["total"], 500, "the rest is not ranked");
    // A purge outdates it; the list that is there is shown until the next one.
    let purged = act(
        &gateway,
        "/api/v1/purge",
        r#"{"target": "docker.io/library/app"}"#,
    );
    assert_eq!(purged.status(), 200, "{purged:?}");
    testkit::eventually_within(LONG, "the list without it", || {
        let names = members(&read(&gateway, sort), "repository");
        (names[0] != "library/app").then_some(())
    });
    let (_, page) = page(&gateway, "limit=1");
    assert_eq!(page["total"], REPOSITORIES);
    let grown = gateway.peak_rss_kib().saturating_sub(before);
    assert!(grown < MEMORY_KIB, "{grown} KiB");
}
