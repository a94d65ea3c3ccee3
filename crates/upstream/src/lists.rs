//! Lists of a repository, a page at a time: its tags, and the referrers of a manifest.

use bytes::Bytes;
use http::{Method, header};

use super::request::RequestKind;
use super::{MAX_PAGE, Upstream, UpstreamError, UpstreamRequest, WholeResponse};
use oci::page;
use oci::v2::{Endpoint, Query, Resource};

/// A page of tags or referrers.
#[derive(Clone, Debug)]
pub struct Page {
    /// The body, verbatim: JSON.
    pub bytes: Bytes,
    /// Its `Content-Type`.
    pub media_type: Option<String>,
    /// The query of the next page; `None`: this is the last.
    pub next: Option<Query>,
    /// `OCI-Filters-Applied`
    pub filters_applied: Option<String>,
}

impl Upstream {
    /// Fetches a page of tags or referrers of at most 8 MiB.
    ///
    /// # Errors
    /// [`UpstreamError::NoReferrers`] where the registry has no referrers API, [`UpstreamError::Protocol`] for an unusable
    /// link to the next page; any other refusal or failure of the upstream.
    pub async fn page(&self, endpoint: &Endpoint, query: &Query) -> Result<Page, UpstreamError> {
        let request = self.page_request(endpoint, query);
        let WholeResponse { headers, bytes, .. } = self.fetch_whole(&request, MAX_PAGE).await?;
        let links = headers.get_all(header::LINK).iter();
        let links = links.filter_map(|link| link.to_str().ok());
        let next = page::next(&endpoint.resource, links)
            .map_err(|_| UpstreamError::Protocol("its link to the next page is unusable"))?;
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        Ok(Page {
            media_type: text("content-type"),
            next,
            filters_applied: text("oci-filters-applied"),
            bytes,
        })
    }

    pub(super) fn page_request(&self, endpoint: &Endpoint, query: &Query) -> UpstreamRequest {
        let path = endpoint.path() + &query.render();
        let mut request = self.pull(Method::GET, path, &endpoint.repository);
        if let Resource::Referrers(_) = endpoint.resource {
            request.kind = RequestKind::Referrers;
        }
        request
    }
}
