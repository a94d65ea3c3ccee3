//! Answers of registries of which everything is kept: what the mirror has, as HTTP. No header of the upstream's
//! is among them, so that neither its cookies nor what it says of caches can contradict ours.

use http::{HeaderMap, StatusCode, header};

use super::super::respond::{RequestOptions, warn_of_age};
use super::super::response::Response;
use super::super::session::Session;
use super::super::{Gateway, request_metrics, send};
use super::Failed;
use super::respond;
use super::route::{ImageRequest, RepositoryRequest};
use ::v1::{Claim, V1Answer};
use access::{Login, Permit};
use oci::cache_status::{CacheStatus, Forward};
use oci::name::Registry;
use oci::range::{self, Selection};
use oci::v1::{ImageId, Part, Resource};

/// How long others may keep an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// By an image's id.
    Forever,
    /// It may be another one at any time.
    Moving,
}

impl Life {
    /// `open` is whether answers are the same for everybody.
    const fn cache_control(self, open: bool) -> &'static str {
        match (open, self) {
            (false, _) => "private, no-store",
            (true, Self::Forever) => "public, max-age=31536000",
            (true, Self::Moving) => "no-cache",
        }
    }
}

impl Gateway {
    /// Answers with a list or tag of a repository.
    pub(super) async fn v1_mirrored_named(
        &self,
        session: &mut Session,
        named: &RepositoryRequest,
        login: &Login,
        permit: &Permit,
    ) -> Result<(), Failed> {
        let v1 = &self.state.v1;
        let answer = v1.v1_named(permit, &named.resource).await?;
        let mut response = self.v1_mirrored(&named.name.registry, answer.cache, Life::Moving)?;
        request_metrics::stale(answer.stale);
        warn_of_age(&mut response, answer.stale)?;
        if named.resource == Resource::Images {
            self.v1_endpoints(session, &mut response, named, login)?;
        }
        Ok(v1_whole(session, response, answer).await?)
    }

    /// Answers with a description or an ancestry, or with a layer.
    pub(super) async fn v1_mirrored_image(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
    ) -> Result<(), Failed> {
        let (v1, id) = (&self.state.v1, &image.id);
        let answer = match image.part {
            Part::Json => v1.v1_image_json(claim, id).await?,
            Part::Ancestry => v1.v1_ancestry(claim, id).await?,
            _ => return self.v1_mirrored_layer(session, id, claim).await,
        };
        let registry = claim.registry();
        let mut response = self.v1_mirrored(registry, answer.cache, Life::Forever)?;
        if let Some(size) = answer.layer_size {
            response.insert_header("X-Docker-Size", size)?;
        }
        if let Some(checksum) = answer.checksum.as_deref() {
            response.insert_header("X-Docker-Checksum-Payload", checksum)?;
        }
        Ok(v1_whole(session, response, answer).await?)
    }

    async fn v1_mirrored_layer(
        &self,
        session: &mut Session,
        id: &ImageId,
        claim: Claim<'_>,
    ) -> Result<(), Failed> {
        let (v1, registry) = (&self.state.v1, claim.registry());
        let request = session.req_header();
        let options = RequestOptions::of(&request.method, &request.headers);
        if options.head {
            let (size, cache) = self.v1_layer_length(id, claim).await?;
            let response = self.v1_mirrored_bytes(registry, StatusCode::OK, cache)?;
            return Ok(send::head(session, response, size).await?);
        }
        let answer = v1.v1_layer(claim, id).await?;
        let (size, cache) = (answer.size, answer.cache);
        request_metrics::blob(cache);
        // Layers have no validator here, so that a condition never holds.
        let ranges = options
            .range
            .as_deref()
            .filter(|_| options.if_range.is_none())
            .and_then(range::parse);
        let selected = size.zip(ranges);
        let selected = selected.map(|(size, ranges)| (size, range::select(Some(&ranges), size)));
        let span = match selected {
            Some((size, Selection::Unsatisfiable)) => {
                return Ok(respond::nothing_left(session, size, cache).await?);
            }
            Some((size, Selection::Part(span))) => Some((span, size)),
            // Several parts are no part of this API, and of an unknown length there is only the whole.
            Some((_, Selection::Whole | Selection::Parts(_))) | None => None,
        };
        let Some((span, size)) = span else {
            let response = self.v1_mirrored_bytes(registry, StatusCode::OK, cache)?;
            let reader = answer.open(None).await?;
            return Ok(send::stream(session, response, size, reader).await?);
        };
        let mut response = self.v1_mirrored_bytes(registry, StatusCode::PARTIAL_CONTENT, cache)?;
        response.insert_header(header::CONTENT_RANGE, span.content_range(size))?;
        let reader = answer.open(Some(span)).await?;
        Ok(send::stream(session, response, Some(span.len()), reader).await?)
    }

    /// A HEAD never downloads: what is not here is asked for like that.
    async fn v1_layer_length(
        &self,
        id: &ImageId,
        claim: Claim<'_>,
    ) -> Result<(Option<u64>, CacheStatus), Failed> {
        let v1 = &self.state.v1;
        if let Some(size) = v1.v1_cached_layer_size(claim, id).await? {
            return Ok((Some(size), CacheStatus::HIT));
        }
        // The description says it as well, and will be asked for anyway.
        let json = v1.v1_image_json(claim, id).await?;
        if let Some(size) = json.layer_size {
            return Ok((Some(size), json.cache));
        }
        let size = v1.v1_layer_size(claim, id, &HeaderMap::new()).await?;
        Ok((size, CacheStatus::forward(Forward::UriMiss)))
    }

    fn v1_mirrored(
        &self,
        registry: &Registry,
        cache: CacheStatus,
        life: Life,
    ) -> pingora_core::Result<Response> {
        let mut response = Response::new(StatusCode::OK, cache)?;
        response.insert_header(header::CONTENT_TYPE, "application/json")?;
        let open = self.state.policy.is_open(registry);
        response.insert_header(header::CACHE_CONTROL, life.cache_control(open))?;
        Ok(response)
    }

    fn v1_mirrored_bytes(
        &self,
        registry: &Registry,
        status: StatusCode,
        cache: CacheStatus,
    ) -> pingora_core::Result<Response> {
        let mut response = self.v1_mirrored(registry, cache, Life::Forever)?;
        response.set_status(status)?;
        response.insert_header(header::CONTENT_TYPE, "application/octet-stream")?;
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        Ok(response)
    }
}

/// Sends a whole body, or its head alone.
async fn v1_whole(
    session: &mut Session,
    response: Response,
    answer: V1Answer,
) -> pingora_core::Result<()> {
    let head = session.req_header().method == http::Method::HEAD;
    send::whole(session, response, head, answer.bytes).await
}
