//! Pages of lists: the query that selects one, and the `Link` to the next.
//!
//! `n` and `last` are the specification's, `artifactType` filters referrers (distribution-spec 1.1, "Listing
//! Tags", "Listing Referrers"). `next_page` is Quay's cursor in `Link`. Clients send nothing else to lists, and
//! other keys would only split the cache.

use std::iter;

use super::query::Query;
use super::v2::Resource;

/// The longest `last` or `next_page`, in bytes: some registries write encrypted cursors of several hundred.
const MAX_CURSOR: usize = 2048;
/// The longest `artifactType`, in bytes: a media type has at most 127 on each side (RFC 6838 §4.2).
const MAX_TYPE: usize = 255;

/// The keys that position a page.
const CURSORS: [&str; 2] = ["last", "next_page"];

/// Why a query selects no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// `n` is no whole number (`PAGINATION_NUMBER_INVALID`).
    #[error("n is the maximum number of results, a whole number")]
    Number,
    /// `last` or another key is too long to be forwarded.
    #[error("{key} is longer than {most} bytes")]
    Long {
        /// The key.
        key: &'static str,
        /// The longest value, in bytes.
        most: usize,
    },
}

/// The part of a client's query that applies to `resource`, in a fixed order. All other keys are dropped, and
/// all keys if the resource is no list.
///
/// # Errors
/// [`PageError`] if `n` is no number, or a value is too long.
pub fn selection(resource: &Resource, query: &Query) -> Result<Query, PageError> {
    let mut selected = Query::default();
    if !matches!(resource, Resource::Tags | Resource::Referrers(_)) {
        return Ok(selected);
    }
    if let Some(n) = query.value("n") {
        let n: u32 = n.parse().map_err(|_| PageError::Number)?;
        selected = selected.with("n", &n.to_string());
    }
    let filters = matches!(resource, Resource::Referrers(_));
    let filter = filters.then_some(("artifactType", MAX_TYPE));
    let cursors = CURSORS.map(|key| (key, MAX_CURSOR));
    for (key, most) in cursors.into_iter().chain(filter) {
        match query.value(key) {
            Some(value) if value.len() > most => return Err(PageError::Long { key, most }),
            Some(value) => selected = selected.with(key, value),
            None => {}
        }
    }
    Ok(selected)
}

/// A `Link` to a next page that cannot be requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its next page cannot be requested")]
pub struct NextPageError;

/// The query that requests the next page of `resource`, from the lines of `Link`; `None` if this is the last
/// page. The first usable link wins.
///
/// # Errors
/// [`NextPageError`] if there is a next page, but no link to it has a cursor: without one the list would look
/// complete, or never end.
pub fn next<'a>(
    resource: &Resource,
    links: impl IntoIterator<Item = &'a str>,
) -> Result<Option<Query>, NextPageError> {
    first_usable(links, |query| {
        let selected = selection(resource, &query).ok()?;
        let has_cursor = CURSORS.iter().any(|key| selected.value(key).is_some());
        has_cursor.then_some(selected)
    })
}

/// The whole query of the link to the next page; `None` if this is the last page. Scheme, host and path of the
/// link are ignored. The first usable link wins.
///
/// # Errors
/// [`NextPageError`] if there is a next page, but no link to it has a query that can be parsed.
pub fn next_query<'a>(
    links: impl IntoIterator<Item = &'a str>,
) -> Result<Option<Query>, NextPageError> {
    first_usable(links, |query| (!query.is_empty()).then_some(query))
}

/// The first query of a link to the next page that parses and that `usable` accepts.
fn first_usable<'a>(
    links: impl IntoIterator<Item = &'a str>,
    usable: impl Fn(Query) -> Option<Query>,
) -> Result<Option<Query>, NextPageError> {
    let mut urls = links.into_iter().flat_map(next_urls).peekable();
    if urls.peek().is_none() {
        return Ok(None);
    }
    let found = urls.find_map(|url| {
        let query = url.split_once('?').map_or("", |(_, query)| query);
        usable(Query::parse(query).ok()?)
    });
    found.map(Some).ok_or(NextPageError)
}

/// The targets of the links with `rel="next"` in one line of `Link` (RFC 8288 §3).
fn next_urls(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    let links = iter::from_fn(move || {
        let (url, parameters) = rest.split_once('<')?.1.split_once('>')?;
        let (parameters, following) = parameters.split_at(end_of_parameters(parameters));
        rest = following;
        Some((url, parameters))
    });
    links.filter_map(|(url, parameters)| is_next(parameters).then_some(url))
}

fn is_next(parameters: &str) -> bool {
    parameters.split(';').any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel")
            && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
    })
}

