//! Images that only the v2 API has, for clients of v1. A registry's own v1 side comes first: what it does not
//! know is made up.

use std::time::Duration;

use http::{Method, StatusCode, header};

use super::super::error_response::ErrorResponse;
use super::super::session::Session;
use super::super::{Gateway, send};
use super::route::{ImageRequest, RepositoryRequest, speaks_v1};
use super::{Failed, respond};
use ::v1::{BridgeError, IdScope, V1ImageRecord, V1Pass};
use access::{Action, Login, Permit};
use mirror::{MirrorError, ResourceKind};
use oci::error::ErrorCode;
use oci::name::{Registry, RepositoryName};
use oci::v1::{Part, Resource};
use oci::v2_to_v1::ClientPlatform;

/// How long a description waits to say how long its layer is. It may leave that out.
const SIZE_PATIENCE: Duration = Duration::from_secs(2);

impl From<BridgeError> for Failed {
    fn from(failure: BridgeError) -> Self {
        let status = match &failure {
            BridgeError::Mirror(error) => return Self::Mirror(error.clone()),
            BridgeError::Image(_) => StatusCode::NOT_FOUND,
            BridgeError::Archive(_) => StatusCode::BAD_GATEWAY,
            BridgeError::Keep(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        if status.is_server_error() {
            tracing::warn!(
                error = telemetry::chain(&failure),
                "an image cannot be shown to a client of v1"
            );
        }
        let refusal =
            ErrorResponse::with_status(status, ErrorCode::ManifestUnknown, failure.to_string());
        refusal.into()
    }
}

impl Gateway {
    /// Whether a request is one that is answered for images of v2.
    fn v1_may_bridge(&self, named: &RepositoryRequest) -> bool {
        let read = matches!(
            named.resource,
            Resource::Images | Resource::Tags | Resource::Tag(_)
        );
        read && named.action == Action::Pull && self.state.v1.bridges_v2(&named.name.registry)
    }

    /// Whether a registry itself speaks v1.
    fn v1_has_own(&self, registry: &Registry) -> bool {
        let mut entries = self.state.table.resolver.entries.iter();
        entries.any(|entry| entry.registry == *registry && entry.v1)
    }

    /// Answers for something of a repository: as the registry's v1 side does, or where that does not know
    /// the name, from what its v2 side has.
    pub(super) async fn v1_either(
        &self,
        session: &mut Session,
        named: &RepositoryRequest,
        login: &Login,
        permit: &Permit,
    ) -> Result<(), Failed> {
        if !self.v1_may_bridge(named) {
            return if self.v1_has_own(&named.name.registry) {
                self.v1_pass_named(session, named, login, permit).await
            } else {
                Err(unknown(ResourceKind::Repository).into())
            };
        }
        if self.v1_has_own(&named.name.registry) {
            match self.v1_pass_named(session, named, login, permit).await {
                Err(Failed::Mirror(MirrorError::Unknown { .. })) => {}
                Err(Failed::Mirror(error)) => {
                    let scope = IdScope::of(self.state.policy.is_open(permit.registry()));
                    let platform = ClientPlatform::of_agent(agent(session));
                    let v1 = &self.state.v1;
                    let before = v1.issued_before(&error, permit, scope, &platform);
                    if !before.await {
                        return Err(error.into());
                    }
                    return self.v1_bridge(session, named, login, permit).await;
                }
                answered => return answered,
            }
            if matches!(named.resource, Resource::Tag(_)) && self.v1_knows(session, permit).await? {
                return Err(tag_unknown());
            }
        }
        self.v1_bridge(session, named, login, permit).await
    }

    /// Whether what the v1 side says of this request is to be told to the client, or what v2 has.
    pub(super) fn v1_is_elsewhere(&self, named: &RepositoryRequest, status: StatusCode) -> bool {
        status == StatusCode::NOT_FOUND && self.v1_may_bridge(named)
    }

    /// Whether the registry's v1 side has a repository.
    async fn v1_knows(&self, session: &Session, permit: &Permit) -> Result<bool, Failed> {
        let pass = V1Pass {
            method: Method::GET,
            headers: super::pass_through::headers_up(session),
            body: None,
        };
        let tags = self.state.v1.v1_repository(permit, &Resource::Tags, pass);
        Ok(tags.await?.status == StatusCode::OK)
    }

    async fn v1_bridge(
        &self,
        session: &mut Session,
        named: &RepositoryRequest,
        login: &Login,
        permit: &Permit,
    ) -> Result<(), Failed> {
        let v1 = &self.state.v1;
        let scope = IdScope::of(self.state.policy.is_open(permit.registry()));
        let platform = ClientPlatform::of_agent(agent(session));
        let mut response = respond::own(StatusCode::OK)?;
        let body = match &named.resource {
            Resource::Images => {
                v1.bridged_repository(permit).await?;
                // Clients fill it from the tags.
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
        let head = session.req_header().method == Method::HEAD;
        Ok(send::whole(session, response, head, body.into()).await?)
    }

    /// Answers for an image that was made up here, with a right to its repository; `false` where there is
    /// none of this id.
    pub(super) async fn v1_bridged(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        permit: &Permit,
    ) -> Result<bool, Failed> {
        let registry = permit.registry();
        if !is_read(image) || !self.state.v1.bridges_v2(registry) {
            return Ok(false);
        }
        if let Some(open) = self.state.policy.open(registry) {
            return self
                .v1_bridged_publicly(session, image, open.registry())
                .await;
        }
        let repository = Some(permit.repository());
        let known = self
            .state
            .v1
            .bridged_id(registry, repository, &image.id)
            .await?;
        let Some(known) = known else {
            return Ok(false);
        };
        Box::pin(self.v1_image_of(session, image, permit, IdScope::Repository, &known)).await?;
        Ok(true)
    }

    /// [`Gateway::v1_bridged`] for who names no repository: of the registries that everybody may read.
    pub(super) async fn v1_bridged_by_id(
        &self,
        session: &mut Session,
        image: &ImageRequest,
    ) -> Result<bool, Failed> {
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
    ) -> Result<bool, Failed> {
        let v1 = &self.state.v1;
        if !v1.bridges_v2(registry) {
            return Ok(false);
        }
        let Some(known) = v1.bridged_id(registry, None, &image.id).await? else {
            return Ok(false);
        };
        let Ok(repository) = known.repository.parse() else {
            return Ok(false);
        };
        let nobody = access::Caller::Anonymous;
        let name = RepositoryName::new(registry, &repository);
        let permit = self.v1_decide(&nobody, Action::Pull, &name)?;
        Box::pin(self.v1_image_of(session, image, &permit, IdScope::Registry, &known)).await?;
        Ok(true)
    }

    /// The registries that a request without a name may mean.
    fn v1_registries(&self, session: &Session) -> Result<Vec<Registry>, Failed> {
        let resolver = &self.state.table.resolver;
        if let Some(entry) = resolver
            .fixed(self.name_context(session, None))
            .map_err(ErrorResponse::from)?
        {
            return Ok(vec![entry.registry.clone()]);
        }
        let speaking = resolver.entries.iter().filter(|entry| speaks_v1(entry));
        Ok(speaking.map(|entry| entry.registry.clone()).collect())
    }

    async fn v1_image_of(
        &self,
        session: &mut Session,
        image: &ImageRequest,
        permit: &Permit,
        scope: IdScope,
        known: &V1ImageRecord,
    ) -> Result<(), Failed> {
        let v1 = &self.state.v1;
        let made = v1.bridged_image(permit, &image.id, known).await?;
        let head = session.req_header().method == Method::HEAD;
        let mut response = respond::own(StatusCode::OK)?;
        let body = match image.part {
            Part::Layer => return self.v1_made_layer(session, permit, scope, &made).await,
            Part::Ancestry => {
                v1.issue_ancestry(permit, scope, known, &made).await;
                serde_json::json!(made.ancestry()).to_string()
            }
            _ => {
                let layer = v1.bridged_layer(permit, &made);
                let layer = tokio::time::timeout(SIZE_PATIENCE, layer).await;
                // What is wrong with it is said where it is asked for.
                let size = layer.ok().and_then(|layer| layer.ok()?.size());
                if let Some(size) = size {
                    response.insert_header("X-Docker-Size", size)?;
                }
                made.json().to_owned()
            }
        };
        Ok(send::whole(session, response, head, body.into()).await?)
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

/// What is not there.
pub fn unknown(kind: ResourceKind) -> MirrorError {
    MirrorError::Unknown {
        kind,
        remembered: false,
    }
}

fn tag_unknown() -> Failed {
    ErrorResponse::with_status(
        StatusCode::NOT_FOUND,
        ErrorCode::ManifestUnknown,
        "Tag not found",
    )
    .into()
}
