//! Images of the v2 API for v1 clients. A registry's own v1 API comes first; images that it does not have are converted.

use std::time::Duration;

use http::{Method, StatusCode, header};

use super::super::error_response::ErrorResponse;
use super::super::session::Session;
use super::super::{Failure, Gateway, send};
use super::PermittedRequest;
use super::respond;
use super::route::{ImageRequest, RepositoryRequest, serves_v1};
use ::v1::{BridgeError, IdScope, V1ImageRecord, V1Pass};
use access::{Action, Permit};
use mirror::{MirrorError, ResourceKind};
use oci::error::ErrorCode;
use oci::name::{Registry, RepositoryName};
use oci::v1::{Part, Resource};
use oci::v2_to_v1::ClientPlatform;

/// How long the JSON of an image waits for the size of its layer, which is optional.
const SIZE_TIMEOUT: Duration = Duration::from_secs(2);

impl From<BridgeError> for Failure {
    fn from(failure: BridgeError) -> Self {
        let status = match &failure {
            BridgeError::Mirror(error) => return Self::Mirror(error.clone()),
            BridgeError::Image(_) => StatusCode::NOT_FOUND,
            BridgeError::Archive(_) => StatusCode::BAD_GATEWAY,
            BridgeError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        if status.is_server_error() {
            tracing::warn!(
                error = telemetry::chain(&failure),
                "cannot serve an image to a v1 client"
            );
        }
        let refusal =
            ErrorResponse::with_status(status, ErrorCode::ManifestUnknown, failure.to_string());
        refusal.into()
    }
}

impl Gateway {
    /// Whether a request can be answered from v2 images.
    fn v1_may_bridge(&self, named: &RepositoryRequest) -> bool {
        let read = matches!(
            named.resource,
            Resource::Images | Resource::Tags | Resource::Tag(_)
        );
        read && named.action == Action::Pull && self.state.v1.bridges_v2(&named.name.registry)
    }

    /// Whether a registry itself has a v1 API.
    fn v1_is_native(&self, registry: &Registry) -> bool {
        let mut entries = self.state.table.resolver.entries.iter();
        entries.any(|entry| entry.registry == *registry && entry.v1)
    }

    /// Responds to a request about a repository: from the registry's v1 API or, where that does not know the name,
    /// from its v2 images.
    pub(super) async fn v1_respond_named(
        &self,
        session: &mut Session,
        request: PermittedRequest<'_>,
    ) -> Result<(), Failure> {
        let PermittedRequest { named, permit, .. } = request;
        if !self.v1_may_bridge(named) {
            return if self.v1_is_native(&named.name.registry) {
                self.v1_pass_named(session, request).await
            } else {
                Err(unknown(ResourceKind::Repository).into())
            };
        }
        if self.v1_is_native(&named.name.registry) {
            match self.v1_pass_named(session, request).await {
                Err(Failure::Mirror(MirrorError::Unknown { .. })) => {}
                Err(Failure::Mirror(error)) => {
                    let (scope, platform) = self.v1_view(session, permit);
                    let v1 = &self.state.v1;
                    let before = v1.issued_before(&error, permit, scope, &platform);
                    if !before.await {
                        return Err(error.into());
                    }
                    return self.v1_bridge(session, request).await;
                }
                answered => return answered,
            }
            if matches!(named.resource, Resource::Tag(_))
                && self.v1_has_repository(session, permit).await?
            {
                return Err(tag_unknown());
            }
        }
        self.v1_bridge(session, request).await
    }

    /// Whether to answer from v2 images, since the v1 API has none.
    pub(super) fn v1_falls_back(&self, named: &RepositoryRequest, status: StatusCode) -> bool {
        status == StatusCode::NOT_FOUND && self.v1_may_bridge(named)
    }

    /// Whether the registry's v1 API has a repository.
    async fn v1_has_repository(&self, session: &Session, permit: &Permit) -> Result<bool, Failure> {
        let pass = V1Pass {
            method: Method::GET,
            headers: super::forwarded_headers::upstream_headers(session),
            body: None,
        };
        let tags = self.state.v1.v1_repository(permit, &Resource::Tags, pass);
        Ok(tags.await?.status == StatusCode::OK)
    }

    /// The scope of image ids in the registry, and the platform of the client.
    fn v1_view(&self, session: &Session, permit: &Permit) -> (IdScope, ClientPlatform) {
        let scope = IdScope::of(self.state.policy.is_open(permit.registry()));
        (scope, ClientPlatform::of_agent(agent(session)))
    }