/// The end of one link's parameters: a comma outside quotes.
fn end_of_parameters(text: &str) -> usize {
    let mut quoted = false;
    let end = text.find(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    end.unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Algorithm, Digest};

    fn referrers() -> Resource {
        Resource::Referrers(Digest::of(Algorithm::Sha256, b"x"))
    }

    #[test]
    fn query_keys_that_select_a_page() {
        let long = |key: &str, n: usize| format!("{key}={}", "a".repeat(n));
        for (resource, query, expected) in [
            (Resource::Tags, "n=5&last=a", Ok("?n=5&last=a".to_owned())),
            (Resource::Tags, "last=a&x=y&n=005", Ok("?n=5&last=a".into())),
            (Resource::Tags, "artifactType=a", Ok(String::new())),
            (Resource::Tags, "N=5&Last=a", Ok(String::new())),
            (Resource::Tags, "n=-1", Err(PageError::Number)),
            (Resource::Tags, "n=4294967296", Err(PageError::Number)),
            (
                Resource::Tags,
                &long("last", 2049),
                Err(PageError::Long {
                    key: "last",
                    most: 2048,
                }),
            ),
            (
                referrers(),
                "artifactType=a%2Fb&n=1",
                Ok("?n=1&artifactType=a%2Fb".into()),
            ),
            (
                referrers(),
                &long("artifactType", 256),
                Err(PageError::Long {
                    key: "artifactType",
                    most: 255,
                }),
            ),
            (Resource::Uploads, "n=x&last=a", Ok(String::new())),
        ] {
            let query = Query::parse(query).expect("a query");
            let selected = selection(&resource, &query);
            let selected = selected.map(|selected| selected.render());
            assert_eq!(selected, expected, "{query:?}");
        }
    }

    #[test]
    fn next_page_from_links() {
        for (link, expected) in [
            (
                "</v2/a/tags/list?last=x&n=5>; rel=\"next\"",
                Ok(Some("?n=5&last=x")),
            ),
            (
                "<https://up.example/y?n=5&last=x%2By>; rel=next",
                Ok(Some("?n=5&last=x%2By")),
            ),
            ("<?next_page=a%3D>;REL=Next", Ok(Some("?next_page=a%3D"))),
            (
                "<?last=a>; title=\"x, <y>; rel=no\"; rel=\"prev next\"",
                Ok(Some("?last=a")),
            ),
            (
                "<?last=a>; rel=prev, <?last=b>; rel=next",
                Ok(Some("?last=b")),
            ),
            ("<?last=a>; rel=\"prev\"", Ok(None)),
            ("<?last=a>; title=\"rel=next\"", Ok(None)),
            ("<?last=a>", Ok(None)),
            ("garbage", Ok(None)),
            ("", Ok(None)),
            ("</v2/a/tags/list>; rel=next", Err(NextPageError)),
            ("<?page=2>; rel=next", Err(NextPageError)),
            ("<?last=a&last=b>; rel=next", Err(NextPageError)),
            ("<?last=%zz>; rel=next", Err(NextPageError)),
            (
                "<?last=%zz>; rel=next, <?last=b>; rel=next",
                Ok(Some("?last=b")),
            ),
            (
                "<?page=2>; rel=next, <?last=b>; rel=next",
                Ok(Some("?last=b")),
            ),
        ] {
            let found = next(&Resource::Tags, [link]);
            let found = found.map(|query| query.map(|query| query.render()));
            assert_eq!(
                found,
                expected.map(|next| next.map(str::to_owned)),
                "{link}"
            );
        }
        for (lines, expected) in [
            (
                ["<?last=a>; rel=prev", "<?last=b>; rel=next"],
                Ok(Some("?last=b")),
            ),
            (
                ["<?last=%zz>; rel=next", "<?last=b>; rel=next"],
                Ok(Some("?last=b")),
            ),
            (
                ["<?last=%zz>; rel=next", "<?last=b>; rel=prev"],
                Err(NextPageError),
            ),
        ] {
            let render = |next: Option<Query>| next.map(|query| query.render());
            let expected = expected.map(|next| next.map(str::to_owned));
            assert_eq!(next(&Resource::Tags, lines).map(render), expected);
            assert_eq!(next_query(lines).map(render), expected);
        }
    }

    proptest! {
        #[test]
        fn links_never_panic(line in "[<>;,=\"a-z ?&]{0,60}") {
            let _ = next(&Resource::Tags, [line.as_str()]);
        }

        /// A selection is its own selection, so the upstream gets exactly the query that was the cache key.
        #[test]
        fn selections_are_stable(n in 0_u32.., last in "\\PC{0,20}") {
            let query = Query::default().with("last", &last).with("n", &n.to_string());
            let selected = selection(&Resource::Tags, &query).expect("a page");
            prop_assert_eq!(selection(&Resource::Tags, &selected), Ok(selected));
        }
    }
}
