//! Responses of cached v1 registries. They have no header field of the upstream: neither its cookies nor its cache
//! directives can contradict the gateway's.

use http::{HeaderMap, StatusCode, header};

use super::super::cache_control::CacheControl;
use super::super::pull::requester;
use super::super::request_options::RequestOptions;
use super::super::respond::warn_if_stale;
use super::super::response::Response;
use super::super::session::Session;
use super::super::{Failure, Gateway, request_metrics, send};
use super::PermittedRequest;
use super::layer_range::{self, LayerPart};
use super::respond;
use super::route::ImageRequest;
use ::v1::{Claim, V1Answer};
use access::Login;
use oci::cache_status::{CacheStatus, Forward};
use oci::name::Registry;
use oci::v1::{ImageId, Part, Resource};

impl Gateway {
    /// Responds with a list or tag of a repository.
    pub(super) async fn v1_mirrored_named(
        &self,
        session: &mut Session,
        request: PermittedRequest<'_>,
    ) -> Result<(), Failure> {
        let PermittedRequest {
            named,
            login,
            permit,
        } = request;
        let v1 = &self.state.v1;
        let answer = v1.v1_named(permit, &named.resource).await?;
        let mut response =
            self.v1_json_head(&named.name.registry, answer.cache, CacheControl::NoCache)?;
        request_metrics::stale(answer.stale);
        warn_if_stale(&mut response, answer.stale)?;
        if named.resource == Resource::Images {
            self.v1_endpoints(session, &mut response, named, login)?;
        }
        Ok(send_json(session, response, answer).await?)
    }

    /// Responds with the JSON, ancestry or layer of an image.
    pub(super) async fn v1_mirrored_image(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        claim: Claim<'_>,
        login: &Login,
    ) -> Result<(), Failure> {
        let (v1, id) = (&self.state.v1, &image.id);
        let answer = match image.part {
            Part::Json => v1.v1_image_json(claim, id).await?,
            Part::Ancestry => v1.v1_ancestry(claim, id).await?,
            _ => return self.v1_mirrored_layer(session, id, claim, login).await,
        };
        let registry = claim.registry();
        let mut response = self.v1_json_head(registry, answer.cache, CacheControl::Public)?;
        if let Some(size) = answer.layer_size {
            response.insert_header("X-Docker-Size", size)?;
        }
        if let Some(checksum) = answer.checksum.as_deref() {
            response.insert_header("X-Docker-Checksum-Payload", checksum)?;
        }
        Ok(send_json(session, response, answer).await?)
    }

    async fn v1_mirrored_layer(
        &self,
        session: &mut Session,
        id: &ImageId,
        claim: Claim<'_>,
        login: &Login,
    ) -> Result<(), Failure> {
        let (v1, registry) = (&self.state.v1, claim.registry());
        let request = session.req_header();
        let options = RequestOptions::of(&request.method, &request.headers);
        if options.head {
            let (size, cache) = self.v1_layer_length(id, claim).await?;
            let response = self.v1_layer_head(registry, None, cache)?;
            return Ok(send::head(session, response, size).await?);
        }
        let answer = v1.v1_layer(claim, id, requester(session, login)).await?;
        let (size, cache) = (answer.size, answer.cache);
        request_metrics::blob(cache);
        let ranges = layer_range::ranges(&options);
        let part = match layer_range::select(ranges.as_deref(), size) {
            Ok(part) => part,
            Err(range) => return Ok(respond::unsatisfiable(session, range, cache).await?),
        };
        let response = self.v1_layer_head(registry, part, cache)?;
        let span = part.map(|part| part.span);
        let reader = answer.open(span).await?;
        let length = span.map(|span| span.len()).or(size);
        Ok(send::stream(session, response, length, reader).await?)
    }

    /// The size of a layer for HEAD, which never downloads it.
    async fn v1_layer_length(
        &self,
        id: &ImageId,
        claim: Claim<'_>,
    ) -> Result<(Option<u64>, CacheStatus), Failure> {
        let v1 = &self.state.v1;
        if let Some(size) = v1.v1_cached_layer_size(claim, id).await? {
            return Ok((Some(size), CacheStatus::HIT));
        }
        // The image's JSON has it as well, and clients request that anyway.
        let json = v1.v1_image_json(claim, id).await?;
        if let Some(size) = json.layer_size {
            return Ok((Some(size), json.cache));
        }
        let size = v1.v1_layer_size(claim, id, &HeaderMap::new()).await?;
        Ok((size, CacheStatus::forward(Forward::UriMiss)))
    }

    /// The head of a response with stored JSON; `public` is its `Cache-Control` if anonymous clients may read it.
    fn v1_json_head(
        &self,
        registry: &Registry,
        cache: CacheStatus,
        public: CacheControl,
    ) -> pingora_core::Result<Response> {
        let mut response = Response::new(StatusCode::OK, cache)?;
        response.set_json(self.v1_cache_control(registry, public))?;
        Ok(response)
    }

    /// The head of a response with a stored layer or a part of it.
    fn v1_layer_head(
        &self,
        registry: &Registry,
        part: Option<LayerPart>,
        cache: CacheStatus,
    ) -> pingora_core::Result<Response> {
        let cache_control = self.v1_cache_control(registry, CacheControl::Public);
        let mut response = layer_range::response(part, cache, cache_control)?;
        response.insert_header(header::ACCEPT_RANGES, "bytes")?;
        Ok(response)
    }

    /// `public` if anonymous clients may read the registry.
    fn v1_cache_control(&self, registry: &Registry, public: CacheControl) -> CacheControl {
        if self.state.policy.is_open(registry) {
            public
        } else {
            CacheControl::PrivateNoStore
        }
    }
}

/// Sends stored JSON, or its head alone.
async fn send_json(
    session: &mut Session,
    response: Response,
    answer: V1Answer,
) -> pingora_core::Result<()> {
    send::whole(session, response, answer.bytes).await
}