    /// Responds with v1 images derived from v2 images.
    async fn v1_bridge(
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
        let (scope, platform) = self.v1_view(session, permit);
        let mut response = respond::gateway_response(StatusCode::OK)?;
        let body = match &named.resource {
            Resource::Images => {
                v1.bridged_repository(permit).await?;
                // Clients complete it from the tags.
                self.v1_endpoints(session, &mut response, named, login)?;
                "[]".to_owned()
            }
            Resource::Tag(tag) => {
                let id = v1.bridged_tag(permit, scope, tag, &platform).await;
                let id = id.map_err(|error| match error {
                    MirrorError::Unknown { .. } => tag_unknown(),
                    error => error.into(),
                })?;
                serde_json::json!(id.as_str()).to_string()
            }
            _ => {
                let tags = v1.bridged_tags(permit, scope, &platform).await?;
                let tags = tags
                    .iter()
                    .map(|(tag, id)| (tag.clone(), id.as_str().into()));
                serde_json::Value::Object(tags.collect()).to_string()
            }
        };
        Ok(send::whole(session, response, body.into()).await?)
    }

    /// Responds with a converted image of a permit's repository; `false` if none has this id.
    pub(super) async fn v1_bridged(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        permit: &Permit,
    ) -> Result<bool, Failure> {
        let registry = permit.registry();
        if !is_read(image) || !self.state.v1.bridges_v2(registry) {
            return Ok(false);
        }
        if let Some(open) = self.state.policy.open(registry) {
            return self
                .v1_bridged_publicly(session, image, open.registry())
                .await;
        }
        let known = self.state.v1.bridged_id(permit.name(), &image.id);
        let Some(known) = known.await? else {
            return Ok(false);
        };
        Box::pin(self.v1_image_of(session, image, permit, IdScope::Repository, &known)).await?;
        Ok(true)
    }

    /// [`Gateway::v1_bridged`] without a repository: from the registries that anonymous clients may read.
    pub(super) async fn v1_bridged_by_id(
        &self,
        session: &mut Session,
        image: &ImageRequest,
    ) -> Result<bool, Failure> {
        if !is_read(image) {
            return Ok(false);
        }
        for registry in self.v1_registries(session)? {
            let answers = self.state.policy.is_open(&registry)
                && self.v1_bridged_publicly(session, image, &registry).await?;
            if answers {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn v1_bridged_publicly(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        registry: &Registry,
    ) -> Result<bool, Failure> {
        let v1 = &self.state.v1;
        if !v1.bridges_v2(registry) {
            return Ok(false);
        }
        let Some(known) = v1.bridged_id(registry, &image.id).await? else {
            return Ok(false);
        };
        let Ok(repository) = known.repository.parse() else {
            return Ok(false);
        };
        let anonymous = access::Caller::Anonymous;
        let name = RepositoryName::new(registry, &repository);
        let permit = self.v1_decide(&anonymous, Action::Pull, &name)?;
        Box::pin(self.v1_image_of(session, image, &permit, IdScope::Registry, &known)).await?;
        Ok(true)
    }

    /// The registries that a request without a repository may be about.
    fn v1_registries(&self, session: &Session) -> Result<Vec<Registry>, Failure> {
        let resolver = &self.state.table.resolver;
        if let Some(entry) = resolver
            .fixed(self.name_context(session, None))
            .map_err(ErrorResponse::from)?
        {
            return Ok(vec![entry.registry.clone()]);
        }
        let entries = resolver.entries.iter().filter(|entry| serves_v1(entry));
        Ok(entries.map(|entry| entry.registry.clone()).collect())
    }

    async fn v1_image_of(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        permit: &Permit,
        scope: IdScope,
        known: &V1ImageRecord,
    ) -> Result<(), Failure> {
        let v1 = &self.state.v1;
        let bridged = v1.bridged_image(permit, &image.id, known).await?;
        let mut response = respond::gateway_response(StatusCode::OK)?;
        let body = match image.part {
            Part::Layer => {
                return self
                    .v1_bridged_layer(session, permit, scope, &bridged)
                    .await;
            }
            Part::Ancestry => {
                v1.issue_ancestry(permit, scope, known, &bridged).await;
                serde_json::json!(bridged.ancestry()).to_string()
            }
            _ => {
                let layer = v1.bridged_layer(permit, &bridged);
                let layer = tokio::time::timeout(SIZE_TIMEOUT, layer).await;
                // Its errors are reported when it is requested.
                let size = layer.ok().and_then(|layer| layer.ok()?.size());
                if let Some(size) = size {
                    response.insert_header("X-Docker-Size", size)?;
                }
                bridged.json().to_owned()
            }
        };
        Ok(send::whole(session, response, body.into()).await?)
    }
}

fn is_read(image: &ImageRequest) -> bool {
    image.action == Action::Pull && matches!(image.part, Part::Json | Part::Ancestry | Part::Layer)
}

fn agent(session: &Session) -> &str {
    let agent = session.req_header().headers.get(header::USER_AGENT);
    agent
        .and_then(|agent| agent.to_str().ok())
        .unwrap_or_default()
}

/// The error of an unknown resource.
pub fn unknown(kind: ResourceKind) -> MirrorError {
    MirrorError::Unknown {
        kind,
        remembered: false,
    }
}

fn tag_unknown() -> Failure {
    ErrorResponse::with_status(
        StatusCode::NOT_FOUND,
        ErrorCode::ManifestUnknown,
        "Tag not found",
    )
    .into()
}
