//! A registry's catalogue (`/v2/_catalog`, distribution's "Listing Repositories"), a page at a time.

use http::{Method, header};
use serde::Deserialize;

use super::request::{AuthSource, Identity};
use super::{MAX_PAGE, Upstream, UpstreamError, WholeResponse};
use oci::page::next_query;
use oci::v2::Query;

/// A page of repository names, verbatim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CataloguePage {
    /// Repository names, in the registry's order; not all of them need be valid.
    pub names: Vec<String>,
    /// The query of the next page; `None`: this was the last.
    pub next: Option<Query>,
}

#[derive(Deserialize)]
struct Body {
    /// Some registries write `null` for none.
    repositories: Option<Vec<String>>,
}

impl Upstream {
    /// Fetches a page of at most 8 MiB; as `identity` may read it.
    ///
    /// # Errors
    /// [`UpstreamError::Protocol`] for a page that cannot be read; any other refusal or failure of the upstream.
    pub async fn catalogue(
        &self,
        query: &Query,
        identity: Identity,
    ) -> Result<CataloguePage, UpstreamError> {
        let path = format!("/v2/_catalog{}", query.render());
        let mut request = self.request(Method::GET, path, "registry:catalog:*".to_owned());
        if identity == Identity::Anonymous {
            request.auth = AuthSource::Anonymous;
        }
        let WholeResponse { headers, bytes, .. } = self.fetch_whole(&request, MAX_PAGE).await?;
        let body: Body = serde_json::from_slice(&bytes)
            .map_err(|_| UpstreamError::Protocol("its catalogue cannot be read"))?;
        let links = headers.get_all(header::LINK).iter();
        let next = next_page(links.filter_map(|link| link.to_str().ok()));
        Ok(CataloguePage {
            names: body.repositories.unwrap_or_default(),
            next,
        })
    }
}

/// The query of the next page. Without a link that has a usable query the list ends.
fn next_page<'a>(links: impl Iterator<Item = &'a str>) -> Option<Query> {
    next_query(links).ok()?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_next_page() {
        for (link, next) in [
            (
                "</v2/_catalog?last=a%2Fb&n=5>; rel=\"next\"",
                Some("?last=a%2Fb&n=5"),
            ),
            (
                "<https://up.example/v2/_catalog?n=5&last=x>; rel=next",
                Some("?n=5&last=x"),
            ),
            ("</v2/_catalog?last=a>; rel=\"prev\"", None),
            ("</v2/_catalog>; rel=\"next\"", None),
            ("garbage", None),
        ] {
            let found = next_page([link].into_iter()).map(|query| query.render());
            assert_eq!(found.as_deref(), next, "{link}");
        }
    }
}
